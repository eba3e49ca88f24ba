"""Defines the arrays that the decoder reuses: the encoded audio and the KV cache."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxasr import pytrees
from jaxasr.stack import n_layers, unstack

# Position of an empty slot. It is later than any query, so that the causal mask hides the slot.
_EMPTY_POSITION = 2**30


@pytrees.dataclass
class Memory:
    """Encoded audio: the encoder output and each decoder layer's cross-attention keys and values.

    Keys and values are computed once per recording. A scan over layers needs them stacked, in one
    array with a layer axis. A loop over tokens runs faster if they are unstacked, in a tuple with
    one array per layer.

    Attributes:
        xa: encoder output [B, S, D].
        k: keys [L, B, H, S, Dh], or a tuple of L arrays [B, H, S, Dh].
        v: values, like `k`.

    Example:
        ```python
        memory, _ = asr.model.encode(jaxasr.log_mel(audio, asr.config.n_mels)[None])
        logits, _ = asr.model.decode(tokens, memory)
        ```
    """

    xa: Float[Array, "B S D"]
    k: Float[Array, "L B H S Dh"] | tuple[Float[Array, "B H S Dh"], ...]
    v: Float[Array, "L B H S Dh"] | tuple[Float[Array, "B H S Dh"], ...]

    def unstacked(self) -> "Memory":
        """Returns the same memory with one array per layer, the layout that `generate` uses."""
        if isinstance(self.k, tuple):
            return self
        return dataclasses.replace(self, k=unstack(self.k), v=unstack(self.v))

    def stacked(self) -> "Memory":
        """Returns the same memory with a leading [layers] axis of `k` and `v`."""
        if not isinstance(self.k, tuple):
            return self
        return dataclasses.replace(self, k=jnp.stack(self.k), v=jnp.stack(self.v))

    def rows(self, rows: slice | Int[np.ndarray, "n"]) -> "Memory":
        """Returns the recordings `rows`, in this order.

        Example:
            >>> memory.rows(np.array([0, 0])).xa.shape[0]  # the first recording twice
            2
        """
        if isinstance(self.k, tuple):
            return jax.tree.map(lambda x: x[rows], self)
        # Keys and values begin with the layer axis, `xa` with the batch axis.
        return Memory(self.xa[rows], self.k[:, rows], self.v[:, rows])  # pyright: ignore

    def __repr__(self) -> str:
        shape, arrays = np.shape(self.xa), jax.tree.leaves(self)
        if len(shape) != 3 or not all(hasattr(array, "nbytes") for array in arrays):
            return f"Memory(xa={self.xa!r})"  # JAX also builds a memory of placeholders
        rows = f"{shape[0]} recording" + "s" * (shape[0] != 1)
        megabytes = sum(array.nbytes for array in arrays) / 1e6
        return (
            f"Memory({rows}, {shape[1]} frames, width {shape[2]}, {n_layers(self.k)} layers, "
            f"{self.xa.dtype}, {megabytes:.1f} MB)"
        )


@pytrees.dataclass
class Prefix:
    """Encoded audio that a language model reads among its tokens, in place of audio tokens.

    Attributes:
        xa: projected audio [B, A, D], at most A audio tokens per row.
        lengths: int32 [B], audio tokens of each row. Later rows of `xa` are padding.

    Example:
        ```python
        prefix, _ = audio_lm.encode(lm_mel, lengths=[40, 29])  # mel frames before the padding
        # The tokens of a row hold the audio token once per step of its audio.
        logits, _ = audio_lm.decode(lm_tokens, prefix, positions=lm_positions)
        ```
    """

    xa: Float[Array, "B A D"]
    lengths: Int[Array, "B"]

    def unstacked(self) -> "Prefix":
        """Returns the same prefix, because no layer has its own part of it."""
        return self

    def stacked(self) -> "Prefix":
        """Returns the same prefix, because no layer has its own part of it."""
        return self

    def rows(self, rows: slice | Int[np.ndarray, "n"]) -> "Prefix":
        """Returns the recordings `rows`, in this order."""
        return Prefix(self.xa[rows], self.lengths[rows])

    def __repr__(self) -> str:
        shape, lengths = np.shape(self.xa), np.shape(self.lengths)
        if len(shape) != 3 or len(lengths) != 1 or not hasattr(self.xa, "nbytes"):
            return f"Prefix(xa={self.xa!r})"  # JAX also builds a prefix of placeholders
        rows = f"{shape[0]} recording" + "s" * (shape[0] != 1)
        return (
            f"Prefix({rows}, up to {shape[1]} audio tokens, width {shape[2]}, {self.xa.dtype}, "
            f"{self.xa.nbytes / 1e6:.1f} MB)"
        )


EncodedAudio = Memory | Prefix
"""What `encode` returns: the memory of cross-attention, or the prefix of a language model."""


@pytrees.dataclass
class Past:
    """The self-attention keys and values of one layer, with empty slots for later tokens.

    The same class with a leading [layers] axis holds all layers, stacked.
    """

    k: Float[Array, "*L B H S Dh"]
    v: Float[Array, "*L B H S Dh"]

    def append(
        self, start: Int[Array, ""], k: Float[Array, "B H T Dh"], v: Float[Array, "B H T Dh"]
    ) -> "Past":
        """Returns a copy with the keys and values of new tokens in the slots from `start` on."""
        slot = (0, 0, start, 0)  # where the new tokens begin on the axes [B, H, S, Dh]
        return Past(
            jax.lax.dynamic_update_slice(self.k, k, slot),
            jax.lax.dynamic_update_slice(self.v, v, slot),
        )


@pytrees.dataclass
class MaskedPast(Past):
    """A `Past` that updates its slots through a mask.

    Under `vmap`, the `dynamic_update_slice` of `Past` would become a scatter or copy the whole
    cache.
    """

    def append(
        self, start: Int[Array, ""], k: Float[Array, "B H T Dh"], v: Float[Array, "B H T Dh"]
    ) -> "MaskedPast":
        """Returns a copy with the keys and values of new tokens in the slots from `start` on."""
        # For each slot, the index in `k` of the token that belongs in it. Slots without a new token
        # have an index outside of `k`. The clip makes the index valid, and `is_new` keeps the slot.
        index = jnp.arange(self.k.shape[2]) - start
        is_new = ((index >= 0) & (index < k.shape[2]))[:, None]
        index = jnp.clip(index, 0, k.shape[2] - 1)

        def update(new: Array, old: Array) -> Array:
            return jnp.where(is_new, jnp.take(new, index, 2), old)

        return MaskedPast(update(k, self.k), update(v, self.v))


@pytrees.dataclass
class Cache:
    """The self-attention cache of all layers.

    Attributes:
        past: keys and values, stacked, or a tuple with one `Past` per layer.
        positions: int32 [B, S], the absolute position in each slot.
        start: int32 scalar, the slot of the first token of the current pass.
        frames: int32 [B, S], the audio token in each slot, -1 for text. None: no audio tokens.
    """

    past: Past | tuple[Past, ...]
    positions: Int[Array, "B S"]
    start: Int[Array, ""]
    frames: Int[Array, "B S"] | None = None

    @classmethod
    def empty(
        cls,
        n_layer: int,
        batch: int,
        n_head: int,
        size: int,
        d_head: int,
        dtype: str,
        past_class: type[Past] = Past,
    ) -> "Cache":
        """Returns a stacked cache with `size` empty slots per row."""
        zeros = jnp.zeros((n_layer, batch, n_head, size, d_head), dtype)
        positions = jnp.full((batch, size), _EMPTY_POSITION, jnp.int32)
        return cls(past_class(zeros, zeros), positions, jnp.int32(0))

    def prepared(self, start: Int[Array, ""], positions: Int[Array, "B T"]) -> "Cache":
        """Returns the cache for a pass over tokens at `positions`.

        The pass will write the keys and values of its tokens to the slots from `start` on.
        """
        return dataclasses.replace(
            self,
            start=start,
            positions=jax.lax.dynamic_update_slice(self.positions, positions, (0, start)),
        )

    def with_frames(self, frames: Int[Array, "B T"]) -> "Cache":
        """Returns the cache with the audio tokens of the slots from `start` on."""
        # An empty slot holds no audio token.
        old = jnp.full_like(self.positions, -1) if self.frames is None else self.frames
        updated = jax.lax.dynamic_update_slice(old, frames, (0, self.start))
        return dataclasses.replace(self, frames=updated)
