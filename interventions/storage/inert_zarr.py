"""Looks at the metadata of a zarr folder before zarr does: only number formats and codecs that this package writes are ever decoded.

A codec is code that runs on the bytes of a file, and some run whatever the file says (`pickle`); texts as objects need one.
"""

import math
import re
import struct
from pathlib import Path
from typing import Any

from interventions.storage.inert import KINDS, read_json

_SMALL = (
    64 << 20
)  # bytes that a variable may take whatever its files hold: chunks of one value are not written
_MAX_RATIO = 1032
_PLAIN = {"name": "bytes", "configuration": {"endian": "little"}}, {"name": "bytes"}
_CODECS = (*_PLAIN, {"name": "crc32c"}, {"name": "crc32c", "configuration": {}})
_TEXT_CODECS = ({"name": "vlen-utf8"}, {"name": "vlen-utf8", "configuration": {}}, *_CODECS)
_NUMBERS = ("float16", "float32", "float64", "uint8", "uint16", "int32", "int64")


def check_result(folder: Path) -> None:
    """Raises ValueError naming a file of `folder`, a result in zarr's format 2, that `save_result` would not have written."""
    if not (folder / ".zgroup").is_file():
        raise ValueError(f"{folder}: expected a result of save_result, found no .zgroup in it.")
    for file in folder.rglob("*"):
        if file.name in ("zarr.json", ".zmetadata") or (
            file.name == ".zgroup" and file.parent != folder
        ):
            raise ValueError(
                f"{file}: expected one zarr group of format 2, as save_result writes it."
            )
        if file.name in (".zattrs", ".zgroup"):
            read_json(file)
        elif file.name == ".zarray":
            _check_array(file)
        elif (file.is_dir() and not (file / ".zarray").is_file()) or (
            file.parent == folder and file.is_file()
        ):
            raise ValueError(f"{file}: expected only what save_result writes in {str(folder)!r}.")


def _check_array(file: Path) -> None:
    found = read_json(file)
    compressor, dtype = found.get("compressor"), found.get("dtype")
    if found.get("zarr_format") != 2 or found.get("filters") or not _is_blosc(compressor):
        raise ValueError(
            f"{file}: expected no filters and no codec but blosc, got {_short(found.get('filters'))}, {_short(compressor)}."
        )
    if not isinstance(dtype, str) or not re.fullmatch(rf"[<>|][{KINDS}][0-9]{{1,9}}", dtype):
        raise ValueError(
            f"{file}: expected numbers or texts of fixed length, got dtype {_short(dtype)}."
        )
    shape, chunks = (_sizes(file, found, name) for name in ("shape", "chunks"))
    item = int(dtype[2:]) * (4 if dtype[1] == "U" else 1)
    stored = [
        part for part in file.parent.iterdir() if re.fullmatch(r"[0-9]+(\.[0-9]+)*", part.name)
    ]
    held = _MAX_RATIO * sum(part.stat().st_size for part in stored)
    declared = max(math.prod(shape), math.prod(chunks)) * item
    if declared > max(_SMALL, held):
        raise ValueError(f"{file}: declares {declared} bytes, more than its chunks can hold.")
    if compressor:
        for part in stored:
            _check_chunk(part, math.prod(chunks) * item)


def _is_blosc(compressor: Any) -> bool:
    return compressor is None or (isinstance(compressor, dict) and compressor.get("id") == "blosc")


def _sizes(file: Path, found: dict[str, Any], name: str) -> list[int]:
    value = found.get(name)
    if not isinstance(value, list) or not all(
        type(size) is int and size >= (name == "chunks") for size in value
    ):
        raise ValueError(f"{file}: expected a list of sizes as {name!r}, got {_short(value)}.")
    return value


def _check_chunk(part: Path, n_bytes: int) -> None:
    """The header of a blosc chunk says how many bytes it unpacks to: offset 4, 32 bits. Source: c-blosc, README_HEADER.rst."""
    with part.open("rb") as file:
        head = file.read(16)
    if len(head) < 16 or struct.unpack("<I", head[4:8])[0] != n_bytes:
        raise ValueError(f"{part}: damaged: it does not unpack to {n_bytes} bytes.")


def check_store(folder: Path) -> None:
    """Raises ValueError naming a `zarr.json` of an activation store in zarr's format 3 that `extract` would not have written."""
    for file in [folder / "zarr.json", *sorted(folder.glob("*/zarr.json"))]:
        found = read_json(file)
        if found.get("zarr_format") != 3 or found.get("node_type") != (
            "group" if file.parent == folder else "array"
        ):
            raise ValueError(
                f"{file}: expected the metadata of zarr format 3 for an activation store."
            )
        if file.parent != folder:
            kind, codecs = found.get("data_type"), found.get("codecs")
            allowed = _TEXT_CODECS if kind == "string" else _CODECS if kind in _NUMBERS else ()
            if (
                not isinstance(codecs, list)
                or not all(codec in allowed for codec in codecs)
                or found.get("storage_transformers")
            ):
                raise ValueError(
                    f"{file}: expected the number formats and codecs of extract, got {_short(kind)}, {_short(codecs)}."
                )


def _short(value: Any) -> str:
    return repr(value)[:80]
