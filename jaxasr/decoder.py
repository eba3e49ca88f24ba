"""The text decoder: causal self-attention, cross-attention to the audio, unembedding."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxasr.blocks import Block, layer_norm, stack
from jaxasr.cache import Cache, Memory, Past
from jaxasr.config import Config
from jaxasr.stack import run_stack, unstack
from jaxasr.taps import Edits, Readout, Tap


class Decoder(nnx.Module):
    def __init__(self, config: Config, rngs: nnx.Rngs):
        state, normal = config.n_text_state, jax.nn.initializers.normal(0.02)
        self.token_embedding = nnx.Param(
            normal(rngs(), (config.n_vocab, state), config.param_dtype)
        )
        self.positional_embedding = nnx.Param(
            normal(rngs(), (config.n_text_ctx, state), config.param_dtype)
        )
        shape = config.n_vocab, state
        self.projection = (
            None if config.tied else nnx.Param(normal(rngs(), shape, config.param_dtype))
        )
        self.blocks = stack(config, config.n_text_layer, state, config.n_text_head, True, rngs)
        self.ln = layer_norm(config, state, rngs)
        self.dtype = config.dtype

    def memory(
        self,
        xa: Float[Array, "B S D"],
        unstacked: bool = False,
        blocks: tuple[Block, ...] | None = None,
    ) -> Memory:
        """What the audio is to the decoder; `unstacked` with one array a layer, and then `blocks` may be unstacked."""
        if not unstacked:
            return Memory(
                xa, *jax.vmap(lambda layer: layer.keys_values(xa))(self.blocks.cross_attn)
            )
        attns = (
            unstack(self.blocks.cross_attn)
            if blocks is None
            else [block.cross_attn for block in blocks]
        )

        def whole(xa: Array) -> list[tuple[Array, Array]]:
            return [attn.keys_values(xa) for attn in attns]

        def by_row(xa: Array) -> list[tuple[Array, Array]]:
            return jax.lax.map(lambda row: jax.tree.map(lambda x: x[0], whole(row[None])), xa)

        k, v = zip(
            *jax.lax.platform_dependent(xa, cpu=by_row, default=whole), strict=True
        )  # one row of frames stays in cache
        return Memory(xa, k, v)

    def embed(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        # An id below 0, or an id or a position past its table, gives NaN, never the last row in silence.
        token = (
            self.token_embedding[...]
            .at[tokens]
            .get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        )
        position = (
            self.positional_embedding[...]
            .at[jnp.maximum(positions, 0)]
            .get(mode="fill", fill_value=jnp.nan)
        )
        return token.astype(self.dtype) + position.astype(self.dtype)

    @property
    def unembedding(self) -> Float[Array, "V D"]:
        """The directions that give the logits: the token embedding, where the two are tied."""
        return (self.token_embedding if self.projection is None else self.projection)[...]

    def unembed(self, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Logits of a residual stream that has been through `ln`; at least float32."""
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.einsum(
            "...d,vd->...v", x, self.unembedding.astype(x.dtype), preferred_element_type=wide
        )

    def residual(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        memory: Memory,
        edits: Edits,
        readout: Readout,
        cache: Cache | None = None,
        blocks: Any = None,
        unroll: int = 1,
    ) -> tuple[Float[Array, "B T D"], Cache | None, Tap, dict[str, Any]]:
        """Embedding and layers. The tap holds what lies outside the layers; `head` goes on with it.

        `blocks` may be unstacked, and then `memory` must be `unstacked` and the cache, if any, unstacked too.
        """
        tap = Tap("decoder.", edits, readout, jnp.int32(-1), positions)
        x = tap("embed", self.embed(tokens, positions))
        mask = causal_mask(positions, positions if cache is None else cache.positions)

        def step(block: Block, extra: tuple, x: Array, tap: Tap) -> tuple[Array, Past | None]:
            cross, past = extra
            return block(x, tap, mask, past, cache, cross)

        blocks, memory = (self.blocks, memory.stacked()) if blocks is None else (blocks, memory)
        extra = _per_layer((memory.k, memory.v), None if cache is None else cache.past, blocks)
        x, past, acts = run_stack(
            blocks,
            x,
            step,
            stack="decoder",
            positions=positions,
            edits=edits,
            readout=readout,
            extra=extra,
            unroll=unroll,
        )
        return x, cache and cache.replace(past=past), tap, acts

    def head(self, x: Float[Array, "B T D"], tap: Tap) -> Float[Array, "B T V"]:
        return tap("logits", self.unembed(tap("ln", self.ln(x))))


def _per_layer(cross: Any, past: Any, blocks: Any) -> Any:
    if not isinstance(blocks, tuple):
        return cross, past
    return tuple(zip(zip(*cross, strict=True), past or [None] * len(blocks), strict=True))


def causal_mask(queries: Int[Array, "B T"], keys: Int[Array, "B S"]) -> Bool[Array, "B 1 T S"]:
    """A query sees keys up to its own position. Negative positions are padding: seen by nobody but themselves."""
    q, k = queries[:, None, :, None], keys[:, None, None, :]
    return (k <= q) & ((k >= 0) | (k == q))
