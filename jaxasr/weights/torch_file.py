"""Reads files of `torch.save`: a zip of raw storages, and a pickle that says how they make tensors.

The pickle is read as inert data: nothing that it names is imported or called.
"""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxasr.weights import files, inert_pickle
from jaxasr.weights.checkpoint import Lazy
from jaxasr.weights.errors import damaged, reading, shown
from jaxasr.weights.inert_pickle import Call, Global, Persistent

_DTYPES = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64,
}
_MAX_PICKLE = 1 << 22  # bytes: the largest released one has 0.3 MB
_MAX_DIRECTORY = 1 << 22  # bytes of names in the zip: the largest released one has 0.2 MB
_MAX_SHARED = (
    4  # times the size of the file that its tensors may read: more only if many share one storage
)
_CLONE = "Save a copy of each: {name: tensor.clone() for name, tensor in state.items()}."
_RESAVE = "Load it with torch.load(path, weights_only=True) and save its tensors again with torch.save or safetensors."


class Archive:
    """The zip: entries that are stored as they are, none larger than the file."""

    def __init__(self, path: Path):
        files.check_file(path)
        self.path, self.size = path, path.stat().st_size
        _check_format(path)
        self.zip = zipfile.ZipFile(path)
        pickles = [
            name
            for name in self.zip.namelist()
            if name.count("/") == 1 and name.endswith("/data.pkl")
        ]
        if len(pickles) != 1:
            raise damaged(path, "one data.pkl", f"{len(pickles)}", _RESAVE)
        self.root = pickles[0].removesuffix("data.pkl")

    def entry(self, name: str) -> zipfile.ZipInfo:
        info = self.zip.NameToInfo.get(self.root + name)
        if info is None:
            raise damaged(self.path, f"the entry {self.root}{name}", "none")
        if (
            info.compress_type != zipfile.ZIP_STORED
            or info.file_size != info.compress_size
            or info.file_size > self.size
        ):
            raise damaged(
                self.path,
                f"{info.filename} stored without compression",
                f"{info.file_size} bytes",
                _RESAVE,
            )
        return info

    def read(self, info: zipfile.ZipInfo) -> bytes:
        with reading(self.path, f"{info.filename} to be whole"):
            return self.zip.read(info)  # checks its CRC


def _check_format(path: Path) -> None:
    with open(path, "rb") as file:
        if file.read(16).startswith(b"\x80"):
            raise damaged(
                path,
                "the zip format that torch.save writes since 1.6",
                "the format before it",
                _RESAVE,
            )
        end = zipfile._EndRecData(file)  # pyright: ignore[reportAttributeAccessIssue]
    # Opening a zip makes an object of every entry, many times as large as the entry.
    if end and end[zipfile._ECD_SIZE] > _MAX_DIRECTORY:  # pyright: ignore[reportAttributeAccessIssue]
        raise damaged(
            path, f"at most {_MAX_DIRECTORY} bytes of a zip directory", end[zipfile._ECD_SIZE]
        )  # pyright: ignore


def _size(value: Any, path: Path, what: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise damaged(path, f"{what}: a size", shown(value))
    return value


def _sizes(value: Any, path: Path, what: str) -> tuple[int, ...]:
    if type(value) is not tuple or len(value) > 8:
        raise damaged(path, f"{what}: a tuple of sizes", type(value).__name__)
    return tuple(_size(v, path, what) for v in value)


def _storage(archive: Archive, stored: Any, name: str) -> tuple[zipfile.ZipInfo, np.dtype]:
    """The zip entry and the type behind a persistent id ("storage", torch.FloatStorage, key, location, count)."""
    key = stored.key if type(stored) is Persistent else None
    types = tuple(map(type, key)) if type(key) is tuple else ()
    if (
        types[:3] != (str, Global, str)
        or len(types) != 5
        or key[0] != "storage"
        or key[1].name not in _DTYPES
    ):
        raise damaged(
            archive.path, f"{name}: a storage of {', '.join(_DTYPES)}", shown(key), _RESAVE
        )
    dtype = np.dtype(_DTYPES[key[1].name])
    info = archive.entry(f"data/{key[2]}")
    if info.file_size != _size(key[4], archive.path, name) * dtype.itemsize:
        raise damaged(
            archive.path, f"{name}: {key[4]} numbers of {dtype}", f"{info.file_size} bytes"
        )
    return info, dtype


def _tensor(archive: Archive, name: str, value: Any) -> tuple[Lazy, int]:
    """The tensor of `_rebuild_tensor_v2(storage, offset, size, stride, ...)`, and the bytes of its storage."""
    path = archive.path
    if type(value) is Call and value.function.name == "_rebuild_parameter" and value.args:
        value = value.args[0]
    if (
        type(value) is not Call
        or value.function.name != "_rebuild_tensor_v2"
        or len(value.args) < 4
    ):
        raise damaged(path, f"{name}: a tensor", type(value).__name__, _RESAVE)
    info, dtype = _storage(archive, value.args[0], name)
    offset = _size(value.args[1], path, name)
    shape, stride = _sizes(value.args[2], path, name), _sizes(value.args[3], path, name)
    count = info.file_size // dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride))
    if len(shape) != len(stride) or 0 in shape or last >= count or math.prod(shape) > count:
        raise damaged(
            path,
            f"{name}: a tensor within {count} numbers",
            f"size {shape}, stride {stride}, offset {offset}",
        )

    def read() -> np.ndarray:
        flat = np.frombuffer(archive.read(info), dtype)[offset:]
        steps = [step * dtype.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)

    return Lazy(shape, dtype.name, read), info.file_size


def tensors(archive: Archive, state: Mapping[Any, Any]) -> dict[str, Lazy]:
    """Returns the tensors of the state dict `state`, not read yet.

    Raises `WeightsError` for anything that is no tensor of floating-point numbers inside the file.
    """
    with reading(archive.path, "tensors"):
        found = {str(name): _tensor(archive, str(name), value) for name, value in state.items()}
    if sum(n_bytes for _, n_bytes in found.values()) > _MAX_SHARED * archive.size:
        raise damaged(
            archive.path,
            "tensors with storages of their own",
            f"{len(found)} that share theirs",
            _CLONE,
        )
    return {name: entry for name, (entry, _) in found.items()}


def load(path: Path) -> tuple[Archive, Any]:
    """Returns the file and the value of its pickle as inert data. Raises `WeightsError`."""
    with reading(path, "a zip file as torch.save writes it, holding tensors only"):
        archive = Archive(path)
        info = archive.entry("data.pkl")
        if info.file_size > _MAX_PICKLE:
            raise damaged(path, f"at most {_MAX_PICKLE} bytes of data.pkl", info.file_size)
        return archive, inert_pickle.loads(archive.read(info))
