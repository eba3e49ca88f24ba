"""Saves edits in a folder and loads them.

A JSON file holds the classes and fields, and an npz file holds the arrays. Loading constructs only
the classes in `_FIELDS`, and never unpickles.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from interventions.edits.attention import AttendOnlyTo, Knockout, KnockoutAudio
from interventions.edits.base import FromRow
from interventions.edits.combining import Chain, Restrict
from interventions.edits.noise import Noise
from interventions.edits.places import Among, Between
from interventions.edits.projection import Project
from interventions.edits.values import Add, Mix, Patch, Scale, Zero
from interventions.storage.atomic import replacing
from interventions.storage.untrusted_files import (
    check_checksums,
    name_origin_in_errors,
    read_json,
    read_npz,
    write_checksums,
)
from jaxasr import sites

_VERSION = 1  # version of the files
# Names of the two files.
_JSON, _ARRAYS = "edits.json", "arrays.npz"


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def _is_scalar(value: Any) -> bool:
    return np.ndim(value) == 0 and (
        _is_array(value) or (isinstance(value, int | float) and not isinstance(value, bool))
    )


def _is_integer(value: Any) -> bool:
    return _is_scalar(value) and np.asarray(value).dtype.kind in "iu"


def _is_integer_array(value: Any) -> bool:
    return _is_array(value) and np.asarray(value).dtype.kind in "iu"


def _is_from_row(value: Any) -> bool:
    return isinstance(value, FromRow)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_place(value: Any) -> bool:
    return isinstance(value, Among | Between)


def _is_edit(value: Any) -> bool:
    return type(value) in _CLASSES.values() and not _is_from_row(value) and not _is_place(value)


# A type of fields: its name in messages, and a function that tests a value.
FieldType = tuple[str, Callable[[Any], bool]]
_ARRAY: FieldType = "an array", _is_array
_PATCH_VALUE: FieldType = (
    "an array or a FromRow",
    lambda value: _is_array(value) or _is_from_row(value),
)
_SCALAR: FieldType = "a number", _is_scalar
_FLAG: FieldType = "true or false", _is_flag
_PLACE: FieldType = "a place", _is_place
_OPTIONAL_PLACE: FieldType = "a place or None", lambda value: value is None or _is_place(value)
_INTEGER: FieldType = "an integer", _is_integer
_WHEN: FieldType = (
    "an array, true, false or None",
    lambda value: value is None or _is_array(value) or _is_flag(value),
)
_EDIT: FieldType = "an edit", _is_edit
_EDIT_TUPLE: FieldType = (
    "a tuple of edits",
    lambda value: isinstance(value, tuple) and bool(value) and all(map(_is_edit, value)),
)

# The type of each field. Both saving and loading check it.
_FIELDS: dict[type, dict[str, FieldType]] = {
    FromRow: {"rows": ("an array of integers", _is_integer_array)},
    Patch: {"value": _PATCH_VALUE, "partial": _FLAG},
    Mix: {"alpha": _SCALAR, "value": _PATCH_VALUE, "partial": _FLAG},
    Add: {"value": _ARRAY, "scale": _SCALAR},
    Scale: {"factor": _SCALAR},
    Zero: {},
    Noise: {"seed": _INTEGER, "scale": _SCALAR, "replace": _FLAG},
    Project: {"basis": _ARRAY, "keep": _FLAG},
    Chain: {"edits": _EDIT_TUPLE},
    Restrict: {
        "edit": _EDIT,
        **dict.fromkeys(("layers", "heads", "positions", "frames", "rows"), _OPTIONAL_PLACE),
        "when": _WHEN,
    },
    **{cls: {"keys": _PLACE} for cls in (AttendOnlyTo, Knockout)},
    KnockoutAudio: {"frames": _PLACE},
    Among: {"values": ("an array of integers", _is_integer_array)},
    Between: {"start": _INTEGER, "stop": _INTEGER},
}
_CLASSES = {cls.__name__: cls for cls in _FIELDS}


def save_edits(edits: Mapping[str, Any], folder: str | os.PathLike) -> None:
    """Saves `{site: edit}` in a new folder, with the checksums of its files in SHA256SUMS.

    The folder appears only when it is complete.

    Args:
        edits: edits of this package by site. Functions and classes that you define are code, which
            cannot be saved.
        folder: folder to create.

    Raises:
        ValueError: an unknown site, an edit that is not of this package, or NaN. The message names
            the entry of `edits`.
        FileExistsError: `folder` exists.

    Example:
        ```python
        edits = {"decoder.cross_attn.z": iv.only(iv.Zero(), layers=2, heads=1)}
        iv.save_edits(edits, "edits")
        assert iv.load_edits("edits").keys() == edits.keys()
        ```
    """
    folder = Path(folder)
    sites.check_known(edits)
    if folder.exists():
        raise FileExistsError(
            f"folder: expected a new folder, but {str(folder)!r} exists already. "
            "Choose another, or remove it."
        )
    arrays: dict[str, np.ndarray] = {}
    descriptions = {
        site: _describe(edit, f"edits[{site!r}]", arrays) for site, edit in edits.items()
    }
    # `_describe` also accepts values of fields, such as arrays. At the top only edits are allowed.
    for site, edit in edits.items():
        _check("edit", edit, _EDIT, f"edits[{site!r}]")
    with replacing(folder) as new:
        new.mkdir()
        (new / _JSON).write_text(
            json.dumps({"version": _VERSION, "edits": descriptions}, indent=1, allow_nan=False)
            + "\n"
        )
        np.savez(new / _ARRAYS, **cast(Any, arrays))
        write_checksums(new)


def load_edits(folder: str | os.PathLike) -> dict[str, Any]:
    """Loads the edits that `save_edits` saved.

    Args:
        folder: folder that `save_edits` created.

    Returns:
        `{site: edit}`.

    Raises:
        ValueError: files of `folder` are missing or changed, or do not hold edits.
            The message names the file.

    Example:
        ```python
        iv.save_edits({"decoder.ln": iv.Scale(2.0)}, "scaled")
        edits = iv.load_edits("scaled")
        ```
    """
    folder = Path(folder)
    if not (folder / _JSON).is_file() or not (folder / _ARRAYS).is_file():
        raise ValueError(
            f"folder: expected {_JSON} and {_ARRAYS} of save_edits in {str(folder)!r}, "
            "got a folder that lacks one of them."
        )
    check_checksums(folder)
    described = read_json(folder / _JSON, finite=True)
    if described.get("version") != _VERSION or not isinstance(described.get("edits"), dict):
        raise ValueError(f"{folder / _JSON}: expected edits of version {_VERSION}.")
    arrays = read_npz(folder / _ARRAYS)
    with name_origin_in_errors(folder / _JSON):
        sites.check_known(described["edits"])
        edits = {
            site: _restore(node, arrays, f"edits[{site!r}]")
            for site, node in described["edits"].items()
        }
        for site, edit in edits.items():
            _check("edit", edit, _EDIT, f"edits[{site!r}]")
    return edits


def _check(name: str, value: Any, expected_type: FieldType, path: str) -> None:
    """Raises ValueError if the value of field `name` has another type or contains NaN.

    `path` names the place of the value in messages, such as "edits['decoder.ln'].scale".
    """
    expected, fits = expected_type
    if not fits(value):
        raise ValueError(f"{path}: expected {expected} as {name!r}, got {type(value).__name__}.")
    if (
        _is_array(value)
        and np.asarray(value).dtype.kind not in "biufc"
        and value.dtype != jnp.bfloat16
    ):
        raise ValueError(f"{path}: expected numbers as {name!r}, got {value.dtype}.")
    if (_is_array(value) or isinstance(value, float)) and bool(jnp.isnan(jnp.asarray(value)).any()):
        raise ValueError(f"{path}: expected numbers as {name!r}, got NaN.")


def _describe(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """Returns the JSON description of a value, and adds its arrays to `arrays`.

    `path` names the place of the value in messages.
    """
    if type(value) in _CLASSES.values():
        fields = {
            f.name: _describe_field(value, f.name, path, arrays) for f in dataclasses.fields(value)
        }
        return {"type": type(value).__name__, "fields": fields}
    if isinstance(value, tuple):
        return {"tuple": [_describe(item, f"{path}[{i}]", arrays) for i, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float):
        return {"value": value}
    if _is_array(value):
        return _add_array(np.asarray(value), arrays)
    raise ValueError(
        f"{path}: {type(value).__name__} cannot be saved; expected one of {', '.join(_CLASSES)}, "
        "an array, a number or None. A function or a class of your own is code: "
        "keep it in a file of your own."
    )


def _describe_field(value: Any, field: str, path: str, arrays: dict[str, np.ndarray]) -> Any:
    item = getattr(value, field)
    description = _describe(item, f"{path}.{field}", arrays)
    _check(field, item, _FIELDS[type(value)][field], f"{path}.{field}")
    return description


def _add_array(array: np.ndarray, arrays: dict[str, np.ndarray]) -> dict[str, str]:
    name = f"a{len(arrays)}"
    # npz has no bfloat16. The bits are saved as uint16, and `dtype` keeps the type.
    arrays[name] = array.view(np.uint16) if array.dtype == jnp.bfloat16 else array
    return {"array": name, "dtype": str(array.dtype)}


def _has_dtype(array: np.ndarray, dtype: str) -> bool:
    return str(array.dtype) == dtype and array.dtype.kind != "U"  # no edit has texts


def _restore(node: Any, arrays: Mapping[str, np.ndarray], path: str) -> Any:
    """Returns the value that `node`, the result of `_describe`, describes."""
    match node:
        case {"type": str(name), "fields": dict(fields)} if name in _CLASSES:
            types = _FIELDS[_CLASSES[name]]
            # A missing field must not become the default of the class.
            if set(fields) != set(types):
                raise ValueError(
                    f"{path}: expected the fields of {name}, got {', '.join(map(str, fields))}."
                )
            values = {
                key: _restore(value, arrays, f"{path}.{key}") for key, value in fields.items()
            }
            for key, value in values.items():
                _check(key, value, types[key], f"{path}.{key}")
            return _CLASSES[name](**values)
        case {"tuple": list(items)}:
            return tuple(_restore(item, arrays, f"{path}[{i}]") for i, item in enumerate(items))
        case {"value": None | bool() | int() | float() as value} if value is None or math.isfinite(
            value
        ):
            return value
        case {"array": str(name), "dtype": "bfloat16"} if (
            name in arrays and arrays[name].dtype == np.uint16
        ):
            return jnp.asarray(arrays[name].view(jnp.bfloat16))
        case {"array": str(name), "dtype": str(dtype)} if name in arrays and _has_dtype(
            arrays[name], dtype
        ):
            return jnp.asarray(arrays[name])
    raise ValueError(
        f"{path}: expected an edit as save_edits saves it ({', '.join(_CLASSES)}), "
        f"got {str(node)[:80]}."
    )
