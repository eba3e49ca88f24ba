"""Encodes and decodes runs inside compiled programs, for attribution and path patching."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.metrics import Metric
from interventions.run import Run
from interventions.scoring import needed_logits, scored_position, unembed_scored
from jaxasr.cache import EncodedAudio, Prefix
from jaxasr.config import Config
from jaxasr.encoder import make_frame_positions
from jaxasr.fused_attention import Mask
from jaxasr.language.encoder import count_frames, make_frame_mask, mark_padding
from jaxasr.model import SpeechModel
from jaxasr.sites import stack_of
from jaxasr.stack import run_stack
from jaxasr.taps import NOTHING, Acts, Edits, Readout, Tap, select

# Bytes of encoder attention weights. Above this, the backward pass recomputes the weights.
_MAX_KEPT_BYTES = 2**30


def positions_of(run: Run) -> Int[Array, "B T"]:
    """Returns the position of each token of a run. By default they count from 0."""
    if run.positions is not None:
        return run.positions
    shape = jnp.shape(run.tokens)
    return jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.int32), shape)


def memory_of_stream(
    model: SpeechModel,
    x: Float[Array, "B S D"],
    lengths: Int[Array, "B"] | None = None,
    tap: Tap | None = None,
) -> EncodedAudio:
    """Returns what the decoder reads of the encoder's residual stream after its last layer.

    Args:
        model: the model.
        x: the residual stream.
        lengths: mel frames of each row before its padding. None: no row has padding.
        tap: edits and records the activations after the layers. None: without edits.
    """
    if tap is None:
        tap = Tap("encoder.", {}, NOTHING, jnp.int32(-1), make_frame_positions(*x.shape[:2]))
    xa = model.encoder.to_output(x, tap)
    if model.config.audio_language is None:
        return model.decoder.memory(xa)
    lengths = jnp.full(x.shape[0], model.config.n_mel_frames) if lengths is None else lengths
    return Prefix(xa, jnp.asarray(count_frames(model.config, lengths)[1], jnp.int32))


def mask_padding(config: Config, lengths: Int[Array, "B"] | None) -> Mask | None:
    """Returns which frames may attend to another; None if each may attend to all."""
    n_frames = count_unmasked(config, lengths)
    return None if n_frames is None else make_frame_mask(n_frames, config.n_audio_ctx)


def frame_positions(
    config: Config, n_rows: int, lengths: Int[Array, "B"] | None
) -> Int[Array, "B S"]:
    """Returns the index of each encoder frame; -1 at padding that is masked."""
    positions = make_frame_positions(n_rows, config.n_audio_ctx)
    n_frames = count_unmasked(config, lengths)
    return positions if n_frames is None else mark_padding(positions, n_frames)


def count_unmasked(config: Config, lengths: Int[Array, "B"] | None) -> Int[Array, "B"] | None:
    """Returns the encoder frames of each row before its padding; None if no frame is masked."""
    family = config.audio_language
    if lengths is None or family is None or not family.masks_frames:
        return None
    return jnp.asarray(count_frames(config, lengths)[0])


def encode(
    model: SpeechModel,
    mel: Float[Array, "B M F"],
    edits: Edits,
    readout: Readout,
    lengths: Int[Array, "B"] | None = None,
) -> tuple[EncodedAudio, Acts]:
    """Encodes as `model.encode` does, but the backward pass recomputes large attention weights.

    Args:
        model: the model.
        mel: log-mel spectrograms.
        edits: edits of encoder sites.
        readout: activations to return.
        lengths: mel frames of each row before its padding. None: no row has padding.

    Returns:
        The memory, and a dict of activations by site.
    """
    config = model.config
    batch, n_frames = mel.shape[0], config.n_audio_ctx
    positions = frame_positions(config, batch, lengths)
    attention_bytes = 4 * batch * config.n_audio_layer * config.n_audio_head * n_frames**2
    recompute = attention_bytes > _MAX_KEPT_BYTES
    mask = mask_padding(config, lengths)

    def step(block: Any, extra: Any, x: Array, tap: Tap) -> tuple[Array, Acts]:
        del extra  # encoder layers need no further input

        def layer(block: Any, x: Array, index: Array) -> tuple[Array, Acts]:
            # Each layer needs its own `Tap`. Recording in the outer `tap` would leak traced values
            # out of `jax.checkpoint`.
            layer_tap = Tap(tap.prefix, edits, readout, index, positions)
            x, _ = block(x, layer_tap, mask)
            return x, readout(layer_tap.acts)

        return (jax.checkpoint(layer) if recompute else layer)(block, x, tap.layer)

    # Layer -1 stands for the sites before and after the layers.
    tap = Tap("encoder.", edits, readout, jnp.int32(-1), positions)
    x = model.encoder.stem(mel.astype(config.dtype), tap)
    # `layer_tap` applies edits and readout, so the stack gets none.
    x, acts, _ = run_stack(
        model.encoder.blocks,
        x,
        step,
        stack="encoder",
        positions=positions,
        edits={},
        readout=NOTHING,
    )
    memory = memory_of_stream(model, x, lengths, tap)
    return memory, acts | readout(tap.acts)


def mel_of(run: Run) -> Float[Array, "B M F"]:
    """Returns the log-mel spectrograms [B, M, F] of a run.

    Raises:
        ValueError: the run was built from `memory`, so its recordings are not known.
    """
    mel = run.encoded_mel if run.mel is None else run.mel
    if mel is None:
        raise ValueError(
            "Run: a site of the encoder needs the recording; "
            "give Run(mel=...) rather than Run(memory=...)."
        )
    return mel


def decode_and_score(
    model: SpeechModel,
    run: Run,
    memory: EncodedAudio,
    edits: Edits,
    readout: Readout,
    metric: Metric,
    blocks: tuple[Any, ...] | None = None,
) -> tuple[Float[Array, "B"], Acts]:
    """Decodes with teacher forcing, and computes only the logits that the metric reads.

    Args:
        model: the model.
        run: the tokens and positions to decode.
        memory: the memory that the decoder attends to.
        edits: edits of decoder sites.
        readout: activations to return.
        metric: the metric of the logits.
        blocks: unstacked decoder layers, for an unstacked memory. Default: the stacked layers.

    Returns:
        The metric [B], and a dict of activations by site.
    """
    column = scored_position(metric, jnp.shape(run.tokens)[1])
    x, _, tap, acts = model.decoder.residual(
        run.tokens, positions_of(run), memory, edits, readout, blocks=blocks
    )
    x = tap("ln", model.decoder.ln(x))
    if tap.touches("logits"):  # an edit or the readout needs the logits of all tokens
        logits = needed_logits(tap("logits", model.decoder.unembed(x))[:, column], metric)
    else:
        logits = unembed_scored(model.decoder.unembedding, x[:, column], metric)
    return metric(logits), acts | readout(tap.acts)


def split_by_stack(sites: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits sites into those of the encoder and those of the decoder.

    Example:
        >>> split_by_stack(["decoder.ln", "encoder.embed"])
        (['encoder.embed'], ['decoder.ln'])
    """
    of_encoder = [site for site in sites if stack_of(site) == "encoder"]
    of_decoder = [site for site in sites if stack_of(site) == "decoder"]
    return of_encoder, of_decoder


def activations(model: SpeechModel, run: Run, sites: Sequence[str]) -> Acts:
    """Computes the activations of a run at `sites`.

    Encodes the recording only if a site is in the encoder or the run has no memory.
    """
    of_encoder, of_decoder = split_by_stack(sites)
    memory, acts = run.memory, {}
    if of_encoder or memory is None:
        encoded, acts = encode(model, mel_of(run), {}, select(*of_encoder), run.lengths)
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
