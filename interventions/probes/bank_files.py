"""Files of a bank: arrays in one npz, everything else in JSON, checksums of both."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from interventions.storage.atomic import replacing
from interventions.storage.inert import (
    check_checksums,
    errors_naming,
    read_json,
    read_npz,
    write_checksums,
)

_VERSION = 1
_JSON, _ARRAYS = "bank.json", "arrays.npz"
# Dimensions that an array of every bank has, beside layer and fold.
_DIMS = {
    "weights": {"class", "feature"},
    "bias": {"class"},
    "mean": {"feature"},
    "scale": {"feature"},
}
_SCORE = {"class": "accuracy", "value": "r2"}


def save(data: xr.Dataset, target: str, folder: str | os.PathLike, about: dict[str, Any]) -> None:
    """Writes a bank to a new folder, completely or not at all. See `Bank.save`."""
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(
            f"folder: {str(folder)!r} exists already; choose another, or remove it."
        )
    variables = {str(name): array for name, array in {**data.data_vars, **data.coords}.items()}
    description = {
        "version": _VERSION,
        "target": target,
        "dims": {name: list(array.dims) for name, array in variables.items()},
        "coords": list(map(str, data.coords)),
        "about": about,
    }
    with replacing(folder) as new:
        new.mkdir()
        (new / _JSON).write_text(json.dumps(description, indent=1) + "\n")
        arrays: dict[str, Any] = {name: array.values for name, array in variables.items()}
        np.savez(new / _ARRAYS, **arrays)
        write_checksums(new)


def load(folder: str | os.PathLike) -> tuple[xr.Dataset, str]:
    """Reads the arrays and the target of a bank. See `Bank.load`."""
    folder = Path(folder)
    if not (folder / _JSON).is_file() or not (folder / _ARRAYS).is_file():
        raise ValueError(f"folder: expected {_JSON} and {_ARRAYS} of Bank.save in {str(folder)!r}.")
    check_checksums(folder)
    description = read_json(folder / _JSON)
    if description.get("version") != _VERSION:
        raise ValueError(f"{folder / _JSON}: expected a bank of version {_VERSION}; fit it again.")
    arrays = read_npz(folder / _ARRAYS)
    with errors_naming(folder / _JSON):
        variables = {
            name: (tuple(dims), arrays[name]) for name, dims in description["dims"].items()
        }
        coords = {name: variables.pop(name) for name in description["coords"]}
        data = xr.Dataset(variables, coords, attrs=dict(description["about"]))
        target = description["target"]
        _check(data, target)
    return data, target


def _check(data: xr.Dataset, target: str) -> None:
    """Raises ValueError if an array that every bank has is missing, or is not of numbers."""
    if target not in _SCORE:
        raise ValueError(f"target: expected 'class' or 'value', got {target!r}")
    expected = {name: {"layer", "fold", *dims} for name, dims in _DIMS.items()}
    expected |= {_SCORE[target]: {"layer", "fold"}, "test": {"fold", "row"}}
    for name, dims in expected.items():
        if name not in data or not dims <= set(data[name].dims):
            raise ValueError(f"{name}: expected an array over {', '.join(sorted(dims))}")
        if data[name].dtype.kind not in "biuf":
            raise ValueError(f"{name}: expected numbers, got {data[name].dtype}")
