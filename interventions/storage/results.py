"""Saves labelled results as zarr folders or netCDF files."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xarray as xr

from interventions.storage.atomic import replacing
from interventions.storage.parts import log_unused
from interventions.storage.text_files import escape_surrogates, to_json, to_json_types
from interventions.storage.untrusted_files import name_origin_in_errors
from interventions.storage.zarr_metadata import check_result_metadata

# Names of attributes that only the saved result has.
_ARRAY_NAME_ATTRIBUTE = "_only_variable"  # the name of a DataArray, which is saved as a Dataset
_KEY_ATTRIBUTE = "_kept_for"  # the key of a cached result
_CHECKSUM_ATTRIBUTE = "jaxasr_checksum"

# The value of the attribute `jaxasr_checksum` is this prefix and 64 digits. The digits are zeros
# while the checksum is computed.
_CHECKSUM_PREFIX = b"jaxasr-sha256:"
_BLANK_CHECKSUM = _CHECKSUM_PREFIX + b"0" * 64
_JSON_PREFIX = "json:"  # precedes the value of an attribute that is encoded as JSON


def save_result(
    result: xr.DataArray | xr.Dataset,
    path: str | os.PathLike[str],
    *,
    provenance: dict[str, Any] | None = None,
) -> Path:
    """Saves a labelled result with its coordinates and attributes.

    An interrupted save leaves no partial result. Nested attributes are saved as JSON. The attribute
    `jaxasr_checksum` of the saved result is a SHA-256 of everything else. `load_result` checks and
    removes this attribute.

    Args:
        result: labelled arrays of numbers and texts.
        path: a name that ends in .zarr for a zarr folder, or in .nc for a netCDF file. An existing
            result is replaced. The file has netCDF version 3, in which integers have at most 32
            bits and names have no slash.
        provenance: a record of how the result was made (see `interventions.storage.provenance`). It
            is saved as the attribute `provenance`.

    Returns:
        `path` as a `Path`.

    Raises:
        ValueError: `path` has another suffix.

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
    dataset = _as_dataset(result, attrs | {_CHECKSUM_ATTRIBUTE: _BLANK_CHECKSUM.decode()})
    dataset = _map_attrs(dataset, _encode_attribute)
    with replacing(path) as temporary:
        if path.suffix == ".nc":
            dataset.to_netcdf(temporary, engine="scipy")
        else:
            # Zarr's format 3 does not specify an encoding of texts.
            dataset.to_zarr(temporary, mode="w", consolidated=False, zarr_format=2)
        _fill_in_checksum(temporary)
    return path


