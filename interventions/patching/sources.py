"""Where a patch takes its values: another run, or something simpler, as the edit that every cell of a sweep places."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from interventions.edits import Mix, Noise, Patch, Zero
from interventions.run import Run
from jaxasr import compiled, sites
from jaxasr.cache import Memory
from jaxasr.model import Whisper, full_precision
from jaxasr.taps import Acts, Edit, Readout, select

SOURCES = ("zero", "mean", "noise", "resample")


def template_edit(
    model: Whisper, target: Run, source: Run | str | None, edit: Edit | None, site: str, strengths: bool,
    show: Callable[[Run], Array] | None = None,
) -> tuple[Edit, Run | None]:  # fmt: skip
    """The edit that every cell places, and the source as a run, if it is one. `show`: what a heard run holds at `site`."""
    if (source is None) == (edit is None):
        raise ValueError("source, edit: expected one of the two.")
    if edit is not None:
        return edit, None
    check_source(source)
    show = show or functools.partial(activation, model, site=site)
    if isinstance(source, str) and source.startswith("resample"):
        source = resampled(target, source)
    if isinstance(source, Run):
        source = source.encode(model)
        if jnp.shape(source.tokens) != jnp.shape(target.tokens):
            raise ValueError(
                f"source: tokens {list(jnp.shape(source.tokens))} do not line up with the target's {list(jnp.shape(target.tokens))}. "
                "Feed both runs the same tokens, or cut and pad them to a stated alignment."
            )
        value = show(source)
        return (Mix(jnp.float32(1), value) if strengths else Patch(value)), source
    if source == "mean":
        value = show(target)
        value = value.mean(
            sites.SITES[site].index("T" if "T" in sites.SITES[site] else "S")
            + (site in sites.LAYERED),
            keepdims=True,
        )
        return (Mix(jnp.float32(1), value) if strengths else Patch(value)), target
    if strengths:
        return (Mix(jnp.float32(1), jnp.zeros(())) if source == "zero" else Noise(0)), None
    return (Zero() if source == "zero" else Noise(0, replace=True)), None


def check_source(source: Run | str) -> None:
    """Raises ValueError for what is neither a run nor the name of a source."""
    name = (
        "resample"
        if isinstance(source, str) and source.startswith("resample:") and source[9:].isdigit()
        else source
    )
    if not isinstance(source, Run) and name not in SOURCES:
        raise ValueError(
            f"source: expected a Run or one of {', '.join(map(repr, SOURCES))}, got {source!r}."
        )


def resampled(target: Run, seed: int | str = 0, among: Run | None = None) -> Run:
    """The source of a resample ablation (Chan et al. 2022, causal scrubbing): every example takes another recording's activations.

    Example b is paired with one row of `among`, a data set of as many tokens, drawn with replacement; by default with another row of
    `target` itself, such that each is drawn once and none is its own (a cycle through a random order). The other's recording *and*
    its tokens make the activations. One draw serves all cells of a sweep. `seed`: a number, or "resample:SEED".

    Raises ValueError for a single example without `among`, and for another number of tokens.
    """
    seed = int(str(seed).partition(":")[2] or 0) if isinstance(seed, str) else seed
    rng = np.random.default_rng(seed)
    if among is None:
        if target.batch < 2:
            raise ValueError(
                "source: 'resample' draws another example of the batch, and there is one. Give more, or resampled(among=)."
            )
        order = rng.permutation(target.batch)
        return _rows(target, np.roll(order, -1)[np.argsort(order)])
    if jnp.shape(among.tokens)[1] != jnp.shape(target.tokens)[1]:
        raise ValueError(
            f"among: expected {jnp.shape(target.tokens)[1]} tokens a row as in the target, got {jnp.shape(among.tokens)[1]}."
        )
    return _rows(among, rng.integers(among.batch, size=target.batch))


def _rows(run: Run, rows: np.ndarray) -> Run:
    """Rows of a run, heard or not."""
    pick = lambda x: None if x is None else jnp.asarray(x)[rows]  # noqa: E731
    memory = run.memory and jax.tree.map(
        lambda x: x[rows] if x is run.memory.xa else x[:, rows], run.memory
    )
    return run.replace(
        tokens=pick(run.tokens),
        mel=pick(run.mel),
        memory=memory,
        positions=pick(run.positions),
        sound=pick(run.sound),
    )


def activation(model: Whisper, run: Run, site: str) -> Array:
    """What `run` shows at `site`, with the layer axis if it has one. A run that was heard elsewhere cannot show the encoder."""
    if sites.stack_of(site) == "decoder":
        run = run.encode(model)
        return compiled.call(_shown, model, run.tokens, run.memory, run.positions, site=site)
    if run.sound is None:
        raise ValueError(
            f"Run: {site!r} needs the recording; give Run(mel=...) rather than Run(memory=...)."
        )
    return encoder_activations(model, run.sound, site)[site]


def encoder_activations(model: Whisper, mel: Array, *names: str) -> Acts:
    """What the encoder shows at `names`, without the memory that the decoder would need."""
    return compiled.call(_heard, model, mel, select(*names))


def _heard(model: Whisper, mel: Array, taps: Readout) -> Acts:
    with full_precision(model):
        return model.encoder(mel.astype(model.config.dtype), {}, taps)[1]


def _shown(
    model: Whisper, tokens: Array, memory: Memory, positions: Array | None, *, site: str
) -> Array:
    """One site of a teacher-forced pass; what only the logits need is not computed."""
    return model.decode(tokens, memory, readout=select(site), positions=positions)[1][site]
