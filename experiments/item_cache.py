"""Caches expensive items of a study on disk, one file per item.

An interrupted study continues with the items that were computed before. A file that is damaged or
was saved under another key is computed again, which is logged.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.progress import Progress
from interventions.storage import parts
from interventions.storage.atomic import clean_up
from interventions.storage.inert import KINDS
from interventions.storage.text_files import to_json

Arrays = dict[str, np.ndarray]
_SECONDS, _CPU_SECONDS = "seconds_taken", "cpu_seconds_taken"


class Keep:
    """Computes items once and loads them from disk afterwards.

    Attributes:
        folder: where the files are; its name stands for everything that all items depend on.
        steps: shows progress.
        seconds: the wall time that the items used so far took when they were computed.
        earlier_cpu_s: the CPU time of those among them that an earlier run computed.

    Example:
        ```python
        keep = Keep(Path("cache/whisper-tiny"))
        arrays = keep("loudness speech-1", lambda: {"loudness": np.abs(audio).max()})
        ```
    """

    def __init__(self, folder: Path, steps: Progress | None = None):
        self.folder, self.steps = folder, steps or Progress(quiet=True)
        clean_up(folder)
        self.seconds = 0.0
        self.earlier_cpu_s = 0.0

    def __call__(self, key: str, compute: Callable[[], Mapping[str, Any]]) -> Arrays:
        """Returns the arrays of `compute()`, from disk if they were computed before.

        Args:
            key: describes the item within this folder.
            compute: returns numbers and texts by name; texts become arrays of strings.

        Returns:
            The arrays by name.

        Raises:
            TypeError: a value is neither numbers nor texts.
        """
        path = self.folder / f"{_file_name(key)}{parts.SUFFIX}"
        full_key = f"{self.folder.name} {key}"
        arrays = parts.load(path, full_key)
        loaded = arrays is not None
        if arrays is None:
            arrays = _timed(compute)
            parts.save(path, full_key, arrays)
        self.seconds += float(arrays.pop(_SECONDS))
        self.earlier_cpu_s += loaded * float(arrays.pop(_CPU_SECONDS))
        return arrays

    def each(
        self,
        name: str,
        items: Iterable[Any],
        compute: Callable[[Any], Mapping[str, Any]],
        key: Callable[[Any], str] | None = None,
    ) -> list[Arrays]:
        """Returns the arrays of `compute(item)` for every item, and shows progress.

        Args:
            name: the label of the progress bar, and the start of every key.
            items: recordings or other items.
            compute: returns numbers and texts by name.
            key: distinguishes items; by default their attribute `id`, or else their text.

        Returns:
            The arrays by name, per item.
        """
        items = list(items)
        results = []
        with self.steps.bar(name) as progress:
            for done, item in enumerate(items):
                progress(done, len(items))
                item_key = f"{name} {(key or _id)(item)}"
                results.append(self(item_key, lambda item=item: compute(item)))
            progress(len(items), len(items))
        return results


def fingerprint(*values: Any) -> str:
    """Returns a short digest of plain values, the same in every process."""
    return hashlib.sha256(to_json(values).encode()).hexdigest()[:16]


def _timed(compute: Callable[[], Mapping[str, Any]]) -> Arrays:
    """The computed arrays, and how long they took."""
    start, cpu_start = time.perf_counter(), time.process_time()
    arrays = {name: _array(name, value) for name, value in compute().items()}
    arrays[_SECONDS] = np.array(time.perf_counter() - start)
    arrays[_CPU_SECONDS] = np.array(time.process_time() - cpu_start)
    return arrays


def _id(item: Any) -> str:
    return str(getattr(item, "id", item))


def _file_name(key: str) -> str:
    """A readable file name; the digest at its end keeps two keys from sharing one."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', key)[:80]}-{fingerprint(key)[:8]}"


def _array(name: str, value: Any) -> np.ndarray:
    array = np.array(value)
    if array.dtype.kind not in KINDS:
        raise TypeError(
            f"{name}: expected numbers or texts, got {array.dtype}; "
            "other arrays could not be read back without running code."
        )
    return array
