"""Runs probes inside the model, to return their probabilities or to trigger edits."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

import jaxasr
from interventions.probes.bank import Bank
from interventions.probes.directions import ProbeChoice
from jaxasr import pytrees, sites
from jaxasr.cache import Memory
from jaxasr.model import Whisper
from jaxasr.sites import SiteSpec
from jaxasr.taps import At, Edit, Edits, Readout


@pytrees.dataclass
class Probe:
    """A probe of raw activations x, with logits = weights @ x + bias.

    A probe is a pytree of arrays. Another probe of the same size compiles nothing.

    Attributes:
        weights: float [K, D].
        bias: float [K].

    Example:
        ```python
        import numpy as np

        import interventions
        from interventions.probes import monitor

        y = np.repeat(["F", "M"], 20)
        X = np.random.default_rng(0).normal(size=(2, 40, 6)) + 3 * (y == "F")[:, None]
        bank = interventions.fit_probes(X, y, folds=2)
        probe = monitor.Probe.of(bank, layer=1)
        probe(X[1])  # [40, 2]: probabilities of F and M
        ```
    """

    weights: Float[Array, "K D"]
    bias: Float[Array, "K"]

    @classmethod
    def of(cls, bank: Bank, layer: Any, **choice: Unpack[ProbeChoice]) -> "Probe":
        """Makes the probe of one layer of a bank, averaged over folds and seeds.

        Args:
            bank: fitted probes, from `fit_probes`.
            layer: label of the layer that the probe was fitted on.
            choice: `penalty`, `fold`, `seed`, `site`; see `directions.ProbeChoice`.

        Returns:
            The probe.

        Raises:
            ValueError: a label is not in the bank, or a penalty or site is missing.
        """
        weights, bias = bank.affine(layer, **choice)
        return cls(jnp.asarray(weights, jnp.float32), jnp.asarray(bias, jnp.float32))

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B K"]:
        """Computes class probabilities, or the value if the probe has a single output."""
        logits = x.astype(jnp.float32) @ self.weights.T + self.bias
        return logits if len(self.bias) == 1 else jax.nn.softmax(logits)


def readout(probe: Probe, site: str, name: str = "probe") -> Readout:
    """Makes a readout of the probe's probabilities in every layer.

    The probabilities are computed inside the layer loop, so that activations are not stacked in
    memory.

    Args:
        probe: the probe.
        site: the site whose activations the probe reads.
        name: key of the probabilities in the activations that `encode` and `decode` return.

    Returns:
        A readout that returns {name: [L, B, T, K]}.

    Example:
        ```python
        import jax.numpy as jnp

        import jaxasr
        from interventions.probes import monitor

        asr = jaxasr.load("tiny.en")
        probe = monitor.Probe(jnp.zeros((2, 384)), jnp.zeros(2))
        audio = jaxasr.load_audio("experiments/assets/demo.flac")
        mel = jaxasr.log_mel(audio, asr.config.n_mels)[None]
        readout = monitor.readout(probe, "encoder.resid_post")
        _, acts = asr.model.encode(mel, readout=readout)
        assert acts["probe"].shape == (4, 1, 1500, 2)
        ```
    """
    return jaxasr.reduce(name, site, probe)


def generate_with_probe(
    model: Whisper,
    memory: Memory,
    prompt: Int[Array, "B T0"],
    probe: Probe,
    *,
    site: str,
    layer: int | None = None,
    edits: Edits | None = None,
    **options: Any,
) -> tuple[jaxasr.Generation, Float[Array, "B T K"]]:
    """Generates text, and computes the probe's probabilities at every generated token.

    The activations come from one teacher-forced pass over the generated tokens, with the same
    edits. They are equal to those of cached generation, except for rounding.

    Args:
        model: the model, such as `asr.model`.
        memory: memory from `model.encode`.
        prompt: prompt tokens, int [B, T0].
        probe: the probe.
        site: the decoder site whose activations the probe reads.
        layer: index of the layer that the probe reads, at sites with layers.
        edits: edits of decoder sites.
        options: further options of `jaxasr.generate`, such as `max_new_tokens`.

    Returns:
        The generation, and probabilities [B, T, K] for T generated tokens. Entry t comes from the
        position that predicts token t. Entries after the end-of-text token are NaN.

    Raises:
        ValueError: `site` is not a decoder site, or `jaxasr.generate` rejects the arguments.

    Example:
        ```python
        import jax.numpy as jnp

        import jaxasr
        from interventions.probes import monitor

        asr = jaxasr.load("tiny.en")
        audio = jaxasr.load_audio("experiments/assets/demo.flac")
        memory, _ = asr.model.encode(jaxasr.log_mel(audio, asr.config.n_mels)[None])
        prompt = jnp.array([asr.tokenizer.prompt()])
        probe = monitor.Probe(jnp.zeros((2, 384)), jnp.zeros(2))
        site, layer = "decoder.resid_post", 2
        out, probabilities = monitor.generate_with_probe(
            asr.model, memory, prompt, probe, site=site, layer=layer, max_new_tokens=5
        )
        assert probabilities.shape == (1, 5, 2)
        ```
    """
    known = sites.sites_of("decoder", model.config.family)
    sites.check_known([site], known, "site for a monitor of the decoder:")
    out = jaxasr.generate(model, memory, prompt, edits=edits, **options)
    # The last token predicts no token of the generation, so the pass excludes it.
    tokens = jnp.concatenate([jnp.asarray(prompt), out.tokens[:, :-1]], 1)
    n_prompt = jnp.shape(prompt)[1]
    positions = options.get("positions")
    if positions is not None:
        # All positions of a row are consecutive, so the first one gives all others.
        positions = jnp.asarray(positions)[:, :1] + jnp.arange(tokens.shape[1])
    _, acts = model.decode(tokens, memory, edits, readout(probe, site), positions=positions)
    probabilities = acts["probe"] if layer is None else acts["probe"][layer]
    # Token `lengths` is the end of text, so its entry remains.
    is_over = jnp.arange(out.tokens.shape[1]) > out.lengths[:, None]
    return out, jnp.where(is_over[..., None], jnp.nan, probabilities[:, n_prompt - 1 :])


@pytrees.dataclass
class When:
    """Applies an edit only where the probe's probability of a class is at least a threshold.

    The probe reads the activation that the edit would change. The model compares the probability
    with the threshold at every position.

    Attributes:
        probe: the probe.
        edit: the edit.
        column: index of the class along the last axis of the probe's output.
        threshold: smallest probability at which the edit applies. For a probe of values, the
            smallest value.

    Example:
        ```python
        import jax.numpy as jnp

        import interventions
        import jaxasr
        from interventions.probes import monitor

        asr = jaxasr.load("tiny.en")
        audio = jaxasr.load_audio("experiments/assets/demo.flac")
        memory, _ = asr.model.encode(jaxasr.log_mel(audio, asr.config.n_mels)[None])
        probe = monitor.Probe(jnp.zeros((2, 384)), jnp.zeros(2))
        when = monitor.When(probe, interventions.Scale(0.5), column=0, threshold=0.9)
        edits = {"decoder.resid_post": interventions.only(when, layers=2)}
        prompt = jnp.array([asr.tokenizer.prompt()])
        jaxasr.generate(asr.model, memory, prompt, max_new_tokens=5, edits=edits)
        ```
    """

    probe: Probe
    edit: Edit
    column: int = pytrees.field(pytree_node=False)
    threshold: Float[Array, ""] | float = 0.5

    def __call__(self, x: Array, at: At) -> Array:
        applies = self.probe(x)[..., self.column] >= self.threshold
        return jnp.where(applies[..., None], self.edit(x, at).astype(x.dtype), x)

    def check(self, spec: SiteSpec) -> None:
        """Raises ValueError if the probe does not fit the site."""
        n_features = self.probe.weights.shape[-1]
        if spec.shape[-1] != n_features:
            raise ValueError(
                f"When: expected a probe of {spec.shape[-1]} features at {spec.site!r}, "
                f"got {n_features}."
            )
        check = getattr(self.edit, "check", None)
        if check is not None:
            check(spec)
