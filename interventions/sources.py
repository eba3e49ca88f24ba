"""Where a patch takes its values: another run, or something simpler, as the edit that every cell of a sweep places."""
import jax.numpy as jnp
from jaxtyping import Array

from interventions.edits import Mix, Noise, Patch, Zero
from interventions.run import Run
from jaxasr import sites
from jaxasr.model import Whisper
from jaxasr.taps import Edit, select

SOURCES = ("zero", "mean", "noise")


def template_edit(
    model: Whisper, target: Run, source: Run | str | None, edit: Edit | None, site: str, strengths: bool
) -> tuple[Edit, Run | None]:
    """The edit that every cell places, and the source as a run, if it is one."""
    if (source is None) == (edit is None):
        raise ValueError("source, edit: expected one of the two.")
    if edit is not None:
        return edit, None
    if isinstance(source, str) and source not in SOURCES:
        raise ValueError(f"source: expected a Run or one of {', '.join(map(repr, SOURCES))}, got {source!r}.")
    if isinstance(source, Run):
        source = source.heard(model)
        if jnp.shape(source.tokens) != jnp.shape(target.tokens):
            raise ValueError(
                f"source: tokens {list(jnp.shape(source.tokens))} do not line up with the target's {list(jnp.shape(target.tokens))}. "
                "Feed both runs the same tokens, or cut and pad them to a stated alignment."
            )
        value = activation(model, source, site)
        return (Mix(jnp.float32(1), value) if strengths else Patch(value)), source
    if source == "mean":
        value = activation(model, target, site)
        value = value.mean(sites.SITES[site].index("T" if "T" in sites.SITES[site] else "S") + (site in sites.LAYERED), keepdims=True)
        return (Mix(jnp.float32(1), value) if strengths else Patch(value)), target
    if strengths:
        return (Mix(jnp.float32(1), jnp.zeros(())) if source == "zero" else Noise(0)), None
    return (Zero() if source == "zero" else Noise(0, replace=True)), None


def activation(model: Whisper, run: Run, site: str) -> Array:
    """What `run` shows at `site`, with the layer axis if it has one. A run that was heard elsewhere cannot show the encoder."""
    if sites.stack_of(site) == "decoder":
        return run.decode(model, readout=select(site))[1][site]
    if run.sound is None:
        raise ValueError(f"Run: {site!r} needs the recording; give Run(mel=...) rather than Run(memory=...).")
    return model.encode(run.sound, readout=select(site))[1][site]
