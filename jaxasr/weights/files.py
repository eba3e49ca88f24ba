"""Bytes of files: bounded reads, JSON, hashes.

Reads copy into memory of their own (`readinto`), never map: a mapped page counts as resident as long as the map lives, and
a file that shrinks under a map kills the process.
"""

import hashlib
import json
import os
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jaxasr.weights.errors import WeightsError, damaged, reading, shown

OFF = ("off", "none", "0")  # values of JAXASR_CACHE that keep nothing on disk
_MAX_JSON = 1 << 24  # bytes: the largest index, vocabulary or tokenizer configuration has 2 MB
_LFS = b"version https://git-lfs.github.com/spec/"


def check_file(path: Path) -> None:
    """Raises `WeightsError` unless `path` is a regular file, links followed, that holds its content.

    A device such as /dev/zero has no end, and opening a named pipe waits for a writer.
    """
    with reading(path, "a readable file"):
        mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise damaged(path, "a regular file", kind, "Give the file that holds the weights.")
    with reading(path, "a readable file"), open(path, "rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise damaged(
                path,
                "the file itself",
                "a Git LFS pointer to it",
                "Run `git lfs pull` where it was cloned.",
            )


class Span:
    """The bytes of one file, or of several parts one after the other."""

    def __init__(self, *parts: Path):
        self.parts = parts
        for part in parts:
            check_file(part)
        with reading(parts[0], "a readable file"):
            self.sizes = [part.stat().st_size for part in parts]

    def __len__(self) -> int:
        return sum(self.sizes)

    def __str__(self) -> str:
        return " + ".join(str(part) for part in self.parts)

    def read(self, offset: int, count: int) -> np.ndarray:
        """`count` bytes from `offset` on, as uint8. Raises `WeightsError` past the end."""
        if offset < 0 or count < 0 or offset + count > len(self):
            raise damaged(self, f"{count} more bytes at {offset}", f"the end at {len(self)}")
        out = np.empty(count, np.uint8)
        filled = 0
        for part, size in zip(self.parts, self.sizes):
            take = min(size - offset, count - filled)
            if take > 0:
                _fill(part, offset, out[filled : filled + take])
                filled += take
            offset = max(offset - size, 0)
        return out


def _fill(part: Path, offset: int, out: np.ndarray) -> None:
    with reading(part, "a readable file"), open(part, "rb", buffering=0) as file:
        file.seek(offset)
        view, done = memoryview(out.data), 0
        while done < len(view):
            n = file.readinto(view[done:])
            if not n:
                raise damaged(part, f"{len(view)} bytes at {offset}", done)
            done += n


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises `WeightsError`."""
    check_file(path)
    with reading(path, "a JSON object"):
        if path.stat().st_size > _MAX_JSON:
            raise damaged(path, f"at most {_MAX_JSON} bytes of JSON", path.stat().st_size)
        found = json.loads(path.read_bytes())
    if not isinstance(found, dict):
        raise damaged(path, "a JSON object", type(found).__name__)
    return found


def token_ids(found: dict[str, Any], key: str, path: Path, n_vocab: int) -> tuple[int, ...] | None:
    """`found[key]` as token ids; None when the file does not say.

    Negative ids mean "nothing" in Hugging Face files, and transformers writes its defaults (220, 50256) for any vocabulary:
    ids that the vocabulary does not have are left out.
    """
    value = found.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(v) is int for v in value):
        raise damaged(path, f"a list of token ids under {key!r}", shown(value))
    return tuple(v for v in value if 0 <= v < n_vocab)


def pair_list(found: dict[str, Any], key: str, path: Path) -> tuple[tuple[int, int], ...] | None:
    """`found[key]` as (layer, head) pairs; None when the file does not say."""
    value = found.get(key)
    if value is None:
        return None
    good = isinstance(value, list) and all(
        isinstance(p, list) and len(p) == 2 and all(type(v) is int and v >= 0 for v in p)
        for p in value
    )
    if not good:
        raise damaged(path, f"a list of [layer, head] under {key!r}", shown(value))
    return tuple((layer, head) for layer, head in value)


def cache_dir() -> Path | None:
    """Where things are kept that can be made again: `JAXASR_CACHE`, or `jaxasr` in the user's cache directory.

    None when it is switched off, when there is no home, and, with a warning, when others can write there: compiled programs in it are
    run, and remembered hashes believed.
    """
    named = os.environ.get("JAXASR_CACHE", "")
    if named.lower() in OFF:
        return None
    try:
        folder = Path(
            named or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxasr"
        )
    except RuntimeError:  # a user without a home, as in many containers
        return None
    return folder if all(map(is_own, (folder, folder / "xla"))) else None


def is_own(folder: Path) -> bool:
    """Whether nobody but this user can write into `folder`, or it is not there yet; warns when somebody can."""
    try:
        stat = folder.stat()
    except OSError:
        return True
    if not hasattr(os, "geteuid") or (stat.st_uid == os.geteuid() and not stat.st_mode & 0o002):
        return True
    who = "anybody can write into it" if stat.st_uid == os.geteuid() else "another user owns it"
    warnings.warn(
        f"{folder}: not used as a cache, because {who}. Name another folder in JAXASR_CACHE.",
        stacklevel=3,
    )
    return False


def sha256(path: Path, remember: bool = True) -> str:
    """Hex digest of a file. Remembered on disk under its path, size and time of change, as hashing is as slow as loading."""
    check_file(path)
    with reading(path, "a readable file"):
        at = path.stat()
        key = hashlib.sha256(
            f"{path.resolve()}|{at.st_size}|{at.st_mtime_ns}|{at.st_ino}".encode()
        ).hexdigest()
        kept = cache_dir()
        note = kept / "sha256" / key if kept and remember else None
        if note and (known := _recall(note)):
            return known
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    if note:
        _remember(note, digest)
    return digest


def _recall(note: Path) -> str | None:
    try:
        text = note.read_text("ascii")
    except (OSError, ValueError):
        return None
    return text if len(text) == 64 else None


def _remember(note: Path, digest: str) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        partial = note.with_suffix(f".{os.getpid()}")
        partial.write_text(digest, "ascii")
        partial.replace(note)
    except OSError:
        return  # a read-only home only costs time


def check_sha256(path: Path, expected: str, remedy: str) -> None:
    """Raises `WeightsError` when the file is not the one that was pinned."""
    found = sha256(path)
    if found != expected:
        raise WeightsError(f"{path}: expected sha256 {expected}, found {found}. {remedy}")
