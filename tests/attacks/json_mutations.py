"""Mutates JSON values."""

import copy
from typing import Any

import numpy as np

_ODD_VALUES: list[Any] = [
    *(None, True, -1, 0, 1, 2, 3, 1 << 31, 1 << 70, 10**400, 1e308, -0.5),
    *(float("nan"), float("inf"), "", "..", "/dev/zero", "a" * 5000, "\x00", "\ud800"),
    *([], {}, [[]], {"a": {"a": []}}, [0] * 3000, [[9, 9]], ["<|en|>"] * 9),
]


def _odd_value(rng: np.random.Generator) -> Any:
    return copy.deepcopy(_ODD_VALUES[rng.integers(len(_ODD_VALUES))])


def _paths(value: Any, path: tuple = ()) -> list[tuple]:
    """Returns `path` and the paths of all parts of `value`. A path is a tuple of keys."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(place for key, child in inner for place in _paths(child, (*path, key)))]


def change_value(value: Any, rng: np.random.Generator) -> Any:
    """Replaces, removes or renames one or two parts of a JSON value."""
    for _ in range(rng.integers(1, 3)):
        places = _paths(value)
        shallow = [place for place in places if len(place) <= 2] if rng.random() < 0.5 else places
        # The value is wrapped in `holder`, so that the whole value can be replaced, too.
        *path, last = ("whole", *shallow[rng.integers(len(shallow))])
        holder: Any = {"whole": value}
        target = holder
        for key in path:
            target = target[key]
        match rng.integers(4):
            case 0 if isinstance(target, dict) and target is not holder:
                target[str(_odd_value(rng))[:40]] = target.pop(last)
            case 1 if target is not holder:
                del target[last]
            case _:
                target[last] = _odd_value(rng)
        value = holder["whole"]
    return value
