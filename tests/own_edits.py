"""Edits as a user would write them, of types that the library does not know."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array

import jaxasr


def over_time(mask: Array, at: jaxasr.At) -> Array:
    """Reshapes a mask [B, T] so that it broadcasts to the activation at `at.site`."""
    return jnp.expand_dims(
        mask, [i for i, axis in enumerate(at.axes) if i > 0 and axis != at.axes[_TIME[at.axes]]]
    )


# Per tuple of axes: the index of the time axis to which a mask [B, T] applies.
_TIME = {
    axes: axes.index("S") if axes[1] == "S" else axes.index("T")
    for axes in jaxasr.sites.SITES.values()
}


@flax.struct.dataclass
class Shift:
    """Adds `value` at one layer (-1: all layers) and one absolute position (None: all)."""

    value: Array | float
    layer: Array | int = -1
    position: Array | int | None = None

    def __call__(self, x: Array, at: jaxasr.At) -> Array:
        is_layer = (at.layer == self.layer) | (jnp.asarray(self.layer) < 0)
        is_position = (
            jnp.ones_like(at.positions, bool)
            if self.position is None
            else at.positions == self.position
        )
        return x + jnp.where(over_time(is_layer & is_position, at), self.value, 0)


@flax.struct.dataclass
class SilenceHead:
    """Sets the output `z` of one head of one layer to zero."""

    layer: Array | int
    head: Array | int

    def __call__(self, x: Array, at: jaxasr.At) -> Array:
        return jnp.where(
            (at.layer == self.layer) & (jnp.arange(x.shape[2]) == self.head)[:, None], 0, x
        )


@flax.struct.dataclass
class Bend:
    """Returns `scale * x + shift`. With scale 1 and shift 0, this is bitwise `x`."""

    scale: Array | float
    shift: Array | float

    def __call__(self, x: Array, at: jaxasr.At) -> Array:
        return self.scale * x + self.shift


def identity(x: Array, at: jaxasr.At) -> Array:
    """Returns `x`."""
    del at
    return x
