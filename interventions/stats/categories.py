"""Checks labels of rows, such as classes or groups. All must be present and of one type."""

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
        n: the number of rows.
        name: the argument's name, for messages.
        shapes: two shapes that the array may have. Default: only [n].

    Returns:
        The array, of one of `shapes`.

    Raises:
        ValueError: the shape is not allowed, a row has no value (None, NaN, NA), or numbers and
            strings are mixed. Mixed values are refused because 1 and "1" would become the same.

    Example:
        >>> categories(["a", "b", "a"], 3, "groups").tolist()
        ['a', 'b', 'a']
    """
    array = np.asarray(values) if hasattr(values, "__array__") else _object_array(values)
    if array.shape not in (shapes or [(n,)]):
        alternative = f" (or {list(shapes[1])})" if shapes else ""
        raise ValueError(
            f"{name}: expected one for each of {n} rows{alternative}, "
            f"got shape {list(array.shape)}."
        )
    missing = np.flatnonzero(pd.isna(array).reshape(-1, n).any(0))
    if missing.size:
        raise ValueError(
            f"{name}: {missing.size} of {n} rows have no value, the first is row {missing[0]}. "
            "Leave out the rows without a value."
        )
    if array.dtype != object:
        return array
    kinds = {_kind(value) for value in array.flat}
    if len(kinds) > 1:
        raise ValueError(
            f"{name}: expected only strings or only numbers, got {' and '.join(sorted(kinds))}."
        )
    # `tolist` lets NumPy choose the type. Other kinds, such as dates, become strings.
    return np.array(array.tolist()) if kinds <= {"numbers", "str"} else array.astype(str)


def _kind(value: Any) -> str:
    is_number = isinstance(value, int | float | np.number | np.bool_)
    return "numbers" if is_number else type(value).__name__


def _object_array(values: Any) -> np.ndarray:
    """Returns an array of the unchanged values. NumPy would turn NaN among strings into "nan"."""
    try:
        return np.array(list(values), dtype=object)
    except (TypeError, ValueError):  # a single value, or rows of different lengths
        is_single = np.isscalar(values) or values is None
        return np.array(values, dtype=object) if is_single else np.empty(0, object)
