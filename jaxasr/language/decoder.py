"""Defines the language model, which predicts the next token from text and audio tokens."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxasr.blocks import stack_layers
from jaxasr.cache import Cache, Past, Prefix
from jaxasr.config import Config
from jaxasr.decoder import Decoder, make_embedding
from jaxasr.fused_attention import Mask
from jaxasr.language.blocks import LanguageBlock, RmsNorm
from jaxasr.language.rotary import make_rotation
from jaxasr.stack import RunBlock
from jaxasr.taps import Tap


class LanguageDecoder(Decoder):
    """Computes the logits of the next token from the tokens so far, audio tokens among them."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        shape = config.decoder
        assert config.audio_token is not None  # `Config` checks it
        self.token_embedding = make_embedding(config, config.n_vocab, rngs)
        self.projection = None if config.tied else make_embedding(config, config.n_vocab, rngs)
        self.blocks = stack_layers(lambda rngs: LanguageBlock(config, rngs), shape.n_layer, rngs)
        self.ln = RmsNorm(config)
        self.dtype = config.dtype
        self.audio_token = config.audio_token
        self.d_head = shape.d_head
        self.rope_theta = config.rope_theta

    def memory(
        self,
        xa: Float[Array, "B A D"],
        unstacked: bool = False,
        blocks: Any = None,
        lengths: Int[Array, "B"] | None = None,
    ) -> Prefix:
        """Returns the encoder output as the prefix that the language model reads.

        Args:
            xa: projected audio [B, A, D].
            unstacked: without effect; no layer has its own part of a prefix.
            blocks: without effect.
            lengths: int32 [B], audio tokens of each row. None: A.
        """
        del unstacked, blocks
        lengths = jnp.full(xa.shape[0], xa.shape[1], jnp.int32) if lengths is None else lengths
        return Prefix(xa, jnp.asarray(lengths, jnp.int32))

    def frames(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        memory: Prefix,
        cache: Cache | None = None,
    ) -> Int[Array, "B T"]:
        """Returns the index of the audio token at each position, and -1 at text and padding.

        Args:
            tokens: int32 [B, T].
            positions: int32 [B, T], absolute; negative at padding.
            memory: encoded audio.
            cache: earlier tokens, which may hold the first audio tokens. None: there are none.
        """
        is_audio = (tokens == self.audio_token) & (positions >= 0)
        rank = jnp.cumsum(is_audio, axis=1, dtype=jnp.int32) - 1
        if cache is not None and cache.frames is not None:
            rank += (cache.frames >= 0).sum(1, keepdims=True, dtype=jnp.int32)
        return jnp.where(is_audio & (rank < memory.lengths[:, None]), rank, -1)

    def embed(
        self, tokens: Int[Array, "B T"], frames: Int[Array, "B T"], memory: Prefix
    ) -> Float[Array, "B T D"]:
        """Returns token embeddings, with projected audio in place of audio tokens.

        Args:
            tokens: int32 [B, T].
            frames: int32 [B, T], from `frames`.
            memory: encoded audio.
        """
        audio = jnp.take_along_axis(memory.xa, jnp.maximum(frames, 0)[:, :, None], axis=1)
        return jnp.where(
            frames[:, :, None] >= 0, audio.astype(self.dtype), self.embed_tokens(tokens)
        )

    def embed_inputs(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        memory: Prefix,
        frames: Int[Array, "B T"],
    ) -> Float[Array, "B T D"]:
        """Returns the residual stream before the first layer. It has no positions."""
        del positions
        return self.embed(tokens, frames, memory)

    def layer_inputs(self, memory: Prefix, past: Any, blocks: Any) -> tuple[Any, Any]:
        """Returns the layers to run, and the keys and values of earlier tokens for each."""
        del memory  # read by `embed_inputs`
        blocks = self.blocks if blocks is None else blocks
        if past is None and isinstance(blocks, tuple):
            past = [None] * len(blocks)
        return blocks, past

    def block_runner(
        self, positions: Int[Array, "B T"], mask: Mask, cache: Cache | None
    ) -> RunBlock:
        """Returns the function that runs one layer; see `run_stack`."""
        rotation = make_rotation(positions, self.d_head, self.rope_theta, self.dtype)

        def run_block(
            block: LanguageBlock, past: Past | None, x: Array, tap: Tap
        ) -> tuple[Array, Past | None]:
            return block(x, tap, rotation, mask, past, cache)

        return run_block
