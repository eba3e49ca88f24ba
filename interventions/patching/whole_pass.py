"""Scores whole decoder passes, which reuse no stored activations. JAX traces every function."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.metrics import Metric
from interventions.scoring import needed_logits, unembed_scored
from jaxasr.cache import EncodedAudio
from jaxasr.model import SpeechModel
from jaxasr.taps import NOTHING, Edits, Tap


def score_residual(model: SpeechModel, x: Float[Array, "1 D"], metric: Metric) -> Float[Array, ""]:
    """Computes the metric from the last layer's residual at the scored position."""
    return metric(unembed_scored(model.decoder.unembedding, model.decoder.ln(x), metric))[0]


def score_memory(
    model: SpeechModel,
    tokens: Int[Array, "1 T"],
    memory: EncodedAudio,
    scored_position: int,
    metric: Metric,
) -> Float[Array, ""]:
    """Computes the metric of an unedited decoder that attends to `memory`."""
    x, _ = _residual(model, tokens, memory, {}, scored_position)
    return score_residual(model, x, metric)


def score_edited(
    model: SpeechModel,
    tokens: Int[Array, "1 T"],
    memory: EncodedAudio,
    edits: Edits,
    scored_position: int,
    metric: Metric,
) -> Float[Array, ""]:
    """Computes the metric under edits of any decoder sites, final norm and logits included."""
    x, tap = _residual(model, tokens, memory, edits, scored_position)
    # The final norm and the logits are computed at the scored position only.
    frames = None if tap.frames is None else tap.frames[:, scored_position:]
    positions = tap.positions[:, scored_position:]
    head_tap = dataclasses.replace(tap, positions=positions, frames=frames, acts={})
    logits = model.decoder.to_logits(x[:, None], head_tap)[:, 0]
    return metric(needed_logits(logits, metric))[0]


def _residual(
    model: SpeechModel,
    tokens: Int[Array, "1 T"],
    memory: EncodedAudio,
    edits: Edits,
    scored_position: int,
) -> tuple[Float[Array, "1 D"], Tap]:
    """Computes the last layer's residual at the scored position.

    Later positions are not computed, because no position attends to a later one.
    """
    tokens = tokens[:, : scored_position + 1]
    positions = jnp.arange(scored_position + 1, dtype=jnp.int32)[None]
    x, _, tap, _ = model.decoder.residual(tokens, positions, memory, edits, NOTHING)
    return x[:, scored_position], tap
