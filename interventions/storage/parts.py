"""Saves parts of a long computation, each with its key and a checksum.

A file is a line `jaxasr part 1`, the SHA-256 of everything after it, the key as JSON, and an .npz of
arrays. A damaged or misplaced part is never used.
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
from interventions.storage.inert import arrays_of

SUFFIX = ".part"
_MAGIC = b"jaxasr part 1\n"
_LOG = logging.getLogger(__name__)


def save(path: Path, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Saves arrays of numbers or texts at `path`, complete or not at all.

    Args:
        path: the file; its folder is created if needed.
        key: describes everything that the arrays depend on.
        arrays: the arrays by name.
    """
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    body = json.dumps(key).encode() + b"\n" + file.getvalue()
    with replacing(path) as temporary, temporary.open("wb") as out:
        out.write(_MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        # Without a flush to disk, a power cut after the rename could leave an empty file.
        out.flush()
        os.fsync(out.fileno())


def load(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """Loads the arrays that were saved at `path` under `key`.

    Args:
        path: the file.
        key: the key that the part must have.

    Returns:
        The arrays by name, or None without a file. Also None for a file that is damaged or has
        another key, which is logged.
    """
    try:
        return _decode(path.read_bytes(), key)
    except FileNotFoundError:
        return None
    except ValueError as problem:
        log_unused(path, problem)
        return None


def log_unused(path: Path, problem: object) -> None:
    """Logs in one line that the file at `path` is not used."""
    _LOG.warning("%s: %s. It is not used, but computed again.", path, str(problem).rstrip("."))


def _decode(data: bytes, key: str) -> dict[str, np.ndarray]:
    head, body = data[: len(_MAGIC) + 65], data[len(_MAGIC) + 65 :]
    if head != _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n":
        raise ValueError("damaged: the checksum does not match the contents")
    saved_key, _, arrays = body.partition(b"\n")
    if saved_key != json.dumps(key).encode():
        raise ValueError("misplaced: the file holds another part")
    return arrays_of(io.BytesIO(arrays), "part")
