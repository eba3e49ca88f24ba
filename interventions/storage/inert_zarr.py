"""Checks the metadata of a zarr folder before zarr reads it.

A codec is code that runs on the bytes of a file, and some codecs run whatever the file contains
(`pickle`), so only the number formats and codecs that this package writes are allowed.
"""

import math
import re
import struct
from pathlib import Path
from typing import Any

from interventions.storage.inert import KINDS, MAX_RATIO, read_json

# Bytes that a variable may take whatever its files hold, because chunks of one value are not stored.
_MAX_UNSTORED = 64 << 20
_PLAIN = {"name": "bytes", "configuration": {"endian": "little"}}, {"name": "bytes"}
_CODECS = (*_PLAIN, {"name": "crc32c"}, {"name": "crc32c", "configuration": {}})
_TEXT_CODECS = ({"name": "vlen-utf8"}, {"name": "vlen-utf8", "configuration": {}}, *_CODECS)
_NUMBERS = ("float16", "float32", "float64", "uint8", "uint16", "int32", "int64")


def check_result(folder: Path) -> None:
    """Checks that `folder` holds only what `save_result` writes, in zarr's format 2.

    Raises:
        ValueError: a file that `save_result` does not write; the message names it.
    """
    if not (folder / ".zgroup").is_file():
        raise ValueError(f"{folder}: expected a result of save_result, found no .zgroup in it.")
    for file in folder.rglob("*"):
        nested_group = file.name == ".zgroup" and file.parent != folder
        if file.name in ("zarr.json", ".zmetadata") or nested_group:
            raise ValueError(
                f"{file}: expected one zarr group of format 2, as save_result writes it."
            )
        not_an_array = file.is_dir() and not (file / ".zarray").is_file()
        loose_file = file.parent == folder and file.is_file()
        if file.name in (".zattrs", ".zgroup"):
            read_json(file)
        elif file.name == ".zarray":
            _check_array(file)
        elif not_an_array or loose_file:
            raise ValueError(f"{file}: expected only what save_result writes in {str(folder)!r}.")


def _check_array(file: Path) -> None:
    """Checks codecs, number format and size that a .zarray declares."""
    metadata = read_json(file)
    compressor, dtype = metadata.get("compressor"), metadata.get("dtype")
    if metadata.get("zarr_format") != 2 or metadata.get("filters") or not _is_blosc(compressor):
        raise ValueError(
            f"{file}: expected no filters and no codec but blosc, "
            f"got {_short(metadata.get('filters'))}, {_short(compressor)}."
        )
    if not isinstance(dtype, str) or not re.fullmatch(rf"[<>|][{KINDS}][0-9]{{1,9}}", dtype):
        raise ValueError(
            f"{file}: expected numbers or texts of fixed length, got dtype {_short(dtype)}."
        )
    shape, chunk_shape = (_sizes(file, metadata, name) for name in ("shape", "chunks"))
    item = int(dtype[2:]) * (4 if dtype[1] == "U" else 1)
    chunks = [
        path for path in file.parent.iterdir() if re.fullmatch(r"[0-9]+(\.[0-9]+)*", path.name)
    ]
    most = MAX_RATIO * sum(path.stat().st_size for path in chunks)
    declared = max(math.prod(shape), math.prod(chunk_shape)) * item
    if declared > max(_MAX_UNSTORED, most):
        raise ValueError(f"{file}: declares {declared} bytes, more than its chunks can hold.")
    if compressor:
        for path in chunks:
            _check_chunk(path, math.prod(chunk_shape) * item)


def _is_blosc(compressor: Any) -> bool:
    return compressor is None or (isinstance(compressor, dict) and compressor.get("id") == "blosc")


def _sizes(file: Path, metadata: dict[str, Any], name: str) -> list[int]:
    sizes = metadata.get(name)
    if not isinstance(sizes, list) or not all(
        type(size) is int and size >= (name == "chunks") for size in sizes
    ):
        raise ValueError(f"{file}: expected a list of sizes as {name!r}, got {_short(sizes)}.")
    return sizes


def _check_chunk(path: Path, n_bytes: int) -> None:
    """Compares the size that a blosc chunk unpacks to with `n_bytes`.

    Its header holds the size as 32 bits at offset 4. Source: c-blosc, README_HEADER.rst.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if len(head) < 16 or struct.unpack("<I", head[4:8])[0] != n_bytes:
        raise ValueError(f"{path}: damaged: it does not unpack to {n_bytes} bytes.")


def check_store(folder: Path) -> None:
    """Checks the metadata of an activation store, in zarr's format 3.

    Raises:
        ValueError: a `zarr.json` that `extract` does not write; the message names it.
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
    kind, codecs = metadata.get("data_type"), metadata.get("codecs")
    allowed = _TEXT_CODECS if kind == "string" else _CODECS if kind in _NUMBERS else ()
    if (
        not isinstance(codecs, list)
        or not all(codec in allowed for codec in codecs)
        or metadata.get("storage_transformers")
    ):
        raise ValueError(
            f"{file}: expected the number formats and codecs of extract, "
            f"got {_short(kind)}, {_short(codecs)}."
        )


def _short(value: Any) -> str:
    return repr(value)[:80]
