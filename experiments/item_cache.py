"""Expensive items on disk, one file each: whatever interrupts a study, what was computed is there the next time.

A file that is damaged, or that was made for another key, is computed again; one line in the log says so.
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
from interventions.storage.atomic import clear_up
from interventions.storage.text_files import to_json

Arrays = dict[str, np.ndarray]
_SECONDS, _CPU = "seconds_taken", "cpu_seconds_taken"


class Keep:
    """`keep(key, make)`: the arrays of `make()`, from disk if they were made before. Texts are kept as arrays of strings."""

    def __init__(self, folder: Path, steps: Progress | None = None):
        self.folder, self.steps = folder, steps or Progress(quiet=True)
        clear_up(folder)
        self.seconds = 0.0  # that the items used so far took when they were made
        self.earlier_cpu_s = 0.0  # of a core, for those of them that an earlier run made

    def __call__(self, key: str, make: Callable[[], Mapping[str, Any]]) -> Arrays:
        """Raises TypeError for values that are neither numbers nor texts."""
        path = self.folder / f"{_slug(key)}{parts.SUFFIX}"
        arrays = parts.load(path, self._name(key))
        made_before = arrays is not None
        if arrays is None:
            start, cpu = time.perf_counter(), time.process_time()
            made = {name: _plain(name, value) for name, value in make().items()}
            taken = {
                _SECONDS: np.float64(time.perf_counter() - start),
                _CPU: np.float64(time.process_time() - cpu),
            }
            arrays = {**made, **taken}
            parts.save(path, self._name(key), arrays)
        self.seconds += float(arrays.pop(_SECONDS))
        self.earlier_cpu_s += made_before * float(arrays.pop(_CPU))
        return arrays

    def _name(self, key: str) -> str:
        """The key within the folder, whose name stands for everything else that the item depends on."""
        return f"{self.folder.name} {key}"

    def each(
        self,
        name: str,
        items: Iterable[Any],
        make: Callable[[Any], Mapping[str, Any]],
        key: Callable[[Any], str] | None = None,
    ) -> list[Arrays]:
        """The arrays of `make(item)` for every item, with progress under `name`. `key` tells items apart; recordings do so by their id."""
        items, found = list(items), []
        with self.steps.bar(name) as progress:
            for done, item in enumerate(items):
                progress(done, len(items))
                found.append(self(f"{name} {(key or _name)(item)}", lambda item=item: make(item)))
            progress(len(items), len(items))
        return found


def fingerprint(*values: Any) -> str:
    """A short digest of plain values: the same for the same values, in any process."""
    return hashlib.sha256(to_json(values).encode()).hexdigest()[:16]


def _name(item: Any) -> str:
    return str(getattr(item, "id", item))


def _slug(key: str) -> str:
    """A file name that people can read and that no two keys share."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', key)[:80]}-{fingerprint(key)[:8]}"


def _plain(name: str, value: Any) -> np.ndarray:
    array = np.array(value)
    if array.dtype.kind not in "biufcU":
        raise TypeError(
            f"{name}: expected numbers or texts, got {array.dtype}; a file of them must be readable without running code."
        )
    return array
