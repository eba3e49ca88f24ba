"""Reads bytes, JSON and hashes of weight files, after checking the files.

Bytes are copied into memory, and files are not mapped. Mapped pages count as resident memory as
long as the map exists, and the process is killed if a mapped file shrinks.
"""

import hashlib
import json
import os
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jaxasr.weights.errors import WeightsError, convert_errors, file_error, short_repr

CACHE_OFF_SETTINGS = ("off", "none", "0")  # values of JAXASR_CACHE that switch off the cache
_MAX_JSON_BYTES = 1 << 24  # the largest released JSON file has 2 MB
# First bytes of a Git LFS pointer, a small text file in place of a large file.
_LFS_POINTER_START = b"version https://git-lfs.github.com/spec/"


def check_file(path: Path) -> None:
    """Checks that `path` is a regular file, or a link to one, and not a Git LFS pointer.

    Raises:
        WeightsError: `path` is something else.

    Example:
        >>> check_file(Path(__file__))
    """
    # A device such as /dev/zero has no end, and opening a named pipe waits for a writer.
    with convert_errors(path, "a readable file"):
        mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise file_error(path, "a regular file", kind, "Give the file that holds the weights.")
    with convert_errors(path, "a readable file"), open(path, "rb") as file:
        if file.read(len(_LFS_POINTER_START)) == _LFS_POINTER_START:
            raise file_error(
                path,
                "the file itself",
                "a Git LFS pointer to it",
                "Run `git lfs pull` where it was cloned.",
            )


class FileBytes:
    """The bytes of one file, or of several concatenated files.

    Example:
        >>> FileBytes(Path(__file__)).read(offset=3, count=5).tobytes()
        b'Reads'
    """

    def __init__(self, *parts: Path):
        self.parts = parts
        for part in parts:
            check_file(part)
        with convert_errors(parts[0], "a readable file"):
            self.sizes = [part.stat().st_size for part in parts]

    def __len__(self) -> int:
        return sum(self.sizes)

    def __str__(self) -> str:
        return " + ".join(str(part) for part in self.parts)

    def read(self, offset: int, count: int) -> np.ndarray:
        """Reads `count` bytes from byte `offset` on, as uint8.

        Raises:
            WeightsError: the range exceeds the file.
        """
        if offset < 0 or count < 0 or offset + count > len(self):
            raise file_error(self, f"{count} more bytes at {offset}", f"the end at {len(self)}")
        out = np.empty(count, np.uint8)
        filled = 0
        # In the loop, `offset` counts from the start of `part`. If the range starts after `part`,
        # `n_bytes` is not positive.
        for part, size in zip(self.parts, self.sizes):
            n_bytes = min(size - offset, count - filled)
            if n_bytes > 0:
                _read_into(part, offset, out[filled : filled + n_bytes])
                filled += n_bytes
            offset = max(offset - size, 0)
        return out


