"""Reads safetensors and `pytorch_model.bin` files and writes safetensors, also as shards."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxasr import display
from jaxasr.weights import files, torch_file
from jaxasr.weights.checkpoint import LazyTensor
from jaxasr.weights.errors import convert_errors, file_error, short_repr

# Names of weight files and of index files, which list the weight files of a large checkpoint.
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED_WEIGHTS, _PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
WEIGHT_FILES = (WEIGHTS, INDEX, _PICKLED_WEIGHTS, _PICKLED_INDEX)  # in order of preference
_UNNAMED_SHARD = "shard-{}.safetensors"  # until the number of shards is known
_MAX_HEADER_BYTES = 1 << 22  # of a safetensors file; large-v3 has a header of 0.2 MB
# Dtype in a safetensors header -> NumPy's name.
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


def find(folder: Path, given: Path | None) -> tuple[tuple[Path, ...], dict[str, LazyTensor]]:
    """Returns the weight files of a folder, and their tensors under the names in the files.

    Args:
        folder: folder of a checkpoint.
        given: the file that the user named, or None. If it is one of several shards, all shards
            are read.

    Raises:
        WeightsError: a file is missing, damaged or incomplete. The error names the file and its
            tensors.

    Example:
        ```python
        from jaxasr.weights import tensor_files

        files, tensors = tensor_files.find(jaxasr.save(asr, "copy-of-tiny.en"), None)
        tensors["model.decoder.layer_norm.weight"].shape  # (384,)
        ```
    """
    # A shard or an index stands for the whole checkpoint.
    if given is not None and not re.search(r"-\d{5}-of-\d{5}|\.json$", given.name):
        return (given,), _read_tensors(given)
    present = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
    file = present[0] if present else folder / WEIGHTS
    return _read_shards(file) if file.suffix == ".json" else ((file,), _read_tensors(file))


def _read_tensors(path: Path) -> dict[str, LazyTensor]:
    if path.suffix == ".bin":
        return _read_pickled_tensors(path)
    # A safetensors file begins with the length of its header, a number of 8 bytes.
    file = files.FileBytes(path)
    header_bytes = int.from_bytes(file.read(offset=0, count=8).tobytes(), "little")
    if header_bytes > _MAX_HEADER_BYTES:
        expected = f"a safetensors file whose header has at most {_MAX_HEADER_BYTES} bytes"
        raise file_error(path, expected, header_bytes)
    with convert_errors(path, "a safetensors file"):
        header = json.loads(file.read(8, header_bytes).tobytes())
        data_start = 8 + header_bytes
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        _check_complete(path, entries, len(file) - data_start)
        # Checks that every tensor has the bytes of its shape, inside of the file.
        with safe_open(path, framework="numpy"):
            pass
        return {
            name: _make_lazy_tensor(file, name, entry, data_start)
            for name, entry in entries.items()
        }


def _check_complete(path: Path, entries: dict[str, Any], n_bytes: int) -> None:
    """Raises an error that names the tensors that a truncated file lacks."""
    end_of = {name: entry["data_offsets"][1] for name, entry in entries.items()}
    cut = [name for name, end in end_of.items() if end > n_bytes]
    if cut:
        found = f"{n_bytes}, so that {display.listed(cut)} are incomplete"
        raise file_error(path, f"{max(end_of.values())} bytes of tensors", found)


def _make_lazy_tensor(
    file: files.FileBytes, name: str, entry: dict[str, Any], data_start: int
) -> LazyTensor:
    dtype_code, shape = entry["dtype"], tuple(entry["shape"])
    if dtype_code not in _DTYPES:
        expected = f"{name} as one of {', '.join(_DTYPES)}"
        raise file_error(file, expected, dtype_code, "Convert the weights to floating point.")
    start, end = entry["data_offsets"]  # in bytes after the header

    def read() -> np.ndarray:
        dtype = jnp.dtype(_DTYPES[dtype_code])
        return file.read(data_start + start, end - start).view(dtype).reshape(shape)

    return LazyTensor(shape, _DTYPES[dtype_code], read, f"{name} of {file.parts[0].name}")


def _read_pickled_tensors(path: Path) -> dict[str, LazyTensor]:
    archive, state = torch_file.load(path)
    if type(state) is not dict:
        remedy = "Save it with save_pretrained."
        raise file_error(path, "a state dict of tensors", type(state).__name__, remedy)
    return torch_file.tensors(archive, state)


def _read_shards(index: Path) -> tuple[tuple[Path, ...], dict[str, LazyTensor]]:
    file_of = files.read_json(index).get("weight_map")
    # The name of a shard must not be a path, so that no file outside of the folder is read.
    if (
        not isinstance(file_of, dict)
        or not file_of
        or not all(isinstance(f, str) and Path(f).name == f for f in file_of.values())
    ):
        expected = "a weight_map of tensor names to files of this folder"
        raise file_error(index, expected, short_repr(file_of))
    paths = tuple(index.parent / shard for shard in sorted(set(file_of.values())))
    _check_present(index, paths, file_of)
    shards = {path.name: _read_tensors(path) for path in paths}
    # The index and the shards must name the same tensors in the same files.
    missing = sorted(
        f"{name} (not in {file})" for name, file in file_of.items() if name not in shards[file]
    )
    misplaced = sorted(
        f"{name} (in {file})"
        for file, tensors in shards.items()
        for name in tensors
        if file_of.get(name) != file
    )
    if missing or misplaced:
        expected = "every tensor in the file that the index names"
        raise file_error(index, expected, f"otherwise for {', '.join(missing + misplaced)}")
    return paths, {name: entry for shard in shards.values() for name, entry in shard.items()}


def _check_present(index: Path, paths: tuple[Path, ...], file_of: dict[str, str]) -> None:
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        names = display.listed([name for name, file in file_of.items() if file in absent])
        found = f"none of {', '.join(absent)}, which hold {names}"
        raise file_error(index, f"{len(paths)} files", found, "Fetch the missing files.")


def write(tensors: Iterable[tuple[str, np.ndarray]], folder: Path, shard_bytes: int) -> None:
    """Writes tensors as `model.safetensors`, or as several shards with an index.

    Args:
        tensors: names and arrays. Only those of one shard are in memory at a time if this is an
            iterator.
        folder: an existing folder.
        shard_bytes: most bytes of a shard. A tensor with more bytes gets a separate shard.

    Example:
        ```python
        from pathlib import Path

        from jaxasr.weights import tensor_files

        Path("random").mkdir()
        tensor_files.write([("bias", np.zeros(4, np.float32))], Path("random"), shard_bytes=100)
        ```
    """
    sizes: list[dict[str, int]] = []  # bytes of each tensor, by shard
    shard: dict[str, np.ndarray] = {}
    for name, array in tensors:
        if shard and array.nbytes + sum(a.nbytes for a in shard.values()) > shard_bytes:
            sizes.append(_write_shard(shard, folder, len(sizes)))
            shard = {}
        shard[name] = array
    sizes.append(_write_shard(shard, folder, len(sizes)))
    if len(sizes) == 1:
        (folder / _UNNAMED_SHARD.format(0)).rename(folder / WEIGHTS)
        return
    # The number of shards is part of their names, and is known only now.
    n = len(sizes)
    names = [f"model-{i + 1:05}-of-{n:05}.safetensors" for i in range(n)]
    for i, file in enumerate(names):
        (folder / _UNNAMED_SHARD.format(i)).rename(folder / file)
    index = {
        "metadata": {"total_size": sum(sum(shard.values()) for shard in sizes)},
        "weight_map": {name: file for shard, file in zip(sizes, names) for name in shard},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _write_shard(shard: dict[str, np.ndarray], folder: Path, number: int) -> dict[str, int]:
    save_file(shard, folder / _UNNAMED_SHARD.format(number), metadata={"format": "pt"})
    return {name: array.nbytes for name, array in shard.items()}
