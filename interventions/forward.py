"""Passes for gradients and paths: activations of a run, and its metric under edits. All traced."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.metrics import Metric
from interventions.run import Run
from interventions.scoring import needed_logits, scored_position, unembed_scored
from jaxasr.cache import Memory
from jaxasr.model import Whisper
from jaxasr.sites import stack_of
from jaxasr.stack import run_stack
from jaxasr.taps import NOTHING, Acts, Edits, Readout, Tap, select

# Encoder attention larger than this is recomputed in the backward pass instead of kept.
_KEEP_BYTES = 2**30


def positions_of(run: Run) -> Int[Array, "B T"]:
    """The run's own positions, or 0, 1, 2 … in every row."""
    if run.positions is not None:
        return run.positions
    shape = jnp.shape(run.tokens)
    return jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.int32), shape)


def encode(
    model: Whisper, mel: Float[Array, "B M F"], edits: Edits, readout: Readout
) -> tuple[Memory, Acts]:
    """Encodes like `model.encode`, but the backward pass recomputes large attention weights.

    Args:
        model: the model.
        mel: log-mel spectrograms.
        edits: edits of encoder sites.
        readout: activations to return.

    Returns:
        The memory, and a dict of activations by site.
    """
    c = model.config
    batch, n_frames = mel.shape[0], c.n_audio_ctx
    positions = jnp.broadcast_to(jnp.arange(n_frames, dtype=jnp.int32), (batch, n_frames))
    attention_bytes = 4 * batch * c.n_audio_layer * c.n_audio_head * n_frames**2
    recompute = attention_bytes > _KEEP_BYTES

    def step(block: Any, extra: Any, x: Array, tap: Tap) -> tuple[Array, Acts]:
        del extra

        def layer(block: Any, x: Array, index: Array) -> tuple[Array, Acts]:
            # A tap of its own: values that `tap` recorded would leak out of the checkpoint.
            inner = Tap(tap.prefix, edits, readout, index, positions)
            x, _ = block(x, inner)
            return x, readout(inner.acts)

        return (jax.checkpoint(layer) if recompute else layer)(block, x, tap.layer)

    tap = Tap("encoder.", edits, readout, jnp.int32(-1), positions)
    x = model.encoder.stem(mel.astype(c.dtype), tap)
    # The inner taps apply edits and readout, so the stack gets none.
    x, acts, _ = run_stack(
        model.encoder.blocks,
        x,
        step,
        stack="encoder",
        positions=positions,
        edits={},
        readout=NOTHING,
    )
    xa = tap("ln_post", model.encoder.ln_post(x))
    return model.decoder.memory(xa), acts | readout(tap.acts)


def recording(run: Run) -> Float[Array, "B M F"]:
    """The mel of a run, encoded or not. Raises ValueError for a run built from `memory`."""
    mel = run.encoded_mel if run.mel is None else run.mel
    if mel is None:
        raise ValueError(
            "Run: a site of the encoder needs the recording; "
            "give Run(mel=...) rather than Run(memory=...)."
        )
    return mel


def decode_and_score(
    model: Whisper,
    run: Run,
    memory: Memory,
    edits: Edits,
    readout: Readout,
    metric: Metric,
    blocks: tuple[Any, ...] | None = None,
) -> tuple[Float[Array, "B"], Acts]:
    """Scores a teacher-forced pass, unembedding only what the metric reads.

    Args:
        model: the model.
        run: its tokens and positions are decoded.
        memory: what the decoder attends to.
        edits: edits of decoder sites.
        readout: activations to return.
        metric: scores the logits.
        blocks: unstacked decoder layers, for an unstacked memory; None to scan.

    Returns:
        The metric [B], and a dict of activations by site.
    """
    column = scored_position(metric, jnp.shape(run.tokens)[1])
    x, _, tap, acts = model.decoder.residual(
        run.tokens, positions_of(run), memory, edits, readout, blocks=blocks
    )
    x = tap("ln", model.decoder.ln(x))
    if tap.touches("logits"):
        logits = needed_logits(tap("logits", model.decoder.unembed(x))[:, column], metric)
    else:
        logits = unembed_scored(model.decoder.unembedding, x[:, column], metric)
    return metric(logits), acts | readout(tap.acts)


def by_stack(sites: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits sites into those of the encoder and those of the decoder."""
    of_encoder = [site for site in sites if stack_of(site) == "encoder"]
    of_decoder = [site for site in sites if stack_of(site) == "decoder"]
    return of_encoder, of_decoder


def activations(model: Whisper, run: Run, sites: Sequence[str]) -> Acts:
    """The run's activations at sites of either stack, from no more passes than they need."""
    of_encoder, of_decoder = by_stack(sites)
    memory, acts = run.memory, {}
    if of_encoder or memory is None:
        encoded, acts = encode(model, recording(run), {}, select(*of_encoder))
        memory = encoded if memory is None else memory
    if not of_decoder:
        return acts
    readout = select(*of_decoder)
    x, _, tap, layer_acts = model.decoder.residual(
        run.tokens, positions_of(run), memory, {}, readout
    )
    x = tap("ln", model.decoder.ln(x))
    if "decoder.logits" in of_decoder:
        tap("logits", model.decoder.unembed(x))
    return acts | layer_acts | readout(tap.acts)