def load_result(path: str | os.PathLike[str]) -> xr.DataArray | xr.Dataset:
    """Loads a result of `save_result` and compares it with its checksum.

    Args:
        path: the netCDF file or zarr folder.

    Returns:
        The DataArray or Dataset, equal to the saved one.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: the result is damaged, or `save_result` did not save it. The message names the
            file.

    Example:
        >>> import tempfile, xarray as xr
        >>> cells = xr.DataArray([0.5, 1.5], dims="layer")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_result(save_result(cells, f"{folder}/cells.zarr")).equals(cells)
        True
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path: no result at {str(path)!r}.")
    if path.suffix != ".nc":
        check_result_metadata(path)
    elif not path.is_file():
        raise ValueError(f"{path}: expected a netCDF file.")
    _compare_checksum(path)
    options: dict[str, Any] = (
        {"engine": "scipy"} if path.suffix == ".nc" else {"engine": "zarr", "consolidated": False}
    )
    with name_origin_in_errors(path), xr.open_dataset(path, **options) as opened:
        dataset = _map_attrs(opened.load(), _decode_attribute)
        dataset.attrs.pop(_CHECKSUM_ATTRIBUTE, None)
        if (name := dataset.attrs.pop(_ARRAY_NAME_ATTRIBUTE, None)) is None:
            return dataset
        array = dataset["values"].assign_attrs(dataset.attrs)
        return array.rename(name or None)


def load_or_compute(path: Path, key: str, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
    """Loads the result at `path` if it was saved under `key`, or else computes and saves it.

    Logs a warning if the saved result is damaged or has another key.

    Args:
        path: a name that ends in .zarr or .nc.
        key: a digest of everything that the result depends on.
        compute: a function that computes the result.

    Returns:
        The result.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "a.nc")
        ...     _ = load_or_compute(path, "seed 0", lambda: xr.Dataset({"x": 1.0}))
        ...     loaded = load_or_compute(path, "seed 0", xr.Dataset)  # does not compute again
        ...     float(loaded.x)
        1.0
    """
    if path.exists():
        try:
            result = load_result(path)
            if isinstance(result, xr.Dataset) and result.attrs.pop(_KEY_ATTRIBUTE, None) == key:
                return result
            log_unused(path, "misplaced: it was computed for something else")
        except ValueError as problem:
            log_unused(path, problem)
    save_result(compute().assign_attrs({_KEY_ATTRIBUTE: key}), path)
    # Saving may change dtypes. Loading gives a new result the same dtypes as a cached one.
    result = load_result(path)
    assert isinstance(result, xr.Dataset)
    del result.attrs[_KEY_ATTRIBUTE]
    return result


def _fill_in_checksum(path: Path) -> None:
    """Computes the checksum of a result and writes it over the blank one."""
    file = _attributes_file(path)
    data = file.read_bytes()
    checksum = _CHECKSUM_PREFIX + _digest(path, data).encode()
    file.write_bytes(data.replace(_BLANK_CHECKSUM, checksum, 1))


def _compare_checksum(path: Path) -> None:
    """Raises ValueError if a result has no checksum or differs from it."""
    file = _attributes_file(path)
    data = file.read_bytes() if file.is_file() else b""
    match = re.search(re.escape(_CHECKSUM_PREFIX) + rb"([0-9a-f]{64})", data)
    if match is None or _CHECKSUM_ATTRIBUTE.encode() not in data:
        raise ValueError(
            f"{path}: expected a result of save_result, found no {_CHECKSUM_ATTRIBUTE} in it."
        )
    blanked = data[: match.start()] + _BLANK_CHECKSUM + data[match.end() :]
    if _digest(path, blanked).encode() != match[1]:
        raise ValueError(
            f"{path}: damaged: its checksum does not match its contents. "
            "Make it again, or restore it from a copy."
        )


def _attributes_file(path: Path) -> Path:
    """Returns the file of a result that contains its attributes."""
    return path if path.suffix == ".nc" else path / ".zattrs"


def _digest(path: Path, attributes: bytes) -> str:
    """Computes a SHA-256 of the names and contents of a result's files.

    `attributes` stands for the contents of the file that contains the attributes.
    """
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
    return values.to_dataset(name="values").assign_attrs(
        attrs | {_ARRAY_NAME_ATTRIBUTE: str(result.name or "")}
    )


def _map_attrs(dataset: xr.Dataset, change: Callable[[Any], Any]) -> xr.Dataset:
    """Returns a copy with `change` applied to every attribute of the dataset and its variables."""
    dataset = dataset.copy()
    for labelled in (dataset, *dataset.variables.values()):
        labelled.attrs = {name: change(value) for name, value in labelled.attrs.items()}
    return dataset


def _encode_attribute(value: Any) -> Any:
    """Encodes an attribute as JSON, unless it is a text or a number."""
    if isinstance(value, str) and not value.startswith(_JSON_PREFIX):
        return escape_surrogates(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return _JSON_PREFIX + to_json(to_json_types(value))


def _decode_attribute(value: Any) -> Any:
    # A netCDF file returns a number as an array with one element.
    value = value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value
    if isinstance(value, str) and value.startswith(_JSON_PREFIX):
        return json.loads(value.removeprefix(_JSON_PREFIX))
    return value
