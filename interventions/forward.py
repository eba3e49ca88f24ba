"""Passes that gradients and paths share: the activations of a run, and its metric as a function of edits. All traced."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.metrics import Metric, needed, scored_position, unembed_scored
from interventions.run import Run
from jaxasr.cache import Memory
from jaxasr.model import Whisper
from jaxasr.sites import stack_of
from jaxasr.stack import run_stack
from jaxasr.taps import NOTHING, Acts, Edits, Readout, Tap, select

_KEEP_BYTES = (
    2**30
)  # above, the encoder's attention is computed again in the backward pass instead of kept


def positions_of(run: Run) -> Int[Array, "B T"]:
    """The run's own positions, or 0, 1, 2 … in every row."""
    shape = jnp.shape(run.tokens)
    return (
        jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.int32), shape)
        if run.positions is None
        else run.positions
    )


def encode(
    model: Whisper, mel: Float[Array, "B M F"], edits: Edits, readout: Readout
) -> tuple[Memory, Acts]:
    """`model.encode`, fit to be differentiated: large attention weights are not kept for the backward pass."""
    c = model.config
    positions = jnp.broadcast_to(
        jnp.arange(c.n_audio_ctx, dtype=jnp.int32), (mel.shape[0], c.n_audio_ctx)
    )
    recompute = 4 * mel.shape[0] * c.n_audio_layer * c.n_audio_head * c.n_audio_ctx**2 > _KEEP_BYTES

    def step(block: Any, extra: Any, x: Array, tap: Tap) -> tuple[Array, Acts]:
        def layer(block: Any, x: Array, index: Array) -> tuple[Array, Acts]:
            inner = Tap(
                tap.prefix, edits, readout, index, positions
            )  # born in here: nothing traced leaks out of a checkpoint
            x, _ = block(x, inner)
            return x, readout(inner.acts)

        return (jax.checkpoint(layer) if recompute else layer)(block, x, tap.layer)

    tap = Tap("encoder.", edits, readout, jnp.int32(-1), positions)
    x = model.encoder.stem(mel.astype(c.dtype), tap)
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
    """The mel of a run, heard or not. Raises ValueError when there is only a memory."""
    mel = run.sound if run.mel is None else run.mel
    if mel is None:
        raise ValueError(
            "Run: a site of the encoder needs the recording; give Run(mel=...) rather than Run(memory=...)."
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
    """The metric after a teacher-forced pass, with no more unembedded than it needs, and what `readout` keeps.

    `blocks`: the decoder's, apart, with a memory that is apart.
    """
    column = scored_position(metric, jnp.shape(run.tokens)[1])
    x, _, tap, acts = model.decoder.residual(
        run.tokens, positions_of(run), memory, edits, readout, blocks=blocks
    )
    x = tap("ln", model.decoder.ln(x))
    if tap.touches("logits"):
        logits = needed(tap("logits", model.decoder.unembed(x))[:, column], metric)
    else:
        logits = unembed_scored(model.decoder.unembedding, x[:, column], metric)
    return metric(logits), acts | readout(tap.acts)


def by_stack(sites: Sequence[str]) -> tuple[list[str], list[str]]:
    """Sites of the encoder, sites of the decoder."""
    return [s for s in sites if stack_of(s) == "encoder"], [
        s for s in sites if stack_of(s) == "decoder"
    ]


def activations(model: Whisper, run: Run, sites: Sequence[str]) -> Acts:
    """The run's activations at `sites` of either stack, from no more passes than they need."""
    heard, said = by_stack(sites)
    memory, acts = run.memory, {}
    if heard or (said and memory is None):
        new, acts = encode(model, recording(run), {}, select(*heard))
        memory = new if memory is None else memory
    if not said:
        return acts
    readout = select(*said)
    x, _, tap, layered = model.decoder.residual(run.tokens, positions_of(run), memory, {}, readout)
    x = tap("ln", model.decoder.ln(x))
    if "decoder.logits" in said:
        tap("logits", model.decoder.unembed(x))
    return acts | layered | readout(tap.acts)
