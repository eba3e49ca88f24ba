"""Reads untrusted data files without running code from them, and checks checksums of folders.

Each function compares the sizes that a file declares with the size of the file. A small file can
therefore not make it allocate much memory.
"""

import contextlib
import hashlib
import json
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

CHECKSUMS_FILE = "SHA256SUMS"  # name of the file of checksums; sha256sum reads its format
DTYPE_KINDS = "biufcU"  # values of NumPy's `dtype.kind` for numbers and texts
MAX_UNPACK_RATIO = 1032  # largest number of bytes that deflate can pack into one byte
_MAX_JSON_BYTES = 64 << 20  # 64 MiB
_REMEDY = "Make it again, or restore it from a copy."


def read_json(path: Path, *, finite: bool = False) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: a regular file of at most 64 MiB.
        finite: refuses NaN and infinities, which strict JSON does not have.

    Returns:
        The object.

    Raises:
        ValueError: the file is not a JSON object, or is too large. The message names the file.
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "a.json")
        ...     _ = file.write_text('{"layer": 3}')
        ...     read_json(file)
        {'layer': 3}
    """
    _check_regular(path)
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ValueError(
            f"{path}: expected at most {_MAX_JSON_BYTES} bytes of JSON, got {path.stat().st_size}."
        )
    try:
        value = json.loads(path.read_bytes(), parse_constant=_raise_not_finite if finite else None)
    except RecursionError:
        raise ValueError(
            f"{path}: expected a JSON object, got one that is nested too deeply."
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: expected a JSON object ({error}).") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}.")
    return value


def _raise_not_finite(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a finite number")


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of numbers and texts in an .npz file.

    Args:
        path: a regular file.

    Returns:
        The arrays by name.

    Raises:
        ValueError: the file is damaged, is not an .npz, contains objects, or declares more bytes
            than it can contain. The message names the file.
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(Path(folder, "a.npz"), x=np.arange(3))
        ...     read_npz(Path(folder, "a.npz"))["x"]
        array([0, 1, 2])
    """
    _check_regular(path)
    with path.open("rb") as file:
        return read_npz_stream(file, path)


def read_npz_stream(file: BinaryIO, name: object) -> dict[str, np.ndarray]:
    """Reads the arrays in an open .npz file.

    Args:
        file: the open file.
        name: the name of the file in error messages.

    Returns:
        The arrays by name.

    Raises:
        ValueError: see `read_npz`.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            size = file.seek(0, 2)  # 2: counts from the end of the file
            if sum(member.file_size for member in members) > MAX_UNPACK_RATIO * size:
                raise ValueError(f"it declares more than {size} bytes can be unpacked to")
            return {
                member.filename.removesuffix(".npy"): _read_array(archive, member)
                for member in members
            }
    except Exception as error:  # NumPy and zipfile raise many classes of errors for damaged files
        raise ValueError(
            f"{name}: expected an undamaged .npz of numbers and texts "
            f"({error or type(error).__name__})."
        ) from error


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Reads one .npy, after a check that its shape and dtype give the number of its bytes."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{member.filename}: .npy of version {version}")
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read_header(stream)
        if dtype.kind not in DTYPE_KINDS:
            raise ValueError(f"{member.filename}: {dtype} are neither numbers nor texts")
        n_bytes = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or n_bytes != member.file_size - stream.tell():
            raise ValueError(
                f"{member.filename}: {member.file_size} bytes are not {dtype}{list(shape)}"
            )
        # The archive may declare a size that its compressed data does not have.
        data = stream.read(n_bytes)
        if len(data) != n_bytes or stream.read(1):
            raise ValueError(f"{member.filename}: cut short")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C").copy()


@contextlib.contextmanager
def name_origin_in_errors(origin: object) -> Iterator[None]:
    """Converts errors of the block to a ValueError that names `origin`, the source of its data.

    Example:
        >>> with name_origin_in_errors("a.json"):
        ...     {}["layer"]
        Traceback (most recent call last):
        ValueError: a.json: expected a file of this package (KeyError: 'layer').
    """
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
        reason = (
            "nested too deeply"
            if isinstance(error, RecursionError)
            else f"{type(error).__name__}: {error}"
        )
        raise ValueError(f"{origin}: expected a file of this package ({reason}).") from error


def write_checksums(folder: Path) -> None:
    """Writes the checksums of all files in `folder` to its file SHA256SUMS."""
    lines = [f"{_sha256(folder / name)}  {name}\n" for name in _files(folder)]
    (folder / CHECKSUMS_FILE).write_text("".join(lines), encoding="utf-8")


def check_checksums(folder: Path) -> None:
    """Compares the files of `folder` with its SHA256SUMS.

    Raises:
        ValueError: a file is missing, added or damaged. The message names the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.txt").write_text("a")
        ...     write_checksums(Path(folder))
        ...     check_checksums(Path(folder))
    """
    if not (folder / CHECKSUMS_FILE).is_file():
        raise ValueError(f"{folder}: expected a file {CHECKSUMS_FILE} in it, found none. {_REMEDY}")
    checksums = _read_checksums(folder / CHECKSUMS_FILE)
    files = _files(folder)
    if different := sorted(set(files) ^ set(checksums)):
        raise ValueError(
            f"{folder}: the files differ from those in {CHECKSUMS_FILE}: "
            f"{', '.join(different[:3])}. {_REMEDY}"
        )
    for name in files:
        if _sha256(folder / name) != checksums[name]:
            raise ValueError(
                f"{folder / name}: damaged: its checksum differs from the one in {CHECKSUMS_FILE}. "
                f"{_REMEDY}"
            )


def _read_checksums(path: Path) -> dict[str, str]:
    """Returns the checksums in the file SHA256SUMS by file name."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: damaged. {_REMEDY}") from None
    checksums = {}
    for line in text.splitlines(keepends=True):
        if not (match := re.fullmatch(r"([0-9a-f]{64})  ([^\r\n]+)\n", line)):
            raise ValueError(f"{path}: damaged at {line[:80]!r}. {_REMEDY}")
        checksums[match[2]] = match[1]
    return checksums


def _files(folder: Path) -> list[str]:
    """Returns the relative paths of all files in `folder`, except the file of checksums."""
    files = (
        file for file in folder.rglob("*") if file.is_file() and file != folder / CHECKSUMS_FILE
    )
    return sorted(file.relative_to(folder).as_posix() for file in files)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_regular(path: Path) -> None:
    # Reading a pipe or a device may never end.
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: expected a regular file.")
