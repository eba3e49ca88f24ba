"""Stores the layers, heads, positions or frames of an edit as a pytree of indices."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxasr import pytrees
from jaxasr.taps import is_traced

# Types of indices that have values to print. JAX also puts placeholders into pytrees.
_INDICES = (jax.Array, np.ndarray, np.integer, int)


@pytrees.dataclass
class Among:
    """A set of indices, `values` int [n]. A call returns True for an index in the set."""

    values: Int[Array, "n"]

    def __call__(self, index: Int[Array, "*shape"]) -> Bool[Array, "*shape"]:
        return (jnp.asarray(index)[..., None] == self.values).any(-1)

    def bounds(self) -> tuple[Any, Any]:
        """Returns start and stop of the smallest range that contains all indices."""
        return self.values.min(), self.values.max() + 1

    def __repr__(self) -> str:
        has_values = isinstance(self.values, _INDICES) and not is_traced(self.values)
        return str(np.asarray(self.values).tolist()) if has_values else "traced"


@pytrees.dataclass
class Between:
    """The indices from `start` up to but not including `stop`. A call is as for `Among`."""

    start: Int[Array, ""]
    stop: Int[Array, ""]

    def __call__(self, index: Int[Array, "*shape"]) -> Bool[Array, "*shape"]:
        return (index >= self.start) & (index < self.stop)

    def bounds(self) -> tuple[Any, Any]:
        """Returns start and stop."""
        return self.start, self.stop

    def __repr__(self) -> str:
        bounds = self.start, self.stop
        has_values = all(isinstance(x, _INDICES) for x in bounds) and not is_traced(bounds)
        return f"{int(self.start)}:{int(self.stop)}" if has_values else "traced"


Place = Among | Between
# What users may give as a place; `as_place` converts it.
Indices = int | Sequence[int] | set[int] | range | slice | np.ndarray | Array | Place | None


def as_place(indices: Indices, name: str) -> Place | None:
    """Converts an index, several indices, a `range` or a `slice` to a place. None stays None.

    Raises:
        ValueError: the indices are empty or not integers. The message begins with `name`.

    Example:
        >>> as_place([1, 3], "heads")
        [1, 3]
        >>> as_place(slice(2, 5), "positions")
        2:5
    """
    if indices is None or isinstance(indices, Among | Between):
        return indices
    if isinstance(indices, slice):
        if indices.start is None or indices.stop is None or indices.step not in (None, 1):
            raise ValueError(
                f"{name}: expected a slice with start and stop and without step, got {indices}."
            )
        return _as_range(indices.start, indices.stop, name)
    if isinstance(indices, range) and indices.step == 1:
        return _as_range(indices.start, indices.stop, name)
    values = list(indices) if isinstance(indices, Sequence | range | set) else indices
    # NumPy where possible, because JAX would compile a program per operation.
    numpy_like: Any = jnp if is_traced(values) else np
    values = numpy_like.atleast_1d(numpy_like.asarray(values))
    if values.size == 0 or not jnp.issubdtype(values.dtype, jnp.integer):
        raise ValueError(
            f"{name}: expected one or more integers, got {indices!r}. "
            "Without an index the edit would never fire."
        )
    return Among(values.astype(jnp.int32))


def _as_range(start: Any, stop: Any, name: str) -> Between:
    if not is_traced(start, stop) and stop <= start:
        raise ValueError(
            f"{name}: the range [{start}, {stop}) is empty, so the edit would never fire."
        )
    return Between(_int32(start), _int32(stop))


def _int32(index: Any) -> Any:
    return (jnp if is_traced(index) else np).asarray(index, jnp.int32)


def check_within(indices: Place, *, size: int, name: str, site: str) -> None:
    """Raises ValueError if indices lie outside of [0, size). Does not check traced indices.

    `name` is the argument that holds `indices`, and `site` is the edited site.
    """
    low, high = indices.bounds()
    if not is_traced(low, high) and (int(np.min(low)) < 0 or int(np.max(high)) > size):
        raise ValueError(
            f"{name}: {indices!r} at {site!r} lies outside of 0 to {size - 1}, "
            "so the edit would not fire there."
        )
