"""Makes the edit of a sweep from its source, which is a run, zeros, a mean or noise."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from interventions.edits.noise import Noise
from interventions.edits.values import Mix, Patch, Zero
from interventions.forward import count_unmasked, mel_of
from interventions.run import Run, encode_mel
from jaxasr import compiled, sites
from jaxasr.cache import EncodedAudio
from jaxasr.config import Config
from jaxasr.model import SpeechModel, full_precision
from jaxasr.taps import Acts, Edit, Readout, select

# Names of sources that are not runs.
SOURCES = ("zero", "mean", "noise", "resample")


def source_run(target: Run, source: Run | str | None) -> Run | None:
    """Returns the run that activations come from; None for "zero", "mean", "noise" and None.

    Raises:
        ValueError: the source is unknown, or its tokens do not have the shape of the target's.
    """
    if source is None:
        return None
    check_source(source)
    if isinstance(source, str):
        return resampled(target, source) if source.startswith("resample") else None
    if jnp.shape(source.tokens) != jnp.shape(target.tokens):
        raise ValueError(
            f"source: tokens {list(jnp.shape(source.tokens))} do not line up with the target's "
            f"{list(jnp.shape(target.tokens))}. Feed both runs the same tokens, or cut and pad "
            "them so that they align."
        )
    return source


def source_edit(source: Run | str | None, has_values: bool, has_alpha: bool) -> Edit:
    """Makes the edit that is placed at every cell of a sweep.

    Args:
        source: as in `sweep`.
        has_values: whether activations of a run are patched in. The value of the edit is then
            None, until the run is computed.
        has_alpha: whether the grid has the dimension "alpha".
    """
    if has_values:
        value: Any = None
        return Mix(jnp.float32(1), value) if has_alpha else Patch(value)
    if source == "zero":
        return Mix(jnp.float32(1), jnp.zeros(())) if has_alpha else Zero()
    return Noise(0) if has_alpha else Noise(0, replace=True)


def mean_over_time(
    config: Config, value: Array, site: str, lengths: Int[Array, "B"] | None
) -> Array:
    """Averages an activation over positions or frames. The averaged axis remains, with size 1.

    Args:
        config: configuration of the model.
        value: the activation.
        site: the site that it comes from.
        lengths: mel frames of each row before its padding. Masked padding is not averaged.
    """
    axes, batch_axis = sites.SITES[site], int(site in sites.LAYERED)
    # `axes` excludes the layer axis, which comes first at sites of layers.
    time_axis = axes.index("T" if "T" in axes else "S") + batch_axis
    n_steps = _count_unmasked_steps(config, site, lengths)
    if n_steps is None:
        return value.mean(time_axis, keepdims=True)
    others = [i for i in range(value.ndim) if i not in (batch_axis, time_axis)]
    is_real = jnp.arange(value.shape[time_axis]) < n_steps[:, None]
    # `where`, because a product with 0 would keep NaN in the padding.
    real = jnp.where(jnp.expand_dims(is_real, others), value, 0)
    n_steps = jnp.expand_dims(n_steps, [i for i in range(value.ndim) if i != batch_axis])
    return (real.sum(time_axis, keepdims=True) / n_steps).astype(value.dtype)


def _count_unmasked_steps(
    config: Config, site: str, lengths: Int[Array, "B"] | None
) -> Int[Array, "B"] | None:
    """Returns the steps of each row at a site before its padding; None if none is masked."""
    n_frames = count_unmasked(config, lengths)
    if n_frames is None or lengths is None or sites.stack_of(site) == "decoder":
        return None
    if site == "encoder.conv1":  # its steps are mel frames
        return jnp.asarray(lengths)
    return n_frames // sites.spec(config, site, 1, 1).frames_per_step


def check_source(source: Run | str) -> None:
    """Raises ValueError for anything but a run or the name of a source."""
    name = source
    prefix = "resample:"
    if isinstance(source, str) and source.startswith(prefix) and source[len(prefix) :].isdigit():
        name = "resample"
    if not isinstance(source, Run) and name not in SOURCES:
        raise ValueError(
            f"source: expected a Run or one of {', '.join(map(repr, SOURCES))}, got {source!r}."
        )


def resampled(target: Run, seed: int | str = 0, among: Run | None = None) -> Run:
    """Makes the source of a resample ablation, in which every example gets another recording.

    By default the rows of `target` are permuted at random, and no row stays in place. With `among`,
    rows are drawn from another run, with replacement. A row keeps its recording and its tokens
    together. All cells of a sweep use the same draw. See Chan et al. 2022, Causal Scrubbing.

    Args:
        target: the run that is patched, B examples.
        seed: seed of the draw, as a number or as "resample:SEED".
        among: a run to draw from, with as many tokens per row as `target`.

    Returns:
        A run of B rows.

    Raises:
        ValueError: `target` has one example and `among` is missing, or the numbers of tokens
            differ.

    Example:
        ```python
        mels = np.stack([jaxasr.log_mel(audio, asr.config.n_mels)] * 3)
        target = iv.Run(mel=mels, tokens=np.tile(asr.tokenizer.prompt(), (3, 1)))
        source = iv.resampled(target, seed=1)
        ```
    """
    seed = int(str(seed).partition(":")[2] or 0) if isinstance(seed, str) else seed
    rng = np.random.default_rng(seed)
    if among is None:
        if target.batch < 2:
            raise ValueError(
                "source: 'resample' draws another example of the batch; expected at least two "
                "examples, got one. Give more examples, or resampled(among=)."
            )
        # Row order[i] is replaced by row order[i + 1]. This is one cycle, so every row moves.
        order = rng.permutation(target.batch)
        return target.rows(np.roll(order, -1)[np.argsort(order)])
    n_tokens = jnp.shape(target.tokens)[1]
    if jnp.shape(among.tokens)[1] != n_tokens:
        raise ValueError(
            f"among: expected {n_tokens} tokens per row, as in the target, "
            f"got {jnp.shape(among.tokens)[1]}."
        )
    return among.rows(rng.integers(among.batch, size=target.batch))


def activation(model: SpeechModel, run: Run, site: str) -> Array:
    """Computes the activation of `run` at `site`.

    Args:
        model: the model.
        run: B examples. Encoder sites need a run with mel features, not one made from `memory`.
        site: any site of either stack.

    Returns:
        [L, B, ...], or [B, ...] at sites without a layer axis.

    Raises:
        ValueError: the site is in the encoder, and the run has no recording.

    Example:
        ```python
        from interventions.patching import activation

        run = iv.Run(
            mel=jaxasr.log_mel(audio, asr.config.n_mels)[None],
            tokens=np.array([asr.tokenizer.prompt()]),
        )
        z = activation(asr.model, run, "decoder.cross_attn.z")  # [L, B, T, H, Dh]
        ```
    """
    if sites.stack_of(site) == "encoder":
        return encoder_activations(model, mel_of(run), site, lengths=run.lengths)[site]
    run = run.encode(model)
    return compiled.call(
        _decoder_activation, model, run.tokens, run.memory, run.positions, site=site
    )


def encoder_activations(
    model: SpeechModel, mel: Array, *names: str, lengths: Int[Array, "B"] | None = None
) -> Acts:
    """Computes activations of the encoder, but not the memory."""
    return compiled.call(_encoder_activations, model, mel, lengths, select(*names))


def _encoder_activations(
    model: SpeechModel, mel: Array, lengths: Int[Array, "B"] | None, readout: Readout
) -> Acts:
    # XLA omits the memory, because it is unused.
    with full_precision(model):
        return encode_mel(model, mel, lengths, None, readout)[1]


def _decoder_activation(
    model: SpeechModel,
    tokens: Int[Array, "B T"],
    memory: EncodedAudio,
    positions: Int[Array, "B T"] | None,
    *,
    site: str,
) -> Array:
    """Computes one site of a teacher-forced pass. XLA omits the logits, because they are unused."""
    return model.decode(tokens, memory, readout=select(site), positions=positions)[1][site]
