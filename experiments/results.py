"""Labelled results on disk: a zarr folder, or a netCDF file where the name ends in `.nc`; whole under their name, or not at all."""
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xarray as xr

from experiments.files import plain, replacing, to_json

_ARRAY = "_only_variable"  # marks a file that held a DataArray


def save_result(result: xr.DataArray | xr.Dataset, path: str | Path, *, provenance: dict[str, Any] | None = None) -> Path:
    """Writes `result`, labels and attributes included, replacing what is at `path`; nested attributes are kept as JSON.

    provenance: what `experiments.provenance.provenance` gives; its attribute is `provenance`. netCDF is version 3: it holds 32-bit
    integers, and no name may have a slash.
    Raises ValueError for another suffix than .zarr and .nc.
    """
    path = Path(path)
    if path.suffix not in (".zarr", ".nc"):
        raise ValueError(f"path: expected a name that ends in .zarr or .nc, got {path.name!r}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    attrs = dict(result.attrs) | ({} if provenance is None else {"provenance": provenance})
    dataset = _with_attrs(_dataset(result, attrs), _flat)
    _save_netcdf(dataset, path) if path.suffix == ".nc" else _save_zarr(dataset, path)
    return path


def load_result(path: str | Path) -> xr.DataArray | xr.Dataset:
    """What `save_result` wrote, in memory. Raises FileNotFoundError."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path: no result at {str(path)!r}.")
    how = {"engine": "scipy"} if path.suffix == ".nc" else {"engine": "zarr", "consolidated": False}
    with xr.open_dataset(path, **how) as opened:
        dataset = opened.load()
    dataset = _with_attrs(dataset, _nested)
    if (named := dataset.attrs.pop(_ARRAY, None)) is None:
        return dataset
    array = dataset["values"].assign_attrs(dataset.attrs)
    return array.rename(named or None)


def kept(path: Path, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
    """The result at `path`; computed and saved there when there is none. So that what was interrupted goes on."""
    if not path.exists():
        save_result(compute(), path)
    return load_result(path)


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


def _save_netcdf(dataset: xr.Dataset, path: Path) -> None:
    with replacing(path) as temporary:
        dataset.to_netcdf(temporary, engine="scipy")


def _save_zarr(dataset: xr.Dataset, path: Path) -> None:
    """Beside `path`, then renamed; what was there goes the moment before."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        unfinished = Path(folder) / "new"
        dataset.to_zarr(unfinished, mode="w", consolidated=False, zarr_format=2)  # 3 has no specified text yet
        if path.exists():
            shutil.move(path, Path(folder) / "old")
        unfinished.rename(path)


def _flat(value: Any) -> Any:
    """Plain values as they are; what both formats cannot hold as JSON."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    return "json:" + to_json(plain(value))


def _nested(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value
    return json.loads(value[5:]) if isinstance(value, str) and value.startswith("json:") else value
