"""Runs an edited encoder from the stored residual of the edited layer.

JAX traces every function of this module.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.forward import mask_padding
from jaxasr.cache import EncodedAudio
from jaxasr.language.encoder import count_frames
from jaxasr.model import SpeechModel
from jaxasr.taps import NOTHING, At, Edits, Tap

RESIDUAL_SITES = "encoder.resid_pre", "encoder.resid_post"
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

    Args:
        model: the model.
        site: the edited site, which has a layer axis.
        residuals: residuals of the unedited recording.
        edits: the edit, {site: edit}.
        edited_layer: index of the edited layer.
        lengths: mel frames of the recording before its padding; None: the model has no lengths, or
            there is no padding.
    """
    pre, post = residuals
    if site == "encoder.resid_post":
        # The edit replaces the output of this layer, so the encoder starts at the next one.
        x = _apply_edit(edits, site, post[edited_layer], edited_layer)
        return _memory_from(model, x, lengths, {}, edited_layer + 1)
    return _memory_from(model, pre[edited_layer], lengths, edits, edited_layer)


def _memory_from(
    model: SpeechModel,
    x: Float[Array, "1 S D"],
    lengths: Int[Array, "1"] | None,
    edits: Edits,
    first_layer: Int[Array, ""],
) -> EncodedAudio:
    """Encodes from `x`, the residual before layer `first_layer`.

    If `first_layer` is the number of layers, no layer runs.
    """
    positions = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
    mask = mask_padding(model.config, lengths)

    def run_layer(i: Int[Array, ""], x: Float[Array, "1 S D"]) -> Float[Array, "1 S D"]:
        block = jax.tree.map(
            lambda stacked: jax.lax.dynamic_index_in_dim(stacked, i, keepdims=False),
            model.encoder.blocks,
        )
        return block(x, Tap("encoder.", edits, NOTHING, i, positions), mask)[0]

    x = jax.lax.fori_loop(first_layer, model.config.n_audio_layer, run_layer, x)
    # Sites after the layers have no layer axis, so their tap has no layer: -1.
    xa = model.encoder.to_output(x, Tap("encoder.", edits, NOTHING, jnp.int32(-1), positions))
    options: dict[str, Any] = (
        {} if lengths is None else {"lengths": count_frames(model.config, lengths)[1]}
    )
    return model.decoder.memory(xa, unstacked=True, **options).stacked()


def _apply_edit(
    edits: Edits, site: str, x: Float[Array, "1 S D"], layer: Int[Array, ""]
) -> Float[Array, "1 S D"]:
    """Applies the edit of `site` to its activation `x` at layer `layer`."""
    at = At(layer, jnp.arange(x.shape[1], dtype=jnp.int32)[None], None, site)
    return edits[site](x, at).astype(x.dtype)
