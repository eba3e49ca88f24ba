"""Defines the text decoder, which predicts the next token from tokens and encoded audio."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxasr import cpu_kernels
from jaxasr.blocks import Block, layer_norm, stacked_blocks
from jaxasr.cache import Cache, EncodedAudio, Memory, Past
from jaxasr.config import Config
from jaxasr.fused_attention import Mask
from jaxasr.stack import RunBlock, run_stack, unstack
from jaxasr.taps import Edits, Readout, Tap


class Decoder(nnx.Module):
    """Computes the logits of the next token from the tokens so far and the encoded audio."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        self.token_embedding = make_embedding(config, config.n_vocab, rngs)
        self.positional_embedding = make_embedding(config, config.n_text_ctx, rngs)
        self.projection = None if config.tied else make_embedding(config, config.n_vocab, rngs)
        self.blocks = stacked_blocks(config, config.decoder, cross=True, rngs=rngs)
        self.ln = layer_norm(config, config.n_text_state, rngs)
        self.dtype = config.dtype

    def memory(
        self,
        xa: Float[Array, "B S D"],
        unstacked: bool = False,
        blocks: tuple[Block, ...] | None = None,
    ) -> Memory:
        """Computes every layer's cross-attention keys and values of the encoder output `xa`.

        Args:
            xa: encoder output [B, S, D].
            unstacked: return a tuple with one array per layer instead of stacked arrays.
            blocks: decoder layers to use if `unstacked`, as a tuple. None: unstack `self.blocks`.
        """
        if not unstacked:
            layers = self.blocks.cross_attn
            return Memory(xa, *jax.vmap(lambda attn: attn.keys_values(xa))(layers))
        layers = (
            unstack(self.blocks.cross_attn)
            if blocks is None
            else [block.cross_attn for block in blocks]
        )

        def keys_values(xa: Array) -> list[tuple[Array, Array]]:
            return [attn.keys_values(xa) for attn in layers]

        def keys_values_of_row(row: Array) -> list[tuple[Array, Array]]:
            return jax.tree.map(lambda x: x[0], keys_values(row[None]))

        # A CPU computes row by row, because the values of one row fit in its cache.
        k, v = zip(*cpu_kernels.map_rows(keys_values, xa, keys_values_of_row), strict=True)
        return Memory(xa, k, v)

    def embed(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Adds token and position embeddings. Padding (negative positions) takes position 0."""
        token = self.embed_tokens(tokens)
        rows = self.positional_embedding[...].at[jnp.maximum(positions, 0)]
        position = rows.get(mode="fill", fill_value=jnp.nan)
        return token + position.astype(self.dtype)

    def embed_tokens(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Returns the embeddings of tokens, without positions."""
        # An index outside its table gives NaN. By default JAX would take the last row of the table
        # without an error, or count a negative index from the end.
        rows = self.token_embedding[...].at[tokens]
        token = rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return token.astype(self.dtype)

    @property
    def unembedding(self) -> Float[Array, "V D"]:
        """The vectors whose dot products with the normalised residual stream are the logits."""
        return (self.token_embedding if self.projection is None else self.projection)[...]

    def unembed(self, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Returns the logits of a normalised residual stream, in float32 or wider."""
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.einsum(
            "...d,vd->...v", x, self.unembedding.astype(x.dtype), preferred_element_type=wide
        )

    def residual(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        memory: EncodedAudio,
        edits: Edits,
        readout: Readout,
        cache: Cache | None = None,
        blocks: Any = None,
        unroll: int = 1,
    ) -> tuple[Float[Array, "B T D"], Cache | None, Tap, dict[str, Any]]:
        """Embeds the tokens and runs all layers.

        Args:
            tokens: int32 [B, T].
            positions: int32 [B, T], absolute; negative at padding.
            memory: encoded audio; unstacked if `blocks` are given.
            edits: edits of decoder sites.
            readout: what to return of the activations.
            cache: keys and values of earlier tokens, prepared for `positions` by `Cache.prepared`;
                unstacked if `blocks` are given.
            blocks: unstacked layers. None: scan the stacked layers of the decoder.
            unroll: layers per step of the scan.

        Returns:
            The residual stream [B, T, D] after the last layer; the updated cache; the tap for
            `to_logits`, which records the activations outside the layers; and what `readout` keeps
            of the activations in the layers.
        """
        frames = self.frames(tokens, positions, memory, cache)
        if cache is not None and frames is not None:
            cache = cache.with_frames(frames)
        keys = (positions, frames) if cache is None else (cache.positions, cache.frames)
        key_positions, key_frames = keys
        # -1: outside the layers
        tap = Tap("decoder.", edits, readout, jnp.int32(-1), positions, frames, key_frames)
        x = tap("embed", self.embed_inputs(tokens, positions, memory, frames))
        # The mask by absolute positions also hides padding and empty slots of the cache.
        mask = causal_mask(positions, key_positions)
        blocks, inputs = self.layer_inputs(memory, None if cache is None else cache.past, blocks)
        x, past, acts = run_stack(
            blocks,
            x,
            self.block_runner(positions, mask, cache),
            stack="decoder",
            positions=positions,
            edits=edits,
            readout=readout,
            layer_inputs=inputs,
            unroll=unroll,
            frames=frames,
            key_frames=key_frames,
        )
        return x, None if cache is None else dataclasses.replace(cache, past=past), tap, acts

    def frames(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        memory: EncodedAudio,
        cache: Cache | None = None,
    ) -> Int[Array, "B T"] | None:
        """Returns the audio token that each position holds; None if tokens hold no audio."""
        del tokens, positions, memory, cache

    def embed_inputs(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        memory: EncodedAudio,
        frames: Int[Array, "B T"] | None,
    ) -> Float[Array, "B T D"]:
        """Returns the residual stream before the first layer."""
        del memory, frames
        return self.embed(tokens, positions)

    def layer_inputs(self, memory: EncodedAudio, past: Any, blocks: Any) -> tuple[Any, Any]:
        """Returns the layers to run, and the input of each in the same layout."""
        assert isinstance(memory, Memory)  # `check_audio_tokens` refuses a prefix
        blocks, memory = (self.blocks, memory.stacked()) if blocks is None else (blocks, memory)
        return blocks, _pair_inputs((memory.k, memory.v), past, blocks)

    def block_runner(
        self, positions: Int[Array, "B T"], mask: Mask, cache: Cache | None
    ) -> RunBlock:
        """Returns the function that runs one layer; see `run_stack`."""

        def run_block(block: Block, inputs: tuple, x: Array, tap: Tap) -> tuple[Array, Past | None]:
            cross_kv, past = inputs
            return block(x, tap, mask, past, cache, cross_kv)

        return run_block

    def to_logits(self, x: Float[Array, "B T D"], tap: Tap) -> Float[Array, "B T V"]:
        """Returns the logits [B, T, V] of the residual stream after the last layer."""
        return tap("logits", self.unembed(tap("ln", self.ln(x))))


def make_embedding(config: Config, n: int, rngs: nnx.Rngs) -> nnx.Param:
    """Returns `n` random vectors of the width of the decoder."""
    normal = jax.nn.initializers.normal(0.02)
    return nnx.Param(normal(rngs(), (n, config.n_text_state), config.param_dtype))


def _pair_inputs(cross_kv: Any, past: Any, blocks: Any) -> Any:
    """Pairs the audio's keys and values with the past of each layer, in the layout of `blocks`."""
    # A scan slices the pair by layer. A loop needs one pair per layer.
    if not isinstance(blocks, tuple):
        return cross_kv, past
    return tuple(zip(zip(*cross_kv, strict=True), past or [None] * len(blocks), strict=True))


def causal_mask(queries: Int[Array, "B T"], keys: Int[Array, "B S"]) -> Bool[Array, "B 1 T S"]:
    """Returns True where a query may attend to a key, at its own and at earlier positions.

    Padding has negative positions. It attends only to itself, and no other token attends to it.

    Args:
        queries: int32 [B, T], absolute positions.
        keys: int32 [B, S], absolute positions.
    """
    q, k = queries[:, None, :, None], keys[:, None, None, :]
    return (k <= q) & ((k >= 0) | (k == q))
