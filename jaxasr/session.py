"""Runs the decoder step by step, with a cache of earlier tokens."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxasr.cache import Cache, EncodedAudio, Past
from jaxasr.decoding import Request
from jaxasr.model import SpeechModel
from jaxasr.stack import unstack
from jaxasr.taps import NOTHING, Edits, Tap


@dataclasses.dataclass(frozen=True)
class DecodingSession:
    """Runs the decoder step by step. The fields stay the same during one generation."""

    model: SpeechModel
    memory: EncodedAudio  # in the layout of `blocks`
    edits: Edits
    blocks: Any  # decoder layers, stacked or as a tuple with one pytree per layer

    @classmethod
    def from_request(cls, model: SpeechModel, request: Request) -> "DecodingSession":
        """Returns a session. Its memory is unstacked if the request has unstacked layers."""
        if request.blocks is None:
            return cls(model, request.memory.stacked(), request.edits, model.decoder.blocks)
        return cls(model, request.memory.unstacked(), request.edits, request.blocks)

    def empty_cache(self, batch: int, size: int, past_class: type[Past] = Past) -> Cache:
        """Returns a cache with `size` empty slots per row, in the layout of `blocks`.

        `past_class` holds the slots of a layer: `Past`, or `MaskedPast` under `vmap`.
        """
        shape, dtype = self.model.config.decoder, self.model.config.product_dtype
        sizes = shape.n_layer, batch, shape.n_kv_head, size, shape.d_head
        cache = Cache.empty(*sizes, dtype, past_class)
        if isinstance(self.blocks, tuple):
            return dataclasses.replace(cache, past=unstack(cache.past))
        return cache

    def advance(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        cache: Cache,
        start: Int[Array, ""],
        no_speech: tuple[int, int] | None = None,
    ) -> tuple[Float[Array, "B V"], Cache, Float[Array, "B"]]:
        """Decodes tokens, and writes their keys and values to the cache from slot `start` on.

        Returns:
            Logits after the last token, the updated cache, and the no-speech probability, which is
            NaN without `no_speech`.
        """
        x, updated, tap, _ = self.model.decoder.residual(
            tokens,
            positions,
            self.memory,
            self.edits,
            NOTHING,
            cache=cache.prepared(start, positions),
            blocks=self.blocks,
        )
        assert updated is not None  # `residual` returns a cache if it receives one
        logits = self._logits(x, tap, tokens.shape[1] - 1)
        if no_speech is None:
            return logits, updated, jnp.full(tokens.shape[0], jnp.nan)
        column, token = no_speech
        return logits, updated, jax.nn.softmax(self._logits(x, tap, column))[:, token]

    def _logits(self, x: Float[Array, "B T D"], tap: Tap, column: int) -> Float[Array, "B V"]:
        """Returns the logits after one column. Edits of the logits receive its position."""
        columns = slice(column, column + 1)
        frames = None if tap.frames is None else tap.frames[:, columns]
        positions = tap.positions[:, columns]
        tap = dataclasses.replace(tap, positions=positions, frames=frames, acts={})
        return self.model.decoder.to_logits(x[:, columns], tap)[:, 0]
