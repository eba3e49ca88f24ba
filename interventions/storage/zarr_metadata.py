"""Checks the metadata of a zarr folder before zarr reads it.

Metadata names the codecs that decode a file. Some codecs, such as `pickle`, run code from the file.
Therefore only the number formats and codecs that this package writes are allowed.
"""

import math
import re
import struct
from pathlib import Path
from typing import Any

from interventions.storage.untrusted_files import DTYPE_KINDS, MAX_UNPACK_RATIO, read_json

# Zarr does not store chunks that contain only the fill value. A variable may therefore declare this
# many bytes without having any chunk.
_MAX_UNSTORED_BYTES = 64 << 20
# Codecs of an activation store, which has no compression but checksums.
_UNCOMPRESSED = {"name": "bytes", "configuration": {"endian": "little"}}, {"name": "bytes"}
_CODECS = (*_UNCOMPRESSED, {"name": "crc32c"}, {"name": "crc32c", "configuration": {}})
_TEXT_CODECS = ({"name": "vlen-utf8"}, {"name": "vlen-utf8", "configuration": {}}, *_CODECS)
_NUMBER_FORMATS = ("float16", "float32", "float64", "uint8", "uint16", "int32", "int64")


def check_result_metadata(folder: Path) -> None:
    """Checks that `folder` holds only what `save_result` writes, in zarr's format 2.

    Raises:
        ValueError: `save_result` does not write such a file. The message names the file.
    """
    if not (folder / ".zgroup").is_file():
        raise ValueError(f"{folder}: expected a result of save_result, found no .zgroup in it.")
    for file in folder.rglob("*"):
        if file.is_symlink():  # rglob does not enter linked folders, but zarr does
            raise ValueError(f"{file}: expected no links in a result of save_result.")
        is_nested_group = file.name == ".zgroup" and file.parent != folder
        if file.name in ("zarr.json", ".zmetadata") or is_nested_group:
            raise ValueError(
                f"{file}: expected one zarr group of format 2, as save_result writes it."
            )
        is_unknown_folder = file.is_dir() and not (file / ".zarray").is_file()
        is_unknown_file = file.parent == folder and file.is_file()
        if file.name in (".zattrs", ".zgroup"):
            read_json(file)
        elif file.name == ".zarray":
            _check_array(file)
        elif is_unknown_folder or is_unknown_file:
            raise ValueError(f"{file}: expected only what save_result writes in {str(folder)!r}.")


def _check_array(file: Path) -> None:
    """Checks the codecs, the number format and the size in a .zarray."""
    metadata = read_json(file)
    compressor, dtype = metadata.get("compressor"), metadata.get("dtype")
    if metadata.get("zarr_format") != 2 or metadata.get("filters") or not _is_blosc(compressor):
        raise ValueError(
            f"{file}: expected blosc as the only codec, and no filters, "
            f"got {_shorten(metadata.get('filters'))}, {_shorten(compressor)}."
        )
    if not isinstance(dtype, str) or not re.fullmatch(rf"[<>|][{DTYPE_KINDS}][0-9]{{1,9}}", dtype):
        raise ValueError(
            f"{file}: expected numbers or texts of fixed length, got dtype {_shorten(dtype)}."
        )
    shape, chunk_shape = (_read_sizes(file, metadata, name) for name in ("shape", "chunks"))
    # A dtype is, for example, "<f4" (4 bytes) or "<U12" (12 characters of 4 bytes).
    item_bytes = int(dtype[2:]) * (4 if dtype[1] == "U" else 1)
    chunks = [
        path for path in file.parent.iterdir() if re.fullmatch(r"[0-9]+(\.[0-9]+)*", path.name)
    ]
    max_bytes = MAX_UNPACK_RATIO * sum(path.stat().st_size for path in chunks)
    declared = max(math.prod(shape), math.prod(chunk_shape)) * item_bytes
    if declared > max(_MAX_UNSTORED_BYTES, max_bytes):
        raise ValueError(f"{file}: declares {declared} bytes, more than its chunks can hold.")
    if compressor:
        for path in chunks:
            _check_chunk(path, math.prod(chunk_shape) * item_bytes)


def _is_blosc(compressor: Any) -> bool:
    return compressor is None or (isinstance(compressor, dict) and compressor.get("id") == "blosc")


def _read_sizes(file: Path, metadata: dict[str, Any], name: str) -> list[int]:
    """Returns the sizes of all dimensions. `name` is "shape" or "chunks"."""
    sizes = metadata.get(name)
    # A dimension may have the size 0, but a chunk may not.
    if not isinstance(sizes, list) or not all(
        type(size) is int and size >= (name == "chunks") for size in sizes
    ):
        raise ValueError(f"{file}: expected a list of sizes as {name!r}, got {_shorten(sizes)}.")
    return sizes


def _check_chunk(path: Path, n_bytes: int) -> None:
    """Checks that a blosc chunk declares `n_bytes` unpacked bytes.

    The header has this number as 32 bits at offset 4 (c-blosc, README_HEADER.rst).
    """
    with path.open("rb") as file:
        header = file.read(16)
    if len(header) < 16 or struct.unpack("<I", header[4:8])[0] != n_bytes:
        raise ValueError(f"{path}: damaged: it does not unpack to {n_bytes} bytes.")


def check_store_metadata(folder: Path) -> None:
    """Checks the metadata of an activation store, in zarr's format 3.

    Raises:
        ValueError: `extract` does not write such a `zarr.json`. The message names the file.
    """
    for file in [folder / "zarr.json", *sorted(folder.glob("*/zarr.json"))]:
        metadata = read_json(file)
        node_type = "group" if file.parent == folder else "array"
        if metadata.get("zarr_format") != 3 or metadata.get("node_type") != node_type:
            raise ValueError(
                f"{file}: expected the metadata of zarr format 3 for an activation store."
            )
        if node_type == "array":
            _check_store_array(file, metadata)


def _check_store_array(file: Path, metadata: dict[str, Any]) -> None:
    data_type, codecs = metadata.get("data_type"), metadata.get("codecs")
    number_codecs = _CODECS if data_type in _NUMBER_FORMATS else ()
    allowed = _TEXT_CODECS if data_type == "string" else number_codecs
    if (
        not isinstance(codecs, list)
        or not all(codec in allowed for codec in codecs)
        or metadata.get("storage_transformers")
    ):
        raise ValueError(
            f"{file}: expected the number formats and codecs of extract, "
            f"got {_shorten(data_type)}, {_shorten(codecs)}."
        )


def _shorten(value: Any) -> str:
    return repr(value)[:80]
