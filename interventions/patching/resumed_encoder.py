"""Runs an edited encoder from the stored residual of the edited layer. All is traced."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxasr.cache import Memory
from jaxasr.model import Whisper
from jaxasr.taps import NOTHING, At, Edits, Tap

# Residuals before and after every layer.
Residuals = tuple[Float[Array, "L 1 S D"], Float[Array, "L 1 S D"]]


def resumed_memory(
    model: Whisper, site: str, residuals: Residuals, edits: Edits, edited_layer: Int[Array, ""]
) -> Memory:
    """Encodes with edits at `site` in layer `edited_layer`, starting at that layer.

    Args:
        model: the model.
        site: the edited site, which has a layer axis.
        residuals: residuals of the unedited recording.
        edits: edits of `site`.
        edited_layer: the layer with the edited site.
    """
    pre, post = residuals
    if site == "encoder.resid_post":
        # The edit replaces the output of this layer, so the encoder starts at the next one.
        return _memory_from(
            model, _apply_edit(edits, site, post[edited_layer], edited_layer), {}, edited_layer + 1
        )
    return _memory_from(model, pre[edited_layer], edits, edited_layer)


def _memory_from(
    model: Whisper, x: Float[Array, "1 S D"], edits: Edits, edited_layer: Int[Array, ""]
) -> Memory:
    """Encodes from the residual before layer `edited_layer`, which may be the number of layers."""
    positions = jnp.arange(x.shape[1], dtype=jnp.int32)[None]

    def run_layer(i: Int[Array, ""], x: Float[Array, "1 S D"]) -> Float[Array, "1 S D"]:
        block = jax.tree.map(
            lambda stacked: jax.lax.dynamic_index_in_dim(stacked, i, keepdims=False),
            model.encoder.blocks,
        )
        return block(x, Tap("encoder.", edits, NOTHING, i, positions))[0]

    x = jax.lax.fori_loop(edited_layer, model.config.n_audio_layer, run_layer, x)
    tap = Tap("encoder.", edits, NOTHING, jnp.int32(-1), positions)
    xa = tap("ln_post", model.encoder.ln_post(x))
    return model.decoder.memory(xa, unstacked=True).stacked()


def _apply_edit(
    edits: Edits, site: str, x: Float[Array, "1 S D"], layer: Int[Array, ""]
) -> Float[Array, "1 S D"]:
    at = At(layer, jnp.arange(x.shape[1], dtype=jnp.int32)[None], None, site)
    return edits[site](x, at).astype(x.dtype)
