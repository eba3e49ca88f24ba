"""The decoder's two memories: what it has heard and what it has said."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxasr import pytrees
from jaxasr.stack import unstack

_NOT_YET = (
    2**30
)  # the position of an empty slot: later than every query, so the causal mask hides it


@pytrees.dataclass
class Memory:
    """What the decoder knows of the audio: the encoder output and, computed once, every layer's cross-attention keys and values.

    These are stacked, for loops over layers, or `unstacked`, a tuple with one array a layer, for loops over tokens.
    """

    xa: Float[Array, "B S D"]
    k: Float[Array, "L B H S Dh"] | tuple[Float[Array, "B H S Dh"], ...]
    v: Float[Array, "L B H S Dh"] | tuple[Float[Array, "B H S Dh"], ...]

    def unstacked(self) -> "Memory":
        return (
            self
            if isinstance(self.k, tuple)
            else self.replace(k=unstack(self.k), v=unstack(self.v))
        )

    def stacked(self) -> "Memory":
        return (
            self.replace(k=jnp.stack(self.k), v=jnp.stack(self.v))
            if isinstance(self.k, tuple)
            else self
        )


@pytrees.dataclass
class Past:
    """One layer's self-attention keys and values of the tokens so far, with room for those to come; or all layers', stacked."""

    k: Float[Array, "*L B H S Dh"]
    v: Float[Array, "*L B H S Dh"]

    def append(
        self, start: Int[Array, ""], k: Float[Array, "B H T Dh"], v: Float[Array, "B H T Dh"]
    ) -> "Past":
        where = (0, 0, start, 0)
        return Past(
            jax.lax.dynamic_update_slice(self.k, k, where),
            jax.lax.dynamic_update_slice(self.v, v, where),
        )


@pytrees.dataclass
class Masked(Past):
    """The same, written slot by slot under a mask: for `vmap`, which would turn the update above into a scatter or copy all of it."""

    def append(
        self, start: Int[Array, ""], k: Float[Array, "B H T Dh"], v: Float[Array, "B H T Dh"]
    ) -> "Masked":
        column = jnp.arange(self.k.shape[2]) - start
        inside, column = (
            ((column >= 0) & (column < k.shape[2]))[:, None],
            jnp.clip(column, 0, k.shape[2] - 1),
        )
        put = lambda new, old: jnp.where(inside, jnp.take(new, column, 2), old)  # noqa: E731
        return Masked(put(k, self.k), put(v, self.v))


@pytrees.dataclass
class Cache:
    """Every layer's `Past` (stacked, or a tuple), and what all layers share: the absolute position in each slot."""

    past: Past | tuple[Past, ...]
    positions: Int[Array, "B S"]
    start: Int[Array, ""]  # the slot of the first token of the pass under way

    @classmethod
    def empty(
        cls,
        n_layer: int,
        batch: int,
        n_head: int,
        size: int,
        d_head: int,
        dtype: str,
        past: type[Past] = Past,
    ) -> "Cache":
        zeros = jnp.zeros((n_layer, batch, n_head, size, d_head), dtype)
        return cls(past(zeros, zeros), jnp.full((batch, size), _NOT_YET, jnp.int32), jnp.int32(0))

    def at(self, start: Int[Array, ""], positions: Int[Array, "B T"]) -> "Cache":
        """The cache as the tokens at `positions` enter it, in the slots from `start` on."""
        return self.replace(
            start=start,
            positions=jax.lax.dynamic_update_slice(self.positions, positions, (0, start)),
        )
