"""Saves labelled results: a zarr folder, or a netCDF file where the name ends in `.nc`."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xarray as xr

from interventions.storage import parts
from interventions.storage.atomic import replacing
from interventions.storage.inert import named
from interventions.storage.inert_zarr import check_result
from interventions.storage.text_files import plain, to_json, utf8

_ARRAY = "_only_variable"  # the attribute that marks a DataArray and holds its name
_KEY = "_kept_for"  # the attribute that holds the key of a cached result
_CHECKSUM, _PREFIX = (
    "jaxasr_checksum",
    b"jaxasr-sha256:",
)  # an attribute, and the start of its value
_BLANK = _PREFIX + b"0" * 64


def save_result(
    result: xr.DataArray | xr.Dataset,
    path: str | os.PathLike[str],
    *,
    provenance: dict[str, Any] | None = None,
) -> Path:
    """Saves a labelled result with its coordinates and attributes, complete or not at all.

    Nested attributes are saved as JSON. The attribute `jaxasr_checksum` in the file is a SHA-256 of
    everything else, which `load_result` checks.

    Args:
        result: labelled arrays of numbers and texts.
        path: a name that ends in .zarr or .nc; an existing result is replaced. netCDF is version 3:
            it holds 32-bit integers, and no name may contain a slash.
        provenance: the record of `interventions.storage.provenance`; saved as the attribute
            `provenance`.

    Returns:
        The path.

    Raises:
        ValueError: another suffix.

    Example:
        >>> import tempfile, xarray as xr
        >>> cells = xr.DataArray([0.5, 1.5], dims="layer", attrs={"metric": "logit_diff"})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_result(cells, f"{folder}/cells.nc", provenance={"seed": 0})
        ...     load_result(path).attrs["provenance"]
        {'seed': 0}
    """
    path = Path(path)
    if path.suffix not in (".zarr", ".nc"):
        raise ValueError(f"path: expected a name that ends in .zarr or .nc, got {path.name!r}.")
    attrs = dict(result.attrs) | ({} if provenance is None else {"provenance": provenance})
    dataset = _map_attrs(_as_dataset(result, attrs | {_CHECKSUM: _BLANK.decode()}), _encode)
    with replacing(path) as new:
        if path.suffix == ".nc":
            dataset.to_netcdf(new, engine="scipy")
        else:
            # Format 3 has no specified encoding of texts yet.
            dataset.to_zarr(new, mode="w", consolidated=False, zarr_format=2)
        _sign(new)
    return path


def load_result(path: str | os.PathLike[str]) -> xr.DataArray | xr.Dataset:
    """Loads a result that `save_result` saved into memory, and checks its checksum.

    Args:
        path: the file or folder.

    Returns:
        The DataArray or Dataset, equal to the saved one.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: the result is damaged, or was not saved by `save_result`; the message names the
            file.

    Example:
        ```python
        cells = load_result("cells.zarr")
        ```
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path: no result at {str(path)!r}.")
    if path.suffix != ".nc":
        check_result(path)
    elif not path.is_file():
        raise ValueError(f"{path}: expected a netCDF file.")
    _check_signature(path)
    options: dict[str, Any] = (
        {"engine": "scipy"} if path.suffix == ".nc" else {"engine": "zarr", "consolidated": False}
    )
    with named(path), xr.open_dataset(path, **options) as opened:
        dataset = _map_attrs(opened.load(), _decode)
        dataset.attrs.pop(_CHECKSUM, None)
        if (name := dataset.attrs.pop(_ARRAY, None)) is None:
            return dataset
        array = dataset["values"].assign_attrs(dataset.attrs)
        return array.rename(name or None)


def cached(path: Path, key: str, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
    """Returns the result that was cached at `path` under `key`, or computes and saves it.

    A result that is damaged or was computed for something else is computed again, which is logged.

    Args:
        path: a name that ends in .zarr or .nc.
        key: a digest of everything that the result depends on.
        compute: returns the result.
    """
    if path.exists():
        try:
            result = load_result(path)
            if isinstance(result, xr.Dataset) and result.attrs.pop(_KEY, None) == key:
                return result
            parts.log_unused(path, "misplaced: it was computed for something else")
        except ValueError as problem:
            parts.log_unused(path, problem)
    save_result(compute().assign_attrs({_KEY: key}), path)
    # Loaded again, so that a fresh result and a cached one have the same dtypes.
    result = load_result(path)
    assert isinstance(result, xr.Dataset)
    del result.attrs[_KEY]
    return result


def _sign(path: Path) -> None:
    """Puts the checksum of a result into its place, which is blank while it is computed."""
    file = _attributes_file(path)
    data = file.read_bytes()
    file.write_bytes(data.replace(_BLANK, _PREFIX + _digest(path, data).encode(), 1))


def _check_signature(path: Path) -> None:
    """Raises ValueError where a result differs from its checksum."""
    file = _attributes_file(path)
    data = file.read_bytes() if file.is_file() else b""
    match = re.search(re.escape(_PREFIX) + rb"([0-9a-f]{64})", data)
    if match is None or _CHECKSUM.encode() not in data:
        raise ValueError(f"{path}: expected a result of save_result, found no {_CHECKSUM} in it.")
    unsigned = data[: match.start()] + _BLANK + data[match.end() :]
    if _digest(path, unsigned).encode() != match[1]:
        raise ValueError(
            f"{path}: damaged: its checksum does not match its contents. "
            "Make it again, or restore it from a copy."
        )


def _attributes_file(path: Path) -> Path:
    """The file of a result that holds its attributes."""
    return path if path.suffix == ".nc" else path / ".zattrs"


def _digest(path: Path, attributes: bytes) -> str:
    """A digest of the names and contents of a result's files, with `attributes` for those of one."""
    if path.suffix == ".nc":
        return hashlib.sha256(attributes).hexdigest()
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        contents = attributes if file == _attributes_file(path) else file.read_bytes()
        digest.update(f"{file.relative_to(path).as_posix()} {len(contents)}\n".encode() + contents)
    return digest.hexdigest()


def _as_dataset(result: xr.DataArray | xr.Dataset, attrs: dict[str, Any]) -> xr.Dataset:
    if isinstance(result, xr.Dataset):
        return result.assign_attrs(attrs)
    values = result.copy()
    values.attrs = {}
    return values.to_dataset(name="values").assign_attrs(attrs | {_ARRAY: str(result.name or "")})


def _map_attrs(dataset: xr.Dataset, change: Callable[[Any], Any]) -> xr.Dataset:
    """A copy with `change` applied to its attributes and to those of all its variables."""
    dataset = dataset.copy()
    for labelled in (dataset, *dataset.variables.values()):
        labelled.attrs = {name: change(value) for name, value in labelled.attrs.items()}
    return dataset


def _encode(value: Any) -> Any:
    """Leaves texts and numbers as they are; encodes other attributes as JSON."""
    if isinstance(value, str):
        return utf8(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return "json:" + to_json(plain(value))


def _decode(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value
    return json.loads(value[5:]) if isinstance(value, str) and value.startswith("json:") else value
