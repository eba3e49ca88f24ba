"""Pads rows and features, so that problems of nearly the same size share one compiled program.

Padded rows are in no mask of rows. Padded features are 0 in every row, so their weights remain 0.
"""

import numpy as np

_SMALLEST_STEP = 16
_STEPS_PER_DOUBLING = 16  # padding adds at most a sixteenth


def padded_size(n: int) -> int:
    """Returns the next size for which a program is compiled.

    Example:
        >>> [padded_size(n) for n in (3, 384, 1200, 1216, 5000)]
        [16, 384, 1216, 1216, 5120]
    """
    power_of_two = 1 << (n.bit_length() - 1)
    step = max(_SMALLEST_STEP, power_of_two // _STEPS_PER_DOUBLING)
    return -(-n // step) * step


def pad_to(array: np.ndarray, shape: tuple[int, ...], fill: float = 0) -> np.ndarray:
    """Adds entries of `fill` at the end of every axis."""
    if array.shape == shape:
        return array
    padded = np.full(shape, fill, array.dtype)
    padded[tuple(map(slice, array.shape))] = array
    return padded
