"""Computes cells of a language model, which reads encoded audio among its tokens.

Audio tokens are positions like those of text, so their keys and values are stored like those of any
unedited position, and all cells share them. JAX traces every function of this module.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from interventions.patching.resumed_decoder import Layer, ResumedDecoder
from jaxasr import pytrees
from jaxasr.cache import Cache, Past, Prefix
from jaxasr.config import Config
from jaxasr.language.blocks import LanguageBlock
from jaxasr.language.decoder import LanguageDecoder
from jaxasr.language.rotary import Rotation, make_rotation
from jaxasr.taps import NOTHING, Edits, Tap


@pytrees.dataclass
class ResumedLanguageDecoder(ResumedDecoder):
    """The language model from the edited layer to the last; see `ResumedDecoder`."""

    def _make_tap(self, edits: Edits, positions: Int[Array, "1 R"], keys: Int[Array, "1 S"]) -> Tap:
        assert isinstance(self.memory, Prefix)
        all_positions = jnp.arange(self.tokens.shape[1], dtype=jnp.int32)[None]
        frames = self._decoder.frames(self.tokens, all_positions, self.memory)
        return Tap(
            "decoder.",
            edits,
            NOTHING,
            self.edited_layer,
            positions,
            frames[:, positions[0]],
            frames[:, keys[0]],
        )

    def _run_block(
        self,
        block: LanguageBlock,
        audio: None,
        x: Array,
        tap: Tap,
        mask: Array,
        past: Past,
        cache: Cache,
    ) -> Float[Array, "1 R D"]:
        del audio
        return block(x, tap, self._rotation(tap.positions), mask, past, cache)[0]

    def _run_unedited_layer(
        self, layer: Layer, x: Float[Array, "K R D"], queries: Int[Array, "P"] | None = None
    ) -> Float[Array, "K P D"]:
        """Runs an unedited layer; see `ResumedDecoder`."""
        block, _, *stored = self._layer_weights(layer, unstacked=self.blocks is not None)
        tap = Tap("decoder.", {}, NOTHING, jnp.int32(-1), jnp.zeros((1, 1), jnp.int32))
        normed, mask = block.attn_ln(x), jnp.asarray(self.rows.mask)
        rotation = self._rotation(jnp.asarray(self.rows.positions)[None])
        k, v = block.attn.keys_values(normed, rotation, tap)
        if queries is not None:
            x, normed, mask = x[:, queries], normed[:, queries], mask[queries]
            rotation = jax.tree.map(lambda table: table[:, queries], rotation)
        q = block.attn.queries(normed, rotation, tap)
        past = self._stored_then_rows(*stored)
        z = attend_to_shared_and_own(q, past.k[0], past.v[0], k, v, mask).astype(x.dtype)
        x = x + block.attn.out(jnp.swapaxes(z, 1, 2).reshape(*x.shape[:-1], -1))
        return x + block.mlp(block.mlp_ln(x), tap)

    def _layer_weights(
        self, layer: Layer, unstacked: bool
    ) -> tuple[LanguageBlock, None, Array, Array]:
        def take(stacked: Array) -> Array:
            return jax.lax.dynamic_index_in_dim(stacked, layer, keepdims=False)

        if unstacked:
            assert self.blocks is not None
            block = self.blocks[layer]
        else:
            block = jax.tree.map(take, self._decoder.blocks)
        # Only products read keys and values, so they have the dtype of products.
        dtype = self.model.config.product_dtype
        return block, None, take(self.trace.k).astype(dtype), take(self.trace.v).astype(dtype)

    def _rotation(self, positions: Int[Array, "B R"]) -> Rotation:
        decoder = self._decoder
        return make_rotation(positions, decoder.d_head, decoder.rope_theta, decoder.dtype)

    @property
    def _decoder(self) -> LanguageDecoder:
        assert isinstance(self.model.decoder, LanguageDecoder)
        return self.model.decoder


def attend_to_shared_and_own(
    q: Float[Array, "K H T Dh"],
    shared_k: Float[Array, "G N Dh"],
    shared_v: Float[Array, "G N Dh"],
    k: Float[Array, "K G R Dh"],
    v: Float[Array, "K G R Dh"],
    mask: Bool[Array, "T NR"],
) -> Float[Array, "K H T Dh"]:
    """Attends to keys that all K cells share, and to those of the cell.

    The shared keys are not copied per cell. Most keys are shared if the prompt has audio.

    Args:
        q: rotated queries [K, H, T, Dh] of H heads.
        shared_k: N rotated keys [G, N, Dh] of G key-value heads, for all cells.
        shared_v: values [G, N, Dh] of the shared keys.
        k: R rotated keys per cell [K, G, R, Dh].
        v: values [K, G, R, Dh] of these keys.
        mask: bool [T, N + R], True where a query may attend to a shared key, then to a key of its
            cell.

    Returns:
        Mixed values [K, H, T, Dh].
    """
    n_cells, n_head, n_queries, d_head = q.shape
    n_groups, n_shared = shared_k.shape[:2]
    shape = n_groups, n_cells, n_head // n_groups, n_queries
    rows = math.prod(shape[1:])  # of a group, in all cells
    wide = jnp.promote_types(q.dtype, jnp.float32)
    multiply = functools.partial(jnp.einsum, preferred_element_type=wide)
    # The heads come first, because a CPU then multiplies two matrices per head. With the cells
    # first, it would copy the scores.
    grouped = (q * d_head**-0.5).reshape(n_cells, *shape[:1], *shape[2:], d_head)
    grouped = jnp.swapaxes(grouped, 0, 1).reshape(n_groups, n_cells, -1, d_head)
    to_shared = multiply("gmd,gnd->gmn", grouped.reshape(n_groups, rows, d_head), shared_k)
    to_own = multiply("gkmd,kgrd->gkmr", grouped, k)
    to_shared = jnp.where(mask[:, :n_shared], to_shared.reshape(*shape, n_shared), -jnp.inf)
    to_own = jnp.where(mask[:, n_shared:], to_own.reshape(*shape, k.shape[2]), -jnp.inf)
    # One softmax over both parts, which are never concatenated. A query attends to its own key, so
    # the largest score is finite.
    largest = jnp.maximum(to_shared.max(-1, initial=-jnp.inf), to_own.max(-1))[..., None]
    to_shared, to_own = jnp.exp(to_shared - largest), jnp.exp(to_own - largest)
    total = (to_shared.sum(-1) + to_own.sum(-1))[..., None]
    to_shared = to_shared.astype(q.dtype).reshape(n_groups, rows, n_shared)
    to_own = to_own.astype(q.dtype).reshape(*grouped.shape[:3], k.shape[2])
    z = multiply("gmn,gnd->gmd", to_shared, shared_v).reshape(*shape, d_head)
    z += multiply("gkmr,kgrd->gkmd", to_own, v).reshape(*shape, d_head)
    return jnp.swapaxes((z / total).astype(q.dtype), 0, 1).reshape(q.shape)


def resumed_decoder_class(config: Config) -> type[ResumedDecoder]:
    """Returns the class that resumes the decoder of a model.

    Args:
        config: dimensions of the model.

    Example:
        >>> import jaxasr
        >>> from interventions.patching.resumed_language import resumed_decoder_class
        >>> resumed_decoder_class(jaxasr.SIZES["tiny.en"]).__name__
        'ResumedDecoder'
    """
    return ResumedDecoder if config.audio_language is None else ResumedLanguageDecoder
