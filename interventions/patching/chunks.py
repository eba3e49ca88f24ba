"""Computes cells in chunks, and dispatches the next computation before the last is read."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

# A function that waits until dispatched values are computed, and returns them.
Deferred = Callable[[], np.ndarray]


def dispatch_cells(
    compute: Callable[[dict[str, np.ndarray]], Any], cells: dict[str, np.ndarray]
) -> Deferred:
    """Dispatches `compute` on cells. If memory runs out, it is dispatched on each half of them.

    Args:
        compute: takes coordinates [n, K], and returns metrics [R, n, K, P].
        cells: coordinates [n, K] of K cells on each of n devices, by dimension.

    Returns:
        A function that waits until all cells are computed, and returns their metrics as float64.
    """
    size = next(iter(cells.values())).shape[1]

    def dispatch_halves(error: Exception) -> Deferred:
        # XLA reports that memory ran out by this status code in the text of the error.
        if "RESOURCE_EXHAUSTED" not in str(error) or size == 1:
            raise error
        half = -(-size // 2)
        warnings.warn(
            f"sweep: out of memory with {size} cells at a time; trying {half}.", stacklevel=3
        )
        # The halves overlap by one cell if the size is odd, so that both run the same program.
        halves = [
            {dim: x[:, part] for dim, x in cells.items()}
            for part in (slice(half), slice(size - half, size))
        ]
        first, second = (dispatch_cells(compute, half_cells) for half_cells in halves)
        return lambda: np.concatenate([first(), second()[:, :, 2 * half - size :]], 2)

    def wait() -> np.ndarray:
        # JAX dispatches asynchronously, so an error may first appear when values are read.
        try:
            return np.asarray(metrics, np.float64)
        except jax.errors.JaxRuntimeError as error:
            return dispatch_halves(error)()

    try:
        metrics = compute(cells)
    except jax.errors.JaxRuntimeError as error:
        return dispatch_halves(error)
    return wait


def run_one_ahead(computations: Iterable[Callable[[], None]]) -> None:
    """Reads results in order. The next computation is dispatched before the current one is read.

    Args:
        computations: an iterator that dispatches one computation when an item is taken. The item
            is a function that waits for the result and stores it.
    """
    previous: Callable[[], None] | None = None
    for read in computations:
        if previous is not None:
            previous()
        previous = read
    if previous is not None:
        previous()
