"""Reads files of `torch.save`.

Such a file is a zip. It holds storages, which are arrays of raw numbers, and a pickle that
describes tensors in these storages. The pickle is read as plain data. No name in it is imported or
called.
"""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxasr.weights import files, inert_pickle
from jaxasr.weights.checkpoint import LazyTensor
from jaxasr.weights.errors import convert_errors, file_error, short_repr
from jaxasr.weights.inert_pickle import Call, Global, Persistent

# Torch's class of a storage -> NumPy dtype of its numbers.
_DTYPES = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64,
}
_MAX_PICKLE_BYTES = 1 << 22  # the largest released pickle has 0.3 MB
_MAX_DIRECTORY_BYTES = 1 << 22  # of the zip's list of entries; released lists have at most 0.2 MB
# Largest size of all tensors, as a multiple of the file size. Without this limit, a
# small file could fill the memory with many tensors that share one storage.
_MAX_SIZE_RATIO = 4
_CLONE_REMEDY = "Save a copy of each: {name: tensor.clone() for name, tensor in state.items()}."
_RESAVE_REMEDY = (
    "Load it with torch.load(path, weights_only=True) and save its tensors again with torch.save "
    "or safetensors."
)


class Archive:
    """A zip file of `torch.save`. Its entries must be stored without compression."""

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
            raise file_error(path, "one data.pkl", len(pickles), _RESAVE_REMEDY)
        # All entries are in one folder of the zip. Its name depends on the version of torch.
        self.root = pickles[0].removesuffix("data.pkl")

    def entry(self, name: str) -> zipfile.ZipInfo:
        """Returns an entry of the zip after checking its size."""
        zip_entry = self.zip.NameToInfo.get(self.root + name)
        if zip_entry is None:
            raise file_error(self.path, f"the entry {self.root}{name}", "none")
        uncompressed = zip_entry.compress_type == zipfile.ZIP_STORED
        if (
            not uncompressed
            or zip_entry.file_size != zip_entry.compress_size
            or zip_entry.file_size > self.size
        ):
            expected = f"{zip_entry.filename} stored without compression"
            raise file_error(self.path, expected, f"{zip_entry.file_size} bytes", _RESAVE_REMEDY)
        return zip_entry

    def read(self, zip_entry: zipfile.ZipInfo) -> bytes:
        """Reads the bytes of an entry."""
        with convert_errors(self.path, f"{zip_entry.filename} to be complete"):
            return self.zip.read(zip_entry)  # checks its CRC


def _check_format(path: Path) -> None:
    with open(path, "rb") as file:
        # Before version 1.6, the file began with a pickle, whose first byte is 0x80.
        if file.read(16).startswith(b"\x80"):
            expected = "the zip format that torch.save writes since 1.6"
            raise file_error(path, expected, "an older format", _RESAVE_REMEDY)
        # zipfile creates an object per entry that is many times as large as the entry. So the size
        # of the list of entries is checked first. Only a private function of zipfile returns it.
        private: Any = zipfile
        end_record = private._EndRecData(file)
        n_bytes = end_record[private._ECD_SIZE] if end_record else 0
    if n_bytes > _MAX_DIRECTORY_BYTES:
        raise file_error(path, f"at most {_MAX_DIRECTORY_BYTES} bytes of a zip directory", n_bytes)


def _check_size(value: Any, path: Path, name: str) -> int:
    # 1 << 48 bytes are 256 TiB, so a larger size is damaged.
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise file_error(path, f"{name}: a size", short_repr(value))
    return value


def _check_sizes(value: Any, path: Path, name: str) -> tuple[int, ...]:
    # Whisper's tensors have up to three axes, so more than eight are damaged.
    if type(value) is not tuple or len(value) > 8:
        raise file_error(path, f"{name}: a tuple of sizes", type(value).__name__)
    return tuple(_check_size(v, path, name) for v in value)


