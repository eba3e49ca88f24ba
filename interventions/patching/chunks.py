"""Computes cells in chunks, and keeps the device busy while the host waits."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

# A function that blocks until dispatched values are computed, and returns them.
Deferred = Callable[[], np.ndarray]


def dispatch_chunks(
    compute: Callable[[dict[str, np.ndarray]], Any], cells: dict[str, np.ndarray], size: int
) -> Deferred:
    """Dispatches `compute` on chunks of `size` cells.

    The last chunk is padded, so that all chunks share one executable. If the device runs out of
    memory, the chunks are halved and a warning is issued.

    Args:
        compute: takes coordinates [size] and returns an array whose first axis is the cells.
        cells: coordinates [K].
        size: cells per chunk.

    Returns:
        A function that blocks until all cells are computed and returns their values.
    """
    n_cells = len(next(iter(cells.values())))

    def dispatch_smaller(error: Exception) -> Deferred:
        if "RESOURCE_EXHAUSTED" not in str(error) or size == 1:
            raise error
        warnings.warn(
            f"sweep: out of memory with {size} cells at a time; trying {size // 2}.", stacklevel=3
        )
        return dispatch_chunks(compute, cells, size // 2)

    def wait() -> np.ndarray:
        # JAX may report that memory ran out when chunks are dispatched, or when they are read.
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
    waiting: Deferred | None = None
    for deferred in computations:
        if waiting is not None:
            yield waiting()
        waiting = deferred
    if waiting is not None:
        yield waiting()


def _pad_chunk(values: np.ndarray, size: int) -> np.ndarray:
    return np.pad(values, (0, size - len(values)), mode="edge")
