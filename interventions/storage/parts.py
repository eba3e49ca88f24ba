"""Parts of a long computation on disk, each with its key and a checksum: a damaged or misplaced one is never used.

A file is a line `jaxasr part 1`, the SHA-256 of all that follows it, the key as JSON, and an .npz of arrays.
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
    """Writes `arrays`, numbers or texts by name, to `path`, complete or not at all."""
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    body = json.dumps(key).encode() + b"\n" + file.getvalue()
    with replacing(path) as temporary, temporary.open("wb") as out:
        out.write(_MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        out.flush()
        os.fsync(out.fileno())


def load(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """The arrays that were saved at `path` under `key`.

    Returns None when there is no file, and when it is damaged or holds another part, which is logged in one line.
    """
    try:
        return _read(path.read_bytes(), key)
    except FileNotFoundError:
        return None
    except ValueError as problem:
        ignored(path, problem)
        return None


def ignored(path: Path, problem: object) -> None:
    """Logs in one line that what is kept at `path` is not used."""
    _LOG.warning("%s: %s. It is not used, but computed again.", path, str(problem).rstrip("."))


def _read(data: bytes, key: str) -> dict[str, np.ndarray]:
    head, body = data[: len(_MAGIC) + 65], data[len(_MAGIC) + 65 :]
    if head != _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n":
        raise ValueError("damaged: its checksum is not that of its contents")
    named, _, arrays = body.partition(b"\n")
    if named != json.dumps(key).encode():
        raise ValueError("misplaced: it is the part of something else")
    return arrays_of(io.BytesIO(arrays), "part")
