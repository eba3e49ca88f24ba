"""Checks the classes, groups and types of rows. A missing or ambiguous one is refused."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd


def categories(
    values: Any, n: int, name: str, shapes: Sequence[tuple[int, ...]] | None = None
) -> np.ndarray:
    """Returns `values` as an array of numbers or strings, one for each of `n` rows.

    Args:
        values: strings or numbers, as a sequence, an array or a pandas column.
        n: the number of rows. shapes: the allowed shapes, [n] by default.
        name: the argument, for messages.

    Raises:
        ValueError: for another shape, for rows without a value (None, NaN, NA), and for strings
            among numbers: 1 and "1" would become the same.
    """
    array = np.asarray(values) if hasattr(values, "__array__") else _objects(values)
    if array.shape not in (shapes or [(n,)]):
        more = f" (or {list(shapes[1])})" if shapes else ""
        raise ValueError(
            f"{name}: expected one for each of {n} rows{more}, got shape {list(array.shape)}."
        )
    missing = np.flatnonzero(pd.isna(array).reshape(-1, n).any(0))
    if missing.size:
        raise ValueError(
            f"{name}: {missing.size} of {n} rows have none, the first is row {missing[0]}. "
            "Leave out the rows without one."
        )
    if array.dtype != object:
        return array
    kinds = {
        "numbers" if isinstance(value, int | float | np.number | np.bool_) else type(value).__name__
        for value in array.flat
    }
    if len(kinds) > 1:
        raise ValueError(
            f"{name}: expected all of one kind, words or numbers, "
            f"got {' and '.join(sorted(kinds))}."
        )
    return np.array(array.tolist()) if kinds <= {"numbers", "str"} else array.astype(str)


def _objects(values: Any) -> np.ndarray:
    """Returns an array without conversions: NumPy would turn NaN among strings into "nan"."""
    try:
        return np.array(list(values), dtype=object)
    except (TypeError, ValueError):  # a single value, or rows of different length
        return (
            np.array(values, dtype=object)
            if np.isscalar(values) or values is None
            else np.empty(0, object)
        )
