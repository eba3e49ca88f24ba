"""Saves the arrays of each finished part of a long computation in a file with a checksum.

A file consists of three lines and an .npz of arrays. The first line is `jaxasr part 1`. The second
is the SHA-256 of everything after it. The third is a key as JSON, which identifies the part. A file
that is damaged or has another key is never used.
"""

import hashlib
import io
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from interventions.storage.atomic import replacing
from interventions.storage.untrusted_files import read_npz_stream

SUFFIX = ".part"
_FIRST_LINE = b"jaxasr part 1\n"  # 1 is the version of the format
# Length of the first two lines. A SHA-256 has 64 digits, and a line end follows.
_HEADER_BYTES = len(_FIRST_LINE) + 65
_LOG = logging.getLogger(__name__)


def save(path: Path, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Saves arrays of numbers or texts at `path`. An interrupted call leaves no partial file.

    Args:
        path: the file. Its folder is created if needed.
        key: a text that describes everything the arrays depend on.
        arrays: the arrays by name.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(Path(folder, "a.part"), "seed 0", {"x": np.arange(3)})
        ...     load(Path(folder, "a.part"), "seed 0")
        {'x': array([0, 1, 2])}
    """
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    body = json.dumps(key).encode() + b"\n" + file.getvalue()
    with replacing(path) as temporary, temporary.open("wb") as out:
        out.write(_FIRST_LINE + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        # Without a flush to disk, a power cut after the rename could leave an empty file.
        out.flush()
        os.fsync(out.fileno())


def load(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """Loads the arrays at `path` if they were saved under `key`.

    Args:
        path: the file.
        key: the expected key.

    Returns:
        The arrays by name. None if the file does not exist, is damaged or has another key. In the
        last two cases a warning is logged.
    """
    try:
        return _decode(path.read_bytes(), key)
    except FileNotFoundError:
        return None
    except ValueError as problem:
        log_unused(path, problem)
        return None


def log_unused(path: Path, problem: object) -> None:
    """Logs a warning that the file at `path` is not used because of `problem`."""
    _LOG.warning("%s: %s. It is not used, but computed again.", path, str(problem).rstrip("."))


def _decode(data: bytes, key: str) -> dict[str, np.ndarray]:
    header, body = data[:_HEADER_BYTES], data[_HEADER_BYTES:]
    if header != _FIRST_LINE + hashlib.sha256(body).hexdigest().encode() + b"\n":
        raise ValueError("damaged: the checksum does not match the contents")
    saved_key, _, arrays = body.partition(b"\n")
    if saved_key != json.dumps(key).encode():
        raise ValueError("misplaced: the file holds another part")
    return read_npz_stream(io.BytesIO(arrays), "part")
