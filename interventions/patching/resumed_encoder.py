"""Runs an edited encoder from the stored residual of the edited layer.

JAX traces every function of this module.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.forward import frame_positions, mask_padding
from jaxasr.cache import EncodedAudio
from jaxasr.language.encoder import count_frames
from jaxasr.model import SpeechModel
from jaxasr.taps import NOTHING, At, Edits, Tap

RESIDUAL_SITES = "encoder.resid_pre", "encoder.resid_post"
# Sites that are computed from the residual after the last layer. They have no layer axis.
SITES_AFTER_LAYERS = "encoder.ln_post", "encoder.pool", "encoder.project"
# Residuals before every layer, and residuals after every layer.
Residuals = tuple[Float[Array, "L 1 S D"], Float[Array, "L 1 S D"]]


def resumed_memory(
    model: SpeechModel,
    site: str,
    residuals: Residuals,
    edits: Edits,
    edited_layer: Int[Array, ""],
    lengths: Int[Array, "1"] | None = None,
) -> EncodedAudio:
    """Encodes with an edit in one layer, starting from the stored residual of that layer.

    An edit of what follows the layers starts from the residual after the last one.

    Args:
        model: the model.
        site: the edited site, which has a layer axis or is one of `SITES_AFTER_LAYERS`.
        residuals: residuals of the unedited recording.
        edits: the edit, {site: edit}.
        edited_layer: index of the edited layer; ignored at sites without a layer axis.
        lengths: mel frames of the recording before its padding; None: the model has no lengths, or
            there is no padding.
    """
    pre, post = residuals
    if site in SITES_AFTER_LAYERS:
        return _read(model, post[-1], lengths, edits)
    if site == "encoder.resid_post":
        # The edit replaces the output of this layer, so the encoder starts at the next one.
        positions = frame_positions(model.config, 1, lengths)
        x = post[edited_layer]
        x = edits[site](x, At(edited_layer, positions, None, site)).astype(x.dtype)
        return _memory_from(model, x, lengths, {}, edited_layer + 1)
    return _memory_from(model, pre[edited_layer], lengths, edits, edited_layer)


def _memory_from(
    model: SpeechModel,
    x: Float[Array, "1 S D"],
    lengths: Int[Array, "1"] | None,
    edits: Edits,
    first_layer: Int[Array, ""],
) -> EncodedAudio:
    """Encodes from `x`, the residual before layer `first_layer`."""
    positions = frame_positions(model.config, 1, lengths)
    mask = mask_padding(model.config, lengths)

    def run_layer(i: Int[Array, ""], x: Float[Array, "1 S D"]) -> Float[Array, "1 S D"]:
        block = jax.tree.map(
            lambda stacked: jax.lax.dynamic_index_in_dim(stacked, i, keepdims=False),
            model.encoder.blocks,
        )
        return block(x, Tap("encoder.", edits, NOTHING, i, positions), mask)[0]

    x = jax.lax.fori_loop(first_layer, model.config.n_audio_layer, run_layer, x)
    return _read(model, x, lengths, edits)


def _read(
    model: SpeechModel, x: Float[Array, "1 S D"], lengths: Int[Array, "1"] | None, edits: Edits
) -> EncodedAudio:
    """Returns what the decoder reads of `x`, the residual after the last layer."""
    positions = frame_positions(model.config, 1, lengths)
    # Sites after the layers have no layer axis, so their tap has no layer: -1.
    xa = model.encoder.to_output(x, Tap("encoder.", edits, NOTHING, jnp.int32(-1), positions))
    options: dict[str, Any] = (
        {} if lengths is None else {"lengths": count_frames(model.config, lengths)[1]}
    )
    return model.decoder.memory(xa, unstacked=True, **options).stacked()
