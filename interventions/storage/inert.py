"""Reads files of data without running what is in them or taking more memory than they hold; folders with checksums."""

import contextlib
import hashlib
import json
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

SUMS = "SHA256SUMS"  # as the program sha256sum writes and checks it
KINDS = "biufcU"  # of NumPy's types: numbers and texts
_MAX_JSON = 64 << 20
_MAX_RATIO = 1032  # that deflate can reach


def read_json(path: Path, *, finite: bool = False) -> dict[str, Any]:
    """The JSON object in the file `path`.

    Args:
        path: a regular file of at most 64 MB.
        finite: whether NaN and infinities, which strict JSON does not have, are refused.

    Raises:
        ValueError: the file holds something else; the message names it.
        OSError: it cannot be read.
    """
    _check_regular(path)
    if path.stat().st_size > _MAX_JSON:
        raise ValueError(
            f"{path}: expected at most {_MAX_JSON} bytes of JSON, got {path.stat().st_size}."
        )
    try:
        found = json.loads(path.read_bytes(), parse_constant=_refuse if finite else None)
    except RecursionError:
        raise ValueError(
            f"{path}: expected a JSON object, got one that is nested too deeply."
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: expected a JSON object ({error}).") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(found).__name__}.")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of numbers and texts in an .npz file.

    Raises:
        ValueError: the file is damaged, is no .npz, holds objects, or declares more than it can hold; the message names it.
        OSError: it cannot be read.
    """
    _check_regular(path)
    with path.open("rb") as file:
        return arrays_of(file, path)


def arrays_of(file: BinaryIO, name: Any) -> dict[str, np.ndarray]:
    """The arrays in `file`, an .npz that errors call `name`. Raises ValueError as `read_npz`."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            size = file.seek(0, 2)
            if sum(member.file_size for member in members) > _MAX_RATIO * size:
                raise ValueError(f"more is declared than {size} bytes can hold")
            return {
                member.filename.removesuffix(".npy"): _array(archive, member) for member in members
            }
    except Exception as error:  # what NumPy and zipfile raise for damage has no common class
        raise ValueError(
            f"{name}: expected an undamaged .npz of numbers and texts ({error or type(error).__name__})."
        ) from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{member.filename}: .npy of version {version}")
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(stream)
        if dtype.kind not in KINDS:
            raise ValueError(f"{member.filename}: {dtype} are neither numbers nor texts")
        n_bytes = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or n_bytes != member.file_size - stream.tell():
            raise ValueError(
                f"{member.filename}: {member.file_size} bytes are not {dtype}{list(shape)}"
            )
        data = stream.read(n_bytes)
        if len(data) != n_bytes or stream.read(1):
            raise ValueError(f"{member.filename}: cut short")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C").copy()


@contextlib.contextmanager
def named(where: Any) -> Iterator[None]:
    """Turns whatever goes wrong with data that was read from `where` into a ValueError that names it."""
    try:
        yield
    except (
        KeyError,
        AttributeError,
        TypeError,
        IndexError,
        OverflowError,
        RecursionError,
        MemoryError,
        ValueError,
    ) as error:
        why = (
            "nested too deeply"
            if isinstance(error, RecursionError)
            else f"{type(error).__name__}: {error}"
        )
        raise ValueError(f"{where}: expected what this package wrote ({why}).") from error


def seal(folder: Path) -> None:
    """Writes SHA256SUMS of all files in `folder`."""
    lines = [f"{_sha256(folder / name)}  {name}\n" for name in _files(folder)]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def check_sealed(folder: Path) -> None:
    """Raises ValueError naming a file of `folder` that differs from its SHA256SUMS, is missing there, or is not in it.

    A folder without SHA256SUMS, which an earlier version wrote, passes.
    """
    if not (folder / SUMS).exists():
        return
    known: dict[str, str] = {}
    try:
        text = (folder / SUMS).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{folder / SUMS}: damaged. {_REMEDY}") from None
    for line in text.splitlines(keepends=True):
        if not (found := re.fullmatch(r"([0-9a-f]{64})  ([^\r\n]+)\n", line)):
            raise ValueError(f"{folder / SUMS}: damaged at {line[:80]!r}. {_REMEDY}")
        known[found[2]] = found[1]
    files = _files(folder)
    if different := sorted(set(files) ^ set(known)):
        raise ValueError(
            f"{folder}: the files are not those of {SUMS}: {', '.join(different[:3])}. {_REMEDY}"
        )
    if bad := next((name for name in files if _sha256(folder / name) != known[name]), None):
        raise ValueError(
            f"{folder / bad}: damaged: its checksum is not the one in {SUMS}. {_REMEDY}"
        )


_REMEDY = "Make it again, or restore it from a copy."


def _files(folder: Path) -> list[str]:
    found = (file for file in folder.rglob("*") if file.is_file() and file != folder / SUMS)
    return sorted(file.relative_to(folder).as_posix() for file in found)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_regular(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: expected a regular file.")
