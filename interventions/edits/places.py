"""Where an edit applies: sets of layers, heads, positions and frames, as pytrees of indices."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxasr import pytrees
from jaxasr.taps import is_traced


@pytrees.dataclass
class Among:
    """The indices in `values`, int [n]."""

    values: Int[Array, "n"]

    def __call__(self, index: Int[Array, "*shape"]) -> Bool[Array, "*shape"]:
        return (jnp.asarray(index)[..., None] == self.values).any(-1)

    def bounds(self) -> tuple[Any, Any]:
        return self.values.min(), self.values.max() + 1

    def __repr__(self) -> str:
        return "traced" if is_traced(self.values) else str(np.asarray(self.values).tolist())


@pytrees.dataclass
class Between:
    """The half-open range [start, stop)."""

    start: Int[Array, ""]
    stop: Int[Array, ""]

    def __call__(self, index: Int[Array, "*shape"]) -> Bool[Array, "*shape"]:
        return (index >= self.start) & (index < self.stop)

    def bounds(self) -> tuple[Any, Any]:
        return self.start, self.stop

    def __repr__(self) -> str:
        return (
            "traced" if is_traced(self.start, self.stop) else f"{int(self.start)}:{int(self.stop)}"
        )


Place = Among | Between


def place(indices: Any, name: str) -> Place | None:
    """`None`, one index, several, a `range` or a `slice` as a place. Raises ValueError for anything else, and for none at all."""
    if indices is None or isinstance(indices, Among | Between):
        return indices
    if isinstance(indices, slice):
        if indices.start is None or indices.stop is None or indices.step not in (None, 1):
            raise ValueError(
                f"{name}: expected a slice with start and stop and without step, got {indices}."
            )
        return _between(indices.start, indices.stop, name)
    if isinstance(indices, range) and indices.step == 1:
        return _between(indices.start, indices.stop, name)
    values = list(indices) if isinstance(indices, Sequence | range | set) else indices
    numbers = jnp if is_traced(values) else np  # on the host nothing need be compiled
    values = numbers.atleast_1d(numbers.asarray(values))
    if values.size == 0 or not jnp.issubdtype(values.dtype, jnp.integer):
        raise ValueError(
            f"{name}: expected integers, at least one, got {indices!r}. With none the edit would never fire."
        )
    return Among(values.astype(jnp.int32))


def _between(start: Any, stop: Any, name: str) -> Between:
    if not is_traced(start, stop) and stop <= start:
        raise ValueError(
            f"{name}: the range [{start}, {stop}) is empty; the edit would never fire."
        )
    return Between(*((jnp if is_traced(x) else np).asarray(x, jnp.int32) for x in (start, stop)))


def check_within(where: Place, size: int, name: str, site: str) -> None:
    """Raises ValueError when a concrete place reaches outside [0, size)."""
    low, high = where.bounds()
    if not is_traced(low, high) and (int(np.min(low)) < 0 or int(np.max(high)) > size):
        raise ValueError(
            f"{name}: {where!r} at {site!r} lies outside of 0 to {size - 1}, so the edit would not fire there."
        )