def _read_into(part: Path, offset: int, out: np.ndarray) -> None:
    with convert_errors(part, "a readable file"), open(part, "rb", buffering=0) as file:
        file.seek(offset)
        view, n_read = memoryview(out.data), 0
        while n_read < len(view):
            n = file.readinto(view[n_read:])
            if not n:
                raise file_error(part, f"{len(view)} bytes at {offset}", n_read)
            n_read += n


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        WeightsError: the file holds something else, or more than 16 MB.

    Example:
        ```python
        from pathlib import Path

        from jaxasr.weights.files import read_json

        Path("settings.json").write_text('{"layers": 4}')
        read_json(Path("settings.json"))  # {"layers": 4}
        ```
    """
    check_file(path)
    with convert_errors(path, "a JSON object"):
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise file_error(path, f"at most {_MAX_JSON_BYTES} bytes of JSON", path.stat().st_size)
        value = json.loads(path.read_bytes())
    if not isinstance(value, dict):
        raise file_error(path, "a JSON object", type(value).__name__)
    return value


def token_ids(
    settings: dict[str, Any], key: str, path: Path, n_vocab: int
) -> tuple[int, ...] | None:
    """Returns `settings[key]` as token ids, or None if the key is absent.

    Leaves out ids outside of the vocabulary. Hugging Face files may have a negative id for an empty
    list, and transformers writes its default ids (220, 50256) for any vocabulary.

    Example:
        >>> token_ids({"ids": [-1, 220, 50_256]}, "ids", Path("config.json"), n_vocab=1_000)
        (220,)
    """
    value = settings.get(key)
    if value is None:
        return None
    # `isinstance` would accept True and False as ids.
    if not isinstance(value, list) or not all(type(v) is int for v in value):
        raise file_error(path, f"a list of token ids under {key!r}", short_repr(value))
    return tuple(v for v in value if 0 <= v < n_vocab)


def layer_head_pairs(
    settings: dict[str, Any], key: str, path: Path
) -> tuple[tuple[int, int], ...] | None:
    """Returns `settings[key]` as (layer, head) pairs, or None if the key is absent.

    Example:
        >>> layer_head_pairs({"heads": [[3, 1]]}, "heads", Path("config.json"))
        ((3, 1),)
    """
    value = settings.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(map(_is_pair, value)):
        raise file_error(path, f"a list of [layer, head] under {key!r}", short_repr(value))
    return tuple((layer, head) for layer, head in value)


def _is_pair(value: Any) -> bool:
    has_indices = isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)
    return has_indices and len(value) == 2


def cache_dir() -> Path | None:
    """Returns the cache folder: `JAXASR_CACHE`, or `jaxasr` in the user's cache directory.

    Returns:
        The folder. None if the cache is switched off or the user has no home. Also None, with a
        warning, if other users can write into the folder, because the programs and hashes in it
        are used without another check.

    Example:
        ```python
        from jaxasr.weights.files import cache_dir

        cache_dir()  # such as /home/user/.cache/jaxasr
        ```
    """
    setting = os.environ.get("JAXASR_CACHE", "")
    if setting.lower() in CACHE_OFF_SETTINGS:
        return None
    if setting:
        folder = Path(setting)
    else:
        try:
            root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        except RuntimeError:  # a user without a home, as in many containers
            return None
        folder = root / "jaxasr"
    # The folder `xla` holds compiled programs.
    return folder if all(map(is_private, (folder, folder / "xla"))) else None


def is_private(folder: Path) -> bool:
    """Returns whether only this user can write into `folder`. Warns if others can.

    A folder that does not exist is private.

    Example:
        >>> is_private(Path("no-such-folder"))
        True
    """
    try:
        status = folder.stat()
    except OSError:
        return True
    if not hasattr(os, "geteuid"):  # Windows
        return True
    owned = status.st_uid == os.geteuid()
    if owned and not status.st_mode & stat.S_IWOTH:
        return True
    reason = "anybody can write into it" if owned else "another user owns it"
    warnings.warn(
        f"{folder}: not used as a cache, because {reason}. Name another folder in JAXASR_CACHE.",
        stacklevel=3,
    )
    return False


def sha256(path: Path) -> str:
    """Returns the hex digest of a file.

    The digest is cached, because hashing is as slow as loading. A file with another path, size,
    inode or time of change is hashed again.

    Example:
        >>> len(sha256(Path(__file__)))
        64
    """
    check_file(path)
    with convert_errors(path, "a readable file"):
        status = path.stat()
        identity = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ino}"
        key = hashlib.sha256(identity.encode()).hexdigest()
        cache = cache_dir()
        digest_file = cache / "sha256" / key if cache else None
        if digest_file and (digest := _read_digest(digest_file)):
            return digest
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest_file:
        _save_digest(digest_file, digest)
    return digest


def _read_digest(digest_file: Path) -> str | None:
    try:
        text = digest_file.read_text("ascii")
    except (OSError, ValueError):
        return None
    return text if len(text) == 64 else None


def _save_digest(digest_file: Path, digest: str) -> None:
    try:
        digest_file.parent.mkdir(parents=True, exist_ok=True)
        # Renaming a complete file prevents another process from reading half a digest.
        partial = digest_file.with_suffix(f".{os.getpid()}")
        partial.write_text(digest, "ascii")
        partial.replace(digest_file)
    except OSError:
        return  # in a read-only home every file is hashed again


def check_sha256(path: Path, expected: str, remedy: str) -> None:
    """Raises `WeightsError` if the file does not have the expected digest.

    Args:
        path: the file.
        expected: hex digest of SHA-256.
        remedy: a sentence that ends the message.

    Example:
        >>> check_sha256(Path(__file__), sha256(Path(__file__)), "Reinstall it.")
    """
    digest = sha256(path)
    if digest != expected:
        raise WeightsError(f"{path}: expected sha256 {expected}, found {digest}. {remedy}")
