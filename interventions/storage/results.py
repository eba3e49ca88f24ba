"""Labelled results on disk: a zarr folder, or a netCDF file where the name ends in `.nc`; whole under their name, or not at all."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xarray as xr

from interventions.storage import parts
from interventions.storage.inert import named
from interventions.storage.inert_zarr import check_result
from interventions.storage.text_files import plain, replacing, to_json, utf8

_ARRAY = "_only_variable"  # marks a file that held a DataArray
_KEY = "_kept_for"  # what a kept result was computed for
_CHECKSUM, _SHA = (
    "jaxasr_checksum",
    b"jaxasr-sha256:",
)  # an attribute, and what its value begins with
_BLANK = _SHA + b"0" * 64


def save_result(
    result: xr.DataArray | xr.Dataset, path: str | Path, *, provenance: dict[str, Any] | None = None
) -> Path:
    """Writes `result`, labels and attributes included, replacing what is at `path`; nested attributes are kept as JSON.

    The attribute `jaxasr_checksum` in the file is a SHA-256 of all else, which `load_result` checks.

    Args:
        result: labelled arrays of numbers and texts.
        path: a name that ends in .zarr or .nc. netCDF is version 3: it holds 32-bit integers, and no name may have a slash.
        provenance: what `interventions.storage.provenance.provenance` gives; its attribute is `provenance`.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    if path.suffix not in (".zarr", ".nc"):
        raise ValueError(f"path: expected a name that ends in .zarr or .nc, got {path.name!r}.")
    attrs = dict(result.attrs) | ({} if provenance is None else {"provenance": provenance})
    dataset = _with_attrs(_dataset(result, attrs | {_CHECKSUM: _BLANK.decode()}), _flat)
    with replacing(path) as new:
        if path.suffix == ".nc":
            dataset.to_netcdf(new, engine="scipy")
        else:
            dataset.to_zarr(
                new, mode="w", consolidated=False, zarr_format=2
            )  # 3 has no specified text yet
        _sign(new)
    return path


def load_result(path: str | Path) -> xr.DataArray | xr.Dataset:
    """What `save_result` wrote, in memory.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: it is damaged, or holds what `save_result` does not write; the message names the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path: no result at {str(path)!r}.")
    if path.suffix != ".nc":
        check_result(path)
    elif not path.is_file():
        raise ValueError(f"{path}: expected a netCDF file.")
    _check_signed(path)
    how = {"engine": "scipy"} if path.suffix == ".nc" else {"engine": "zarr", "consolidated": False}
    with named(path), xr.open_dataset(path, **how) as opened:
        dataset = opened.load()
        dataset = _with_attrs(dataset, _nested)
        dataset.attrs.pop(_CHECKSUM, None)
        if (name := dataset.attrs.pop(_ARRAY, None)) is None:
            return dataset
        array = dataset["values"].assign_attrs(dataset.attrs)
        return array.rename(name or None)


def kept(path: Path, key: str, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
    """The result that was kept at `path` for `key`, a digest of all that it depends on; else computed and saved there.

    One that is damaged or was kept for something else is computed again, which is logged in one line.
    """
    if path.exists():
        try:
            found = load_result(path)
            if found.attrs.pop(_KEY, None) == key:
                return found
            parts.ignored(path, "misplaced: it was computed for something else")
        except ValueError as problem:
            parts.ignored(path, problem)
    save_result(compute().assign_attrs({_KEY: key}), path)
    found = load_result(path)
    del found.attrs[_KEY]
    return found


def _sign(path: Path) -> None:
    """Puts the checksum of a result, in which its own place is blank, into that place."""
    file = _attributes(path)
    data = file.read_bytes()
    file.write_bytes(data.replace(_BLANK, _SHA + _digest(path, data).encode(), 1))


def _check_signed(path: Path) -> None:
    """Raises ValueError where a result differs from its checksum. One without, which an earlier version wrote, passes."""
    file = _attributes(path)
    data = file.read_bytes() if file.is_file() else b""
    if _CHECKSUM.encode() not in data and _SHA not in data:
        return
    found = re.search(re.escape(_SHA) + rb"([0-9a-f]{64})", data)
    blank = data[: found.start()] + _BLANK + data[found.end() :] if found else b""
    if not found or _CHECKSUM.encode() not in data or _digest(path, blank).encode() != found[1]:
        raise ValueError(
            f"{path}: damaged: its checksum is not that of its contents. Make it again, or restore it from a copy."
        )


def _attributes(path: Path) -> Path:
    """The file of a result that holds its attributes."""
    return path if path.suffix == ".nc" else path / ".zattrs"


def _digest(path: Path, attributes: bytes) -> str:
    """Of the names and contents of all files of a result, of which one holds `attributes`."""
    if path.suffix == ".nc":
        return hashlib.sha256(attributes).hexdigest()
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        contents = attributes if file == _attributes(path) else file.read_bytes()
        digest.update(f"{file.relative_to(path).as_posix()} {len(contents)}\n".encode() + contents)
    return digest.hexdigest()


def _dataset(result: xr.DataArray | xr.Dataset, attrs: dict[str, Any]) -> xr.Dataset:
    if isinstance(result, xr.Dataset):
        return result.assign_attrs(attrs)
    alone = result.copy()
    alone.attrs = {}
    return alone.to_dataset(name="values").assign_attrs(attrs | {_ARRAY: str(result.name or "")})


def _with_attrs(dataset: xr.Dataset, change: Callable[[Any], Any]) -> xr.Dataset:
    """A copy whose attributes, and those of all its variables, went through `change`."""
    dataset = dataset.copy()
    for labelled in (dataset, *dataset.variables.values()):
        labelled.attrs = {name: change(value) for name, value in labelled.attrs.items()}
    return dataset


def _flat(value: Any) -> Any:
    """Plain values as they are; what both formats cannot hold as JSON."""
    if isinstance(value, str):
        return utf8(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return "json:" + to_json(plain(value))


def _nested(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value
    return json.loads(value[5:]) if isinstance(value, str) and value.startswith("json:") else value
