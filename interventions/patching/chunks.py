"""Computes cells in chunks, and dispatches the next computation before the last is read."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

# A function that waits until dispatched values are computed, and returns them.
Deferred = Callable[[], np.ndarray]


def dispatch_chunks(
    compute: Callable[[dict[str, np.ndarray]], Any], cells: dict[str, np.ndarray], size: int
) -> Deferred:
    """Dispatches `compute` on chunks of `size` cells.

    The last chunk is padded, so that all chunks share one executable. If the device runs out of
    memory, all cells are dispatched again in chunks of half the size, with a warning.

    Args:
        compute: takes coordinates [size], and returns an array whose first axis is the cells.
        cells: coordinates [K] of every cell, by dimension.
        size: number of cells per chunk.

    Returns:
        A function that waits until all cells are computed, and returns their values.
    """
    n_cells = len(next(iter(cells.values())))

    def dispatch_smaller(error: Exception) -> Deferred:
        # XLA reports that memory ran out by this status code in the text of the error.
        if "RESOURCE_EXHAUSTED" not in str(error) or size == 1:
            raise error
        warnings.warn(
            f"sweep: out of memory with {size} cells at a time; trying {size // 2}.", stacklevel=3
        )
        return dispatch_chunks(compute, cells, size // 2)

    def wait() -> np.ndarray:
        # JAX dispatches asynchronously, so an error may first appear when values are read.
        try:
            return np.concatenate([np.asarray(chunk, np.float64) for chunk in chunks])[:n_cells]
        except jax.errors.JaxRuntimeError as error:
            return dispatch_smaller(error)()

    try:
        chunks = [
            compute({dim: _pad_chunk(values[i : i + size], size) for dim, values in cells.items()})
            for i in range(0, n_cells, size)
        ]
    except jax.errors.JaxRuntimeError as error:
        return dispatch_smaller(error)
    return wait


def dispatch_one_ahead(computations: Iterable[Deferred]) -> Iterator[np.ndarray]:
    """Yields results in order. The next computation is dispatched before the current one is read.

    Args:
        computations: an iterator that dispatches one computation per item, when the item is taken.
    """
    previous: Deferred | None = None
    for deferred in computations:
        if previous is not None:
            yield previous()
        previous = deferred
    if previous is not None:
        yield previous()


def _pad_chunk(values: np.ndarray, size: int) -> np.ndarray:
    """Repeats the last cell until there are `size` cells."""
    return np.pad(values, (0, size - len(values)), mode="edge")
