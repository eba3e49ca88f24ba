"""Reads OpenAI's `.pt` files: a zip of raw storages and a pickle that says how they make tensors, which is read as inert data."""
import math
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxasr.config import Config
from jaxasr.weights import inert_pickle
from jaxasr.weights.checkpoint import Checkpoint, Lazy, Tensors, check_tied, make_config, with_positions
from jaxasr.weights.errors import damaged, reading
from jaxasr.weights.inert_pickle import Call, Global, Persistent

_DTYPES = {"FloatStorage": np.float32, "HalfStorage": np.float16, "BFloat16Storage": ml_dtypes.bfloat16, "DoubleStorage": np.float64}
_MAX_PICKLE = 1 << 26  # bytes: the largest released one has 0.3 MB
_DIMS = tuple(field for field in Config.__dataclass_fields__ if field.startswith("n_"))
_RESAVE = "Save it again with torch.save({'dims': ..., 'model_state_dict': ...}, path), as openai/whisper does."


class _Archive:
    """The zip: entries that are stored as they are, none larger than the file."""

    def __init__(self, path: Path):
        self.path, self.size = path, path.stat().st_size
        self.zip = zipfile.ZipFile(path)
        pickles = [name for name in self.zip.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise damaged(path, "one data.pkl", f"{len(pickles)}", _RESAVE)
        self.root = pickles[0].removesuffix("data.pkl")

    def entry(self, name: str) -> zipfile.ZipInfo:
        info = self.zip.NameToInfo.get(self.root + name)
        if info is None:
            raise damaged(self.path, f"the entry {self.root}{name}", "none")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.file_size > self.size:
            raise damaged(self.path, f"{info.filename} stored without compression", f"{info.file_size} bytes", _RESAVE)
        return info

    def read(self, info: zipfile.ZipInfo) -> bytes:
        with reading(self.path, f"{info.filename} to be whole"):
            return self.zip.read(info)  # checks its CRC


def _size(value: Any, path: Path, what: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise damaged(path, f"{what}: a size", repr(value)[:40])
    return value


def _sizes(value: Any, path: Path, what: str) -> tuple[int, ...]:
    if type(value) is not tuple or len(value) > 8:
        raise damaged(path, f"{what}: a tuple of sizes", type(value).__name__)
    return tuple(_size(v, path, what) for v in value)


def _storage(archive: _Archive, stored: Any, name: str) -> tuple[zipfile.ZipInfo, np.dtype]:
    """The zip entry and the type behind a persistent id ("storage", torch.FloatStorage, key, location, count)."""
    key = stored.key if type(stored) is Persistent else None
    if type(key) is not tuple or len(key) != 5 or key[0] != "storage" or type(key[1]) is not Global or key[1].name not in _DTYPES:
        raise damaged(archive.path, f"{name}: a storage of {', '.join(_DTYPES)}", repr(key)[:80], _RESAVE)
    dtype = np.dtype(_DTYPES[key[1].name])
    info = archive.entry(f"data/{key[2]}")
    if info.file_size != _size(key[4], archive.path, name) * dtype.itemsize:
        raise damaged(archive.path, f"{name}: {key[4]} numbers of {dtype}", f"{info.file_size} bytes")
    return info, dtype


def _tensor(archive: _Archive, name: str, value: Any) -> Lazy:
    """The tensor of `_rebuild_tensor_v2(storage, offset, size, stride, ...)`."""
    path = archive.path
    if type(value) is Call and value.function.name == "_rebuild_parameter" and value.args:
        value = value.args[0]
    if type(value) is not Call or value.function.name != "_rebuild_tensor_v2" or len(value.args) < 4:
        raise damaged(path, f"{name}: a tensor", type(value).__name__, _RESAVE)
    info, dtype = _storage(archive, value.args[0], name)
    offset = _size(value.args[1], path, name)
    shape, stride = _sizes(value.args[2], path, name), _sizes(value.args[3], path, name)
    count = info.file_size // dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride))
    if len(shape) != len(stride) or 0 in shape or last >= count or math.prod(shape) > count:
        raise damaged(path, f"{name}: a tensor within {count} numbers", f"size {shape}, stride {stride}, offset {offset}")

    def read() -> np.ndarray:
        flat = np.frombuffer(archive.read(info), dtype)[offset:]
        steps = [step * dtype.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)

    return Lazy(shape, dtype.name, read)


def _parsed(archive: _Archive) -> tuple[dict[str, Any], dict[str, Any]]:
    info = archive.entry("data.pkl")
    if info.file_size > _MAX_PICKLE:
        raise damaged(archive.path, f"at most {_MAX_PICKLE} bytes of data.pkl", info.file_size)
    found = inert_pickle.loads(archive.read(info))
    dims, state = (found.get(key) if type(found) is dict else None for key in ("dims", "model_state_dict"))
    if type(dims) is not dict or type(state) is not dict:
        raise damaged(archive.path, "a dictionary of 'dims' and 'model_state_dict'", type(found).__name__, _RESAVE)
    return dims, state


def read(path: Path, name: str) -> Checkpoint:
    """The checkpoint in an OpenAI `.pt` file. Raises `WeightsError`; runs nothing that the file says."""
    with reading(path, "a zip file as torch.save writes it, holding tensors only"):
        archive = _Archive(path)
        dims, state = _parsed(archive)
    missing = [key for key in _DIMS if key not in dims]
    if missing:
        raise damaged(path, f"dims {', '.join(_DIMS)}", f"none of {', '.join(missing)}", _RESAVE)
    config = make_config({key: dims[key] for key in _DIMS}, path)
    with reading(path, "tensors"):
        entries = {str(key): _tensor(archive, str(key), value) for key, value in state.items()}
    check_tied(entries, "decoder.projection.weight", path)
    tokenizer = path.parent / "tokenizer.json"
    return Checkpoint(
        config=config,
        tensors=Tensors(with_positions(entries, config)),
        name=name,
        source=path,
        format="openai",
        weight_files=(path,),
        tokenizer_file=tokenizer if tokenizer.is_file() else None,
    )
