"""Runs an edited encoder from the stored residual of the edited layer.

JAX traces every function of this module.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxasr.cache import Memory
from jaxasr.model import Whisper
from jaxasr.taps import NOTHING, At, Edits, Tap

RESIDUAL_SITES = "encoder.resid_pre", "encoder.resid_post"
# Residuals before every layer, and residuals after every layer.
Residuals = tuple[Float[Array, "L 1 S D"], Float[Array, "L 1 S D"]]


def resumed_memory(
    model: Whisper, site: str, residuals: Residuals, edits: Edits, edited_layer: Int[Array, ""]
) -> Memory:
    """Encodes with an edit in one layer, starting from the stored residual of that layer.

    Args:
        model: the model.
        site: the edited site, which has a layer axis.
        residuals: residuals of the unedited recording.
        edits: the edit, {site: edit}.
        edited_layer: index of the edited layer.
    """
    pre, post = residuals
    if site == "encoder.resid_post":
        # The edit replaces the output of this layer, so the encoder starts at the next one.
        x = _apply_edit(edits, site, post[edited_layer], edited_layer)
        return _memory_from(model, x, {}, edited_layer + 1)
    return _memory_from(model, pre[edited_layer], edits, edited_layer)


def _memory_from(
    model: Whisper, x: Float[Array, "1 S D"], edits: Edits, first_layer: Int[Array, ""]
) -> Memory:
    """Encodes from `x`, the residual before layer `first_layer`.

    If `first_layer` is the number of layers, no layer runs.
    """
    positions = jnp.arange(x.shape[1], dtype=jnp.int32)[None]

    def run_layer(i: Int[Array, ""], x: Float[Array, "1 S D"]) -> Float[Array, "1 S D"]:
        block = jax.tree.map(
            lambda stacked: jax.lax.dynamic_index_in_dim(stacked, i, keepdims=False),
            model.encoder.blocks,
        )
        return block(x, Tap("encoder.", edits, NOTHING, i, positions))[0]

    x = jax.lax.fori_loop(first_layer, model.config.n_audio_layer, run_layer, x)
    # "ln_post" has no layer axis, so its tap has no layer: -1.
    tap = Tap("encoder.", edits, NOTHING, jnp.int32(-1), positions)
    xa = tap("ln_post", model.encoder.ln_post(x))
    return model.decoder.memory(xa, unstacked=True).stacked()


def _apply_edit(
    edits: Edits, site: str, x: Float[Array, "1 S D"], layer: Int[Array, ""]
) -> Float[Array, "1 S D"]:
    """Applies the edit of `site` to its activation `x` at layer `layer`."""
    at = At(layer, jnp.arange(x.shape[1], dtype=jnp.int32)[None], None, site)
    return edits[site](x, at).astype(x.dtype)