def _find_storage(archive: Archive, reference: Any, name: str) -> tuple[zipfile.ZipInfo, np.dtype]:
    """Returns the zip entry and the dtype of a storage.

    The key of `reference` is ("storage", torch.FloatStorage, entry name, device, count).
    """
    key = reference.key if type(reference) is Persistent else None
    types = tuple(map(type, key)) if type(key) is tuple else ()
    if (
        not isinstance(key, tuple)
        or types[:3] != (str, Global, str)
        or len(types) != 5
        or key[0] != "storage"
        or key[1].name not in _DTYPES
    ):
        expected = f"{name}: a storage of {', '.join(_DTYPES)}"
        raise file_error(archive.path, expected, short_repr(key), _RESAVE_REMEDY)
    dtype = np.dtype(_DTYPES[key[1].name])
    zip_entry = archive.entry(f"data/{key[2]}")
    if zip_entry.file_size != _check_size(key[4], archive.path, name) * dtype.itemsize:
        expected = f"{name}: {key[4]} numbers of {dtype}"
        raise file_error(archive.path, expected, f"{zip_entry.file_size} bytes")
    return zip_entry, dtype


def _make_lazy_tensor(archive: Archive, name: str, value: Any) -> tuple[LazyTensor, int]:
    """Returns the tensor of a `_rebuild_tensor_v2` call, and the number of bytes of its storage.

    The arguments of the call are (storage, offset, size, stride, ...).
    """
    path = archive.path
    # A parameter wraps its tensor as the first argument.
    if type(value) is Call and value.function.name == "_rebuild_parameter" and value.args:
        value = value.args[0]
    is_tensor = type(value) is Call and value.function.name == "_rebuild_tensor_v2"
    if not is_tensor or len(value.args) < 4:
        raise file_error(path, f"{name}: a tensor", type(value).__name__, _RESAVE_REMEDY)
    zip_entry, dtype = _find_storage(archive, value.args[0], name)
    offset = _check_size(value.args[1], path, name)
    shape, stride = _check_sizes(value.args[2], path, name), _check_sizes(value.args[3], path, name)
    n_numbers = zip_entry.file_size // dtype.itemsize
    # Sizes and strides count numbers, so this is the largest index that the tensor reads.
    last_index = offset + sum((n - 1) * step for n, step in zip(shape, stride))
    if (
        len(shape) != len(stride)
        or 0 in shape
        or last_index >= n_numbers
        or math.prod(shape) > n_numbers
    ):
        expected = f"{name}: a tensor within {n_numbers} numbers"
        found = f"size {shape}, stride {stride}, offset {offset}"
        raise file_error(path, expected, found)

    def read() -> np.ndarray:
        flat = np.frombuffer(archive.read(zip_entry), dtype)[offset:]
        # The checks above keep every index of this view within `flat`.
        byte_strides = [step * dtype.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(flat, shape, byte_strides, writeable=False)

    return LazyTensor(shape, dtype.name, read), zip_entry.file_size


def tensors(archive: Archive, state: Mapping[Any, Any]) -> dict[str, LazyTensor]:
    """Returns the tensors of a state dict. Each is read on demand.

    Args:
        archive: the file, from `load`.
        state: the state dict as plain data, from `load`.

    Raises:
        WeightsError: a value is not a tensor of floating-point numbers inside the file, or many
            tensors share a storage.
    """
    with convert_errors(archive.path, "tensors"):
        entries = {
            str(name): _make_lazy_tensor(archive, str(name), value) for name, value in state.items()
        }
    if sum(n_bytes for _, n_bytes in entries.values()) > _MAX_SIZE_RATIO * archive.size:
        expected = "tensors with separate storages"
        raise file_error(archive.path, expected, f"{len(entries)} that share theirs", _CLONE_REMEDY)
    return {name: entry for name, (entry, _) in entries.items()}


def load(path: Path) -> tuple[Archive, Any]:
    """Opens a file of `torch.save`.

    Args:
        path: the file.

    Returns:
        The opened file, and the value of its pickle as plain data.

    Raises:
        WeightsError: the file is damaged or holds more than tensors.
    """
    with convert_errors(path, "a zip file as torch.save writes it, holding tensors only"):
        archive = Archive(path)
        zip_entry = archive.entry("data.pkl")
        if zip_entry.file_size > _MAX_PICKLE_BYTES:
            raise file_error(
                path, f"at most {_MAX_PICKLE_BYTES} bytes of data.pkl", zip_entry.file_size
            )
        return archive, inert_pickle.loads(archive.read(zip_entry))
