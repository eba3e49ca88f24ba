"""Probes at run time: what a probe says at every step of a generation, and edits that wait for it to say so."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import jaxasr
from interventions.probes.bank import Bank
from jaxasr import pytrees, sites
from jaxasr.cache import Memory
from jaxasr.model import Whisper
from jaxasr.sites import SiteSpec
from jaxasr.taps import At, Edit, Edits, Readout


@pytrees.dataclass
class Probe:
    """One probe on raw activations: logits = weights @ x + bias. A pytree: another probe never retraces."""

    weights: Float[Array, "K D"]
    bias: Float[Array, "K"]

    @classmethod
    def of(cls, bank: Bank, layer: Any, **which: Any) -> "Probe":
        """The probe of one layer, averaged over folds and seeds; `which` as in `Bank.normals`."""
        weights, bias = bank.affine(layer, **which)
        return cls(jnp.asarray(weights, jnp.float32), jnp.asarray(bias, jnp.float32))

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B K"]:
        """Probabilities of the classes; of a bank of values, the value."""
        logits = x.astype(jnp.float32) @ self.weights.T + self.bias
        return logits if len(self.bias) == 1 else jax.nn.softmax(logits)


def readout(probe: Probe, site: str, name: str = "probe") -> Readout:
    """Keeps the probe's probabilities at `site` under `name`, [L, B, T, K]: computed in every layer, the activation is never stacked."""
    return jaxasr.reduce(name, site, probe)


def generate(
    model: Whisper,
    memory: Memory,
    prompt: Any,
    probe: Probe,
    *,
    site: str,
    layer: int | None = None,
    edits: Edits | None = None,
    **options: Any,
) -> tuple[jaxasr.Generation, Float[Array, "B T K"]]:
    """`jaxasr.generate`, and the probabilities at each of its steps: entry t is read where the new token t is chosen.

    One teacher-forced pass over what was generated, with the same edits: cached generation and a whole pass agree at every site.
    Steps after a row's end-of-text are NaN. layer: of a site that has them. Raises ValueError as `jaxasr.generate` does, and for
    a site outside the decoder.
    """
    sites.check_known([site], sites.sites_of("decoder"), "site for a monitor of the decoder:")
    out = jaxasr.generate(model, memory, prompt, edits=edits, **options)
    tokens = jnp.concatenate([jnp.asarray(prompt), out.tokens[:, :-1]], 1)
    n_prompt = jnp.shape(prompt)[1]
    positions = options.get("positions")
    if positions is not None:
        positions = jnp.asarray(positions)[:, :1] + jnp.arange(tokens.shape[1])
    _, acts = model.decode(tokens, memory, edits, readout(probe, site), positions=positions)
    said = acts["probe"] if layer is None else acts["probe"][layer]
    over = jnp.arange(out.tokens.shape[1]) > out.lengths[:, None]
    return out, jnp.where(over[..., None], jnp.nan, said[:, n_prompt - 1 :])


@pytrees.dataclass
class When:
    """`edit` at the steps where the probe gives class `column` at least `threshold`; inside the compiled generation.

    Decided at each step from the activation at the site itself: `edits = {site: only(When(...), layers=layer)}`.
    """

    probe: Probe
    edit: Edit
    column: int = pytrees.field(pytree_node=False)
    threshold: Float[Array, ""] | float = 0.5

    def __call__(self, x: Array, at: At) -> Array:
        sure = self.probe(x)[..., self.column] >= self.threshold
        return jnp.where(sure[..., None], self.edit(x, at).astype(x.dtype), x)

    def check(self, spec: SiteSpec) -> None:
        if spec.shape[-1] != self.probe.weights.shape[-1]:
            raise ValueError(
                f"When: expected a probe of {spec.shape[-1]} features at {spec.site!r}, got {self.probe.weights.shape[-1]}."
            )
        if hasattr(self.edit, "check"):
            self.edit.check(spec)
