"""Caches on disk the items that a study computes, such as the activations of one recording.

Each item is one file. A study that continues after an interruption loads the items that it has
computed before. If a file is damaged or has another key, the item is computed again, and a warning
is logged.
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
from interventions.storage.atomic import clean_up_staging
from interventions.storage.text_files import to_json
from interventions.storage.untrusted_files import DTYPE_KINDS

Arrays = dict[str, np.ndarray]  # the arrays of one item by name
# Names of two arrays in a file: the wall time and the CPU time that its item took, in seconds.
_SECONDS, _CPU_SECONDS = "seconds_taken", "cpu_seconds_taken"


class ItemCache:
    """Computes each item once, and loads it from disk afterwards.

    Attributes:
        folder: folder of the files. The name of the folder is part of every key. It must identify
            what all items depend on, such as the model.
        steps: shows progress.
        seconds: seconds of wall time that all items took, computed ones and loaded ones.
        earlier_cpu_s: seconds of CPU time that the loaded items took in earlier runs.

    Example:
        ```python
        cache = ItemCache(Path("cache/whisper-tiny"))
        arrays = cache("loudness speech-1", lambda: {"loudness": np.abs(audio).max()})
        ```
    """

    def __init__(self, folder: Path, steps: Progress | None = None):
        self.folder, self.steps = folder, steps or Progress(quiet=True)
        clean_up_staging(folder)
        self.seconds = 0.0
        self.earlier_cpu_s = 0.0

    def __call__(self, key: str, compute: Callable[[], Mapping[str, Any]]) -> Arrays:
        """Loads the arrays of an item, or computes and saves them.

        Args:
            key: identifies the item within the folder.
            compute: returns numbers and texts by name. Texts become arrays of strings.

        Returns:
            The arrays by name.

        Raises:
            TypeError: a value has neither numbers nor texts.

        Example:
            ```python
            arrays = cache("loudness speech-1", lambda: {"loudness": np.abs(audio).max()})
            ```
        """
        path = self.folder / f"{_file_name(key)}{parts.SUFFIX}"
        full_key = f"{self.folder.name} {key}"
        arrays = parts.load(path, full_key)
        loaded = arrays is not None
        if arrays is None:
            arrays = _compute_timed(compute)
            parts.save(path, full_key, arrays)
        self.seconds += float(arrays.pop(_SECONDS))
        cpu_seconds = float(arrays.pop(_CPU_SECONDS))
        self.earlier_cpu_s += cpu_seconds if loaded else 0.0
        return arrays

    def each(
        self,
        name: str,
        items: Iterable[Any],
        compute: Callable[[Any], Mapping[str, Any]],
        key: Callable[[Any], str] | None = None,
    ) -> list[Arrays]:
        """Loads or computes the arrays of every item, and shows progress.

        Args:
            name: label of the progress bar, and start of every key.
            items: recordings or other objects.
            compute: returns the numbers and texts of one item by name.
            key: returns the end of an item's key. Default: the attribute `id`, or else `str(item)`.

        Returns:
            The arrays of each item by name.

        Example:
            ```python
            items = cache.each("loudness", clips, lambda clip: {"peak": clip.samples().max()})
            ```
        """
        items = list(items)
        results = []
        with self.steps.bar(name) as progress:
            for done, item in enumerate(items):
                progress(done, len(items))
                item_key = f"{name} {(key or _default_key)(item)}"
                # The default argument binds the current item, because a closure would see the last.
                results.append(self(item_key, lambda item=item: compute(item)))
            progress(len(items), len(items))
        return results


def short_hash(*values: Any) -> str:
    """Returns 16 hexadecimal digits of a hash of numbers, texts, and containers of both.

    The hash is the same in every process.

    Example:
        >>> short_hash("seed", 0) == short_hash("seed", 0)
        True
    """
    return hashlib.sha256(to_json(values).encode()).hexdigest()[:16]


def _compute_timed(compute: Callable[[], Mapping[str, Any]]) -> Arrays:
    """Computes arrays, and adds the wall time and the CPU time that this took."""
    start, cpu_start = time.perf_counter(), time.process_time()
    arrays = {name: _to_array(name, value) for name, value in compute().items()}
    arrays[_SECONDS] = np.array(time.perf_counter() - start)
    arrays[_CPU_SECONDS] = np.array(time.process_time() - cpu_start)
    return arrays


def _default_key(item: Any) -> str:
    return str(getattr(item, "id", item))


def _file_name(key: str) -> str:
    """Makes a readable file name. A hash at its end differs between keys."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', key)[:80]}-{short_hash(key)[:8]}"


def _to_array(name: str, value: Any) -> np.ndarray:
    array = np.array(value)
    if array.dtype.kind not in DTYPE_KINDS:
        raise TypeError(
            f"{name}: expected numbers or texts, got {array.dtype}. "
            "Loading other arrays would run code from the file."
        )
    return array
