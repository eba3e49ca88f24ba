"""Copies tensors of a checkpoint into the arrays of a model, and checks that they are finite."""

import threading
from typing import Any

import numpy as np

from jaxasr.weights.errors import WeightsError

# Bytes to which JAX aligns arrays on a CPU. It uses an aligned NumPy array without a copy.
_ALIGNMENT = 64
# Number of rows of a file that are transposed together, so that they stay in the processor's cache.
_BLOCK_ROWS = 16
# Bits of infinity by dtype. The bits of finite numbers are smaller, those of NaN are larger.
_INFINITY_BITS = {"bfloat16": 0x7F80, "float16": 0x7C00}


def empty_aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Returns an uninitialised array that JAX can use on a CPU without a copy.

    Example:
        >>> empty_aligned((2, 3), np.float32).ctypes.data % 64
        0
    """
    dtype = np.dtype(dtype)
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    buffer = np.empty(n_bytes + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + n_bytes].view(dtype).reshape(shape)


def copy_cast(tensor: np.ndarray, target: np.ndarray) -> None:
    """Copies `tensor` into `target`, in the dtype of `target`.

    Several times faster than `target[...] = tensor` if `tensor` is transposed.

    Example:
        >>> target = np.empty((2, 3), np.float32)
        >>> copy_cast(np.arange(6.0).reshape(3, 2).T, target)
        >>> target.tolist()
        [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]
    """
    if not tensor.ndim:
        tensor, target = tensor[None], target[None]
    step = max(1, tensor.shape[-1]) if tensor.flags.c_contiguous else _BLOCK_ROWS
    for start in range(0, tensor.shape[-1], step):
        # The last axis of a transposed tensor is the first axis in the file.
        part = ..., slice(start, start + step)
        block = tensor[part].astype(target.dtype, copy=False)
        # NumPy copies integers faster than types that it does not know.
        _bits(target)[part] = _bits(block)


def is_finite(array: np.ndarray) -> bool:
    """Returns whether all numbers are finite.

    Example:
        >>> is_finite(np.array([1.0, np.inf], np.float16))
        False
    """
    infinity = _INFINITY_BITS.get(array.dtype.name)
    if infinity is None or not array.size:
        return bool(np.isfinite(array).all())
    return int((_bits(array) & 0x7FFF).max()) < infinity  # without the sign


def _bits(array: np.ndarray) -> np.ndarray:
    return array.view(np.uint16) if array.dtype.itemsize == 2 else array


class FiniteCopier:
    """Copies tensors and collects the names of those that are not finite. Threads may share it.

    Args:
        param_dtype: type of the weights in memory.
    """

    def __init__(self, param_dtype: str):
        self.param_dtype = param_dtype
        self.non_finite: list[str] = []  # names of tensors that are not finite in the file
        self.overflowing: list[str] = []  # names of those that `param_dtype` makes infinite
        self._lock = threading.Lock()

    def copy(self, name: str, tensor: np.ndarray, target: np.ndarray) -> None:
        """Copies a tensor into `target`."""
        with np.errstate(over="ignore", invalid="ignore"):
            copy_cast(tensor, target)
        if not is_finite(target):
            stored_finite = np.isfinite(tensor).all()
            with self._lock:
                (self.overflowing if stored_finite else self.non_finite).append(name)

    def check(self, source: object) -> None:
        """Raises a `WeightsError` that names every tensor that is not finite."""
        if self.non_finite:
            raise WeightsError(
                f"{source}: expected finite weights, found NaN or infinite ones in "
                f"{len(self.non_finite)} tensors: {', '.join(sorted(self.non_finite))}. The "
                "training may have diverged, or the file is damaged; use an earlier checkpoint."
            )
        if self.overflowing:
            raise WeightsError(
                f"{source}: expected weights that fit into {self.param_dtype}, found larger ones "
                f"in {len(self.overflowing)} tensors: {', '.join(sorted(self.overflowing))}. Load "
                "with param_dtype='float32' or 'bfloat16'."
            )
