"""Finds and reads the data folders, which are optional folders of real recordings.

`$JAXASR_DATA` names the folders, separated as in `$PATH`. If the variable is not set, a checkout
of jaxasr uses the folders `../shared/data/dev` and `../shared/data/dev2`, if they exist. A data
folder has a file `manifest.jsonl`. Paths in that file are relative to the data folder or to its
parent.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from experiments.data.corpora.manifest import folder_of_paths, json_lines
from interventions.storage.untrusted_files import name_origin_in_errors

_REPOSITORY = Path(__file__).resolve().parents[2]
_DEFAULT_FOLDERS = (Path("shared", "data", "dev"), Path("shared", "data", "dev2"))
DEMO = Path(__file__).parents[1] / "assets" / "demo.flac"  # the recording of `jaxasr demo`

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Recording:
    """One recording of a data folder.

    Attributes:
        path: the audio file.
        set: name of the recording's data set.
        transcript: "" if the words are not known.
        language: code of the spoken language.
        duration_s: length in seconds.
        labels: the whole row of the manifest.
    """

    path: Path
    set: str
    transcript: str
    language: str
    duration_s: float
    labels: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)


def folders() -> tuple[Path, ...]:
    """Finds the data folders.

    Returns:
        The data folders; empty if there are none.

    Raises:
        FileNotFoundError: a folder in `$JAXASR_DATA` has no manifest.
    """
    variable = os.environ.get("JAXASR_DATA")
    if not variable:
        defaults = (_REPOSITORY.parent / path for path in _DEFAULT_FOLDERS)
        return tuple(path for path in defaults if (path / "manifest.jsonl").is_file())
    paths = tuple(Path(name) for name in variable.split(os.pathsep) if name)
    for path in paths:
        if not (path / "manifest.jsonl").is_file():
            raise FileNotFoundError(
                f"JAXASR_DATA: expected folders with manifest.jsonl, separated by {os.pathsep!r}, "
                f"got {str(path)!r}. Correct or unset the variable."
            )
    return paths


def folder() -> Path | None:
    """Returns the first data folder, or None if there is none."""
    return next(iter(folders()), None)


def rows(name: str) -> list[dict[str, Any]]:
    """Reads the rows of `<name>.jsonl` in all data folders that have this file."""
    paths = (path / f"{name}.jsonl" for path in folders())
    return [row for path in paths if path.is_file() for _, row in json_lines(path)]


def recordings(
    sets: Iterable[str] | None = None, language: str | None = None, labelled: bool = False
) -> list[Recording]:
    """Lists recordings of the data folders, in the order of the manifests.

    Args:
        sets: names of data sets. None: all.
        language: code of the spoken language. None: all.
        labelled: whether a transcript is required.

    Returns:
        The recordings. Without data folders, there are none.

    Example:
        >>> clips = recordings(["timit"], language="en", labelled=True)
    """
    allowed_sets = None if sets is None else set(sets)
    return [
        recording
        for recording in itertools.chain(*map(_all_recordings, folders()))
        if (allowed_sets is None or recording.set in allowed_sets)
        and (language is None or recording.language == language)
        and (recording.transcript or not labelled)
    ]


@functools.cache
def _all_recordings(path: Path) -> tuple[Recording, ...]:
    manifest = path / "manifest.jsonl"
    with name_origin_in_errors(manifest):
        numbered_rows = list(json_lines(manifest))
        origin = folder_of_paths(manifest, numbered_rows)
        return tuple(_recording(origin, row) for _, row in numbered_rows)


def _recording(origin: Path, row: dict[str, Any]) -> Recording:
    return Recording(
        path=origin / row["path"],
        set=row["set"],
        transcript=row["transcript"],
        language=row["lang"],
        duration_s=row["duration_s"],
        labels=row,
    )


def select_evenly(
    clips: Sequence[Item], n: int, set_of: Callable[[Any], Hashable] = lambda clip: clip.set
) -> list[Item]:
    """Selects items from all sets in turn, spread evenly over each set.

    Args:
        clips: items to select from.
        n: number of items to select. If there are fewer, all are selected.
        set_of: returns the set of an item.

    Returns:
        The selected items, one of each set in turn.

    Example:
        >>> select_evenly(["a1", "a2", "a3", "b1"], 3, lambda name: name[0])
        ['a1', 'b1', 'a3']
    """
    by_set: dict[Hashable, list[Item]] = {}
    for clip in clips:
        by_set.setdefault(set_of(clip), []).append(clip)
    selected: list[Item] = []
    queues = [_order_by_reversed_bits(group) for group in by_set.values()]
    # Each round takes the next item of every set.
    while len(selected) < min(n, len(clips)):
        selected += [queue.pop(0) for queue in queues if queue]
    return selected[:n]


def _order_by_reversed_bits(group: list[Item]) -> list[Item]:
    """Sorts items by their bit-reversed index, so that the first n cover the group evenly.

    The order of eight items is 0, 4, 2, 6, 1, 5, 3, 7.
    """
    width = max(len(group) - 1, 1).bit_length()
    order = sorted(range(len(group)), key=lambda i: int(f"{i:0{width}b}"[::-1], 2))
    return [group[i] for i in order]
