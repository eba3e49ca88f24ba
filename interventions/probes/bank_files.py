"""Saves a bank as an npz file of arrays, a JSON file and checksums of both, and loads it."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from interventions.storage.atomic import replacing
from interventions.storage.untrusted_files import (
    check_checksums,
    name_origin_in_errors,
    read_json,
    read_npz,
    write_checksums,
)

_VERSION = 1  # version of the file format
_DESCRIPTION_FILE, _ARRAYS_FILE = "bank.json", "arrays.npz"
# Arrays that every bank has, with their dimensions except layer and fold.
_REQUIRED_DIMS = {
    "weights": {"class", "feature"},
    "bias": {"class"},
    "mean": {"feature"},
    "scale": {"feature"},
}
# Name of the score that every bank of a target has.
_SCORE_OF_TARGET = {"class": "accuracy", "value": "r2"}


def save(data: xr.Dataset, target: str, folder: str | os.PathLike, about: dict[str, Any]) -> None:
    """Writes a bank to a new folder, completely or not at all. See `Bank.save`."""
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(
            f"folder: {str(folder)!r} exists already. Choose another folder, or remove it."
        )
    variables = {str(name): array for name, array in {**data.data_vars, **data.coords}.items()}
    description = {
        "version": _VERSION,
        "target": target,
        "dims": {name: list(array.dims) for name, array in variables.items()},
        "coords": list(map(str, data.coords)),
        "about": about,
    }
    # The folder appears under its name only when all its files are complete.
    with replacing(folder) as new:
        new.mkdir()
        (new / _DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n")
        arrays: dict[str, Any] = {name: array.values for name, array in variables.items()}
        np.savez(new / _ARRAYS_FILE, **arrays)
        write_checksums(new)


def load(folder: str | os.PathLike) -> tuple[xr.Dataset, str]:
    """Reads the arrays and the target of a bank. See `Bank.load`."""
    folder = Path(folder)
    if not (folder / _DESCRIPTION_FILE).is_file() or not (folder / _ARRAYS_FILE).is_file():
        raise ValueError(
            f"folder: expected {_DESCRIPTION_FILE} and {_ARRAYS_FILE}, as Bank.save writes them, "
            f"in {str(folder)!r}."
        )
    check_checksums(folder)
    description = read_json(folder / _DESCRIPTION_FILE)
    if description.get("version") != _VERSION:
        raise ValueError(
            f"{folder / _DESCRIPTION_FILE}: expected a bank of version {_VERSION}, "
            f"got {description.get('version')!r}. Fit it again."
        )
    arrays = read_npz(folder / _ARRAYS_FILE)
    with name_origin_in_errors(folder / _DESCRIPTION_FILE):
        variables = {
            name: (tuple(dims), arrays[name]) for name, dims in description["dims"].items()
        }
        coords = {name: variables.pop(name) for name in description["coords"]}
        data = xr.Dataset(variables, coords, attrs=dict(description["about"]))
        target = description["target"]
        _check_arrays(data, target)
    return data, target


def _check_arrays(data: xr.Dataset, target: str) -> None:
    """Raises ValueError if a required array is missing or does not hold numbers."""
    if target not in _SCORE_OF_TARGET:
        raise ValueError(f"target: expected 'class' or 'value', got {target!r}")
    expected = {name: {"layer", "fold", *dims} for name, dims in _REQUIRED_DIMS.items()}
    expected |= {_SCORE_OF_TARGET[target]: {"layer", "fold"}, "test": {"fold", "row"}}
    for name, dims in expected.items():
        if name not in data or not dims <= set(data[name].dims):
            raise ValueError(f"{name}: expected an array over {', '.join(sorted(dims))}")
        if data[name].dtype.kind not in "biuf":
            raise ValueError(f"{name}: expected numbers, got {data[name].dtype}")
