"""Opens the stores in which several processes saved their shares as one store.

Every process extracts its share into a subfolder, which is a store. The utterances of the joined
store are those of all shares in the order of the processes, as one process would store them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from xarray.backends import BackendArray
from xarray.core import indexing

from experiments.store import integrity, layout
from experiments.store.layout import StoreError
from interventions.storage.process_parts import (
    OtherProcesses,
    complete_parts,
    find_parts,
    part_folder,
)
from jaxasr.processes import Process

_START, _COUNT = "_frame_start", "_frame_count"  # ends of names of variables


class JoinedArray(BackendArray):
    """A variable of several stores, one after the other along the axis of utterances or frames.

    Attributes:
        dims: names of the dimensions.
        shape: sizes of the dimensions.
        dtype: dtype of the values.
        attrs: attributes of the variable.
    """

    def __init__(self, groups: Sequence[layout.Group], name: str):
        arrays = [group[name] for group in groups]
        first = arrays[0]
        self.dims, self.dtype, self.attrs = (
            tuple(first.metadata.dimension_names),
            np.dtype(first.dtype),
            dict(first.attrs),
        )
        joined = [axis for axis, dim in enumerate(self.dims) if _is_joined(dim)]
        self._groups, self._name = groups, name
        self._axis = joined[0] if joined else None
        self._ends = np.cumsum([array.shape[joined[0]] if joined else 0 for array in arrays])
        shape = list(first.shape)
        if joined:
            shape[joined[0]] = int(self._ends[-1])
        self.shape = tuple(shape)
        self._offsets = _frame_offsets(groups, name)

    def __getitem__(self, key: Any) -> np.ndarray:
        if isinstance(key, indexing.ExplicitIndexer):  # xarray reads variables when they are used
            support = indexing.IndexingSupport.BASIC
            return indexing.explicit_indexing_adapter(key, self.shape, support, self._read)
        return self._read(key)

    def _read(self, key: Any) -> np.ndarray:
        key = _expand(key, len(self.shape))
        if self._axis is None:
            return layout.read(self._groups[0], self._name, *key)
        where, before = key[self._axis], key[: self._axis]
        if not isinstance(where, slice):
            part, index = self._locate(int(where))
            return self._read_part(part, (*before, index, *key[self._axis + 1 :]))
        start, stop, step = where.indices(self.shape[self._axis])
        # An integer index removes its axis from the result.
        axis = sum(isinstance(index, slice) for index in before)
        blocks = [
            self._read_part(part, (*before, local, *key[self._axis + 1 :]))
            for part, local in self._overlaps(start, max(start, stop))
        ]
        joined = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis)
        return joined[(slice(None),) * axis + (slice(None, None, step),)]

    def _read_part(self, part: int, key: tuple[Any, ...]) -> np.ndarray:
        values = layout.read(self._groups[part], self._name, *key)
        return values + self._offsets[part] if self._offsets is not None else values

    def _locate(self, index: int) -> tuple[int, int]:
        """Returns the part that holds an index of the joined axis, and the index within it."""
        index += self.shape[self._axis or 0] if index < 0 else 0
        part = int(np.searchsorted(self._ends, index, side="right"))
        return part, index - self._start(part)

    def _start(self, part: int) -> int:
        return int(self._ends[part - 1]) if part else 0

    def _overlaps(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """Yields the parts that hold indices from `start` to `stop`, and their own indices."""
        found = False
        for part, end in enumerate(self._ends.tolist()):
            first, last = max(start, self._start(part)), min(stop, end)
            if first < last:
                found = True
                yield part, slice(first - self._start(part), last - self._start(part))
        if not found:
            yield 0, slice(0, 0)


class JoinedGroup:
    """The groups of several stores, which is used like the zarr group of one store.

    Args:
        path: folder of all shares.
        parts: the group of every share, in order.

    Raises:
        StoreError: the shares are not of one model, corpus and extraction.
    """

    def __init__(self, path: Path, parts: Sequence[layout.Group]):
        self.path, self.parts = path, parts
        first = dict(parts[0].attrs)
        for part in parts[1:]:
            integrity.check_identity(part, first)
        self.attrs = {**first, **_join_attributes([dict(part.attrs) for part in parts])}

    def __contains__(self, name: object) -> bool:
        return name in self.parts[0]

    def __getitem__(self, name: str) -> JoinedArray:
        return JoinedArray(self.parts, name)

    def array_keys(self) -> list[str]:
        """Returns the names of all variables."""
        return sorted(self.parts[0].array_keys())

    def dataset(self) -> xarray.Dataset:
        """Returns all variables as labelled arrays, which are read when they are used."""
        variables = {}
        for name in self.array_keys():
            array = self[name]
            # Texts and coordinates are small, and pandas needs their values.
            is_small = array.dims == (name,) or array.dtype.kind not in "fiu"
            data = array[...] if is_small else indexing.LazilyIndexedArray(array)
            variables[name] = xarray.Variable(array.dims, data, array.attrs)
        return xarray.Dataset(variables, attrs=self.attrs)


def open_shares(path: Path) -> JoinedGroup:
    """Opens the shares of all processes.

    Raises:
        ValueError: a share is missing or unfinished.
        StoreError: a share is damaged, or shares do not fit together.
    """
    parts = complete_parts(path, is_finished)
    return JoinedGroup(path, [integrity.open_existing(part, "r") for part in parts])


def has_store(path: Path) -> bool:
    """Returns whether `path` is a store, or has the finished shares of all processes."""
    if (path / "zarr.json").is_file():
        return True
    try:
        return bool(complete_parts(path, is_finished))
    except (FileNotFoundError, ValueError):
        return False


def check_layout(path: Path, process: Process) -> None:
    """Checks that `path` does not mix the store of one process with shares of several.

    Raises:
        StoreError: the folder holds the other kind.
    """
    has_one = (path / "zarr.json").exists()
    if has_one and process.count > 1:
        raise StoreError(
            f"{str(path)!r} holds the store of a single process. Continue with one process, or "
            "choose another folder."
        )
    if not has_one and process.count == 1 and (parts := find_parts(path)):
        counts = ", ".join(map(str, sorted({part.count for part in parts})))
        raise StoreError(
            f"{str(path)!r} holds the shares of several processes ({counts}). Continue with as "
            "many processes, or choose another folder."
        )


def wait_for_shares(path: Path, process: Process, wait_s: float | None = None) -> None:
    """Waits until every other process has finished the extraction that `process` has finished."""
    others, wanted = OtherProcesses(path, process, wait_s), _identity(part_folder(path, process))
    for other in process.others():
        part = part_folder(path, other)
        # The folder may hold a share of another extraction, which its process then reports.
        others.wait(other, lambda part=part: is_finished(part) and _identity(part) == wanted)


def is_finished(part: Path) -> bool:
    """Returns whether a folder holds a complete store."""
    return bool(_read_attributes(part).get("complete"))


def _identity(part: Path) -> list[Any]:
    attributes = _read_attributes(part)
    return [attributes.get(name) for name in ("model", "corpus", "settings")]


def _read_attributes(part: Path) -> dict[str, Any]:
    """Reads the attributes of a store that another process may be writing."""
    try:
        return json.loads((part / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    except (OSError, ValueError, KeyError):
        return {}


def _join_attributes(attributes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns those attributes of the joined store that differ between shares."""
    return {
        "left_out": {k: v for of_part in attributes for k, v in of_part["left_out"].items()},
        "speed": {
            "utterances": sum(of_part["speed"]["utterances"] for of_part in attributes),
            "seconds": max(of_part["speed"]["seconds"] for of_part in attributes),
        },
        "checksums": {
            f"{Process(i, len(attributes)).name}/{name}": digest
            for i, of_part in enumerate(attributes)
            for name, digest in of_part["checksums"].items()
        },
    }


def _is_joined(dim: str) -> bool:
    return dim == "utterance" or dim.endswith("_frame")


def _frame_offsets(groups: Sequence[layout.Group], name: str) -> np.ndarray | None:
    """Returns the number of frames before each store, for a variable of frame indices."""
    if not name.endswith(_START):
        return None
    counts = name.removesuffix(_START) + _COUNT
    n_frames = [int(layout.read(group, counts).sum()) for group in groups]
    return np.cumsum([0, *n_frames[:-1]])


def _expand(key: Any, n_dims: int) -> tuple[Any, ...]:
    """Returns one index per dimension."""
    key = key if isinstance(key, tuple) else (key,)
    if Ellipsis not in key:
        return (*key, *[slice(None)] * (n_dims - len(key)))
    at = key.index(Ellipsis)
    return (*key[:at], *[slice(None)] * (n_dims - len(key) + 1), *key[at + 1 :])
