"""Edits kept in files: what they are as JSON, their arrays as npz. Only classes named here are ever made, and nothing is unpickled."""
import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interventions import attention_edits, edits, places
from jaxasr import sites

_CLASSES = {
    cls.__name__: cls
    for cls in (
        *(edits.Row, edits.Patch, edits.Mix, edits.Add, edits.Scale, edits.Zero, edits.Noise, edits.Project, edits.Chain, edits.Only),
        *(attention_edits.Force, attention_edits.Knockout, places.Among, places.Between),
    )
}
_VERSION = 1
_JSON, _ARRAYS = "edits.json", "arrays.npz"


def save_edits(edits: Mapping[str, Any], folder: str | os.PathLike) -> None:
    """Writes `{site: edit}` into a new `folder`, complete or not at all.

    Raises ValueError for an unknown site and for what is not one of this package's edits, such as a function, naming where it is;
    FileExistsError when `folder` is there already.
    """
    folder = Path(folder)
    sites.check_known(edits)
    if folder.exists():
        raise FileExistsError(f"folder: {str(folder)!r} exists already; choose another, or remove it.")
    arrays: dict[str, np.ndarray] = {}
    described = {site: _describe(edit, f"edits[{site!r}]", arrays) for site, edit in edits.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        unfinished = Path(temporary) / folder.name
        unfinished.mkdir()
        (unfinished / _JSON).write_text(json.dumps({"version": _VERSION, "edits": described}, indent=1) + "\n")
        np.savez(unfinished / _ARRAYS, **arrays)
        unfinished.rename(folder)


def load_edits(folder: str | os.PathLike) -> dict[str, Any]:
    """The edits that `save_edits` wrote. Raises ValueError for anything it would not have written."""
    folder = Path(folder)
    if not (folder / _JSON).is_file() or not (folder / _ARRAYS).is_file():
        raise ValueError(f"folder: expected {_JSON} and {_ARRAYS} of save_edits in {str(folder)!r}.")
    described = json.loads((folder / _JSON).read_text())
    if not isinstance(described, dict) or described.get("version") != _VERSION or not isinstance(described.get("edits"), dict):
        raise ValueError(f"{folder / _JSON}: expected edits of version {_VERSION}.")
    sites.check_known(described["edits"])
    with np.load(folder / _ARRAYS, allow_pickle=False) as arrays:
        return {site: _restore(node, arrays, f"edits[{site!r}]") for site, node in described["edits"].items()}


def _describe(value: Any, where: str, arrays: dict[str, np.ndarray]) -> Any:
    if type(value) in _CLASSES.values():
        fields = {f.name: _describe(getattr(value, f.name), f"{where}.{f.name}", arrays) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, "fields": fields}
    if isinstance(value, tuple):
        return {"tuple": [_describe(item, f"{where}[{i}]", arrays) for i, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float):
        return {"value": value}
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _store(np.asarray(value), arrays)
    raise ValueError(
        f"{where}: {type(value).__name__} cannot be saved; expected one of {', '.join(_CLASSES)}, an array, a number or None. "
        "A function or a class of your own is code: keep that in a file of yours."
    )


def _store(array: np.ndarray, arrays: dict[str, np.ndarray]) -> dict[str, str]:
    name = f"a{len(arrays)}"
    # npz knows no bfloat16: its bits are kept, and its name.
    arrays[name] = array.view(np.uint16) if array.dtype == jnp.bfloat16 else array
    return {"array": name, "dtype": str(array.dtype)}


def _restore(node: Any, arrays: Mapping[str, np.ndarray], where: str) -> Any:
    match node:
        case {"type": str(name), "fields": dict(fields)} if name in _CLASSES:
            cls = _CLASSES[name]
            if set(fields) != {field.name for field in dataclasses.fields(cls)}:
                raise ValueError(f"{where}: expected the fields of {name}, got {', '.join(fields)}.")
            return cls(**{key: _restore(value, arrays, f"{where}.{key}") for key, value in fields.items()})
        case {"tuple": list(items)}:
            return tuple(_restore(item, arrays, f"{where}[{i}]") for i, item in enumerate(items))
        case {"value": None | bool() | int() | float() as value}:
            return value
        case {"array": str(name), "dtype": str(dtype)} if name in arrays:
            array = arrays[name]
            return jnp.asarray(array.view(jnp.bfloat16) if dtype == "bfloat16" else array)
    raise ValueError(f"{where}: expected an edit as save_edits writes it ({', '.join(_CLASSES)}), got {str(node)[:80]}.")
