"""Edits as a user would write them: what the library must take without knowing them."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array

import jaxasr


def over_time(mask: Array, at: jaxasr.At) -> Array:
    """A mask [B, T] that broadcasts to the activation at `at.site`, over its heads, keys and features."""
    return jnp.expand_dims(
        mask, [i for i, axis in enumerate(at.axes) if i > 0 and axis != at.axes[_TIME[at.axes]]]
    )


_TIME = {
    axes: axes.index("S") if axes[1] == "S" else axes.index("T")
    for axes in jaxasr.sites.SITES.values()
}


@flax.struct.dataclass
class Shift:
    """Adds `value` at one layer and one absolute position; -1 stands for all layers, None for all positions."""

    value: Array | float
    layer: Array | int = -1
    position: Array | int | None = None

    def __call__(self, x: Array, at: jaxasr.At) -> Array:
        here = (at.layer == self.layer) | (jnp.asarray(self.layer) < 0)
        there = (
            jnp.ones_like(at.positions, bool)
            if self.position is None
            else at.positions == self.position
        )
        return x + jnp.where(over_time(here & there, at), self.value, 0)


@flax.struct.dataclass
class SilenceHead:
    """Zeroes one head of one layer at `z`."""

    layer: Array | int
    head: Array | int

    def __call__(self, x: Array, at: jaxasr.At) -> Array:
        return jnp.where(
            (at.layer == self.layer) & (jnp.arange(x.shape[2]) == self.head)[:, None], 0, x
        )


@flax.struct.dataclass
class Bend:
    """`scale * x + shift`, everywhere; with 1 and 0 it is `x`, bit by bit."""

    scale: Array | float
    shift: Array | float

    def __call__(self, x: Array, at: jaxasr.At) -> Array:
        return self.scale * x + self.shift


def identity(x: Array, at: jaxasr.At) -> Array:
    """Changes nothing, so nothing may change."""
    del at
    return x
