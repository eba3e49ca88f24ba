"""Finds and reads the data folder, an optional folder of real recordings.

`$JAXASR_DATA` names the folder. If the variable is not set, a checkout of jaxasr uses the folder
`../shared/data/dev`, if it exists. The data folder has a file `manifest.jsonl`. Paths in that file
are relative to the parent of the data folder.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from experiments.data.corpora.manifest import json_lines
from interventions.storage.untrusted_files import name_origin_in_errors

_REPOSITORY = Path(__file__).resolve().parents[2]
_DEFAULT_FOLDER = Path("shared", "data", "dev")
DEMO = Path(__file__).parents[1] / "assets" / "demo.flac"  # the recording of `jaxasr demo`

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Recording:
    """One recording of the data folder.

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


def folder() -> Path | None:
    """Finds the data folder.

    Returns:
        The data folder, or None if it does not exist.

    Raises:
        FileNotFoundError: `$JAXASR_DATA` is set but has no manifest.
    """
    variable = os.environ.get("JAXASR_DATA")
    path = Path(variable) if variable else _REPOSITORY.parent / _DEFAULT_FOLDER
    if (path / "manifest.jsonl").is_file():
        return path
    if variable:
        raise FileNotFoundError(
            f"JAXASR_DATA: expected a folder with manifest.jsonl, got {variable!r}."
        )
    return None


def rows(name: str) -> list[dict[str, Any]]:
    """Reads the rows of `<name>.jsonl` in the data folder, or none if there is no data folder."""
    path = folder()
    return [] if path is None else [row for _, row in json_lines(path / f"{name}.jsonl")]


def recordings(
    sets: Iterable[str] | None = None, language: str | None = None, labelled: bool = False
) -> list[Recording]:
    """Lists recordings of the data folder, in the order of the manifest.

    Args:
        sets: names of data sets. None: all.
        language: code of the spoken language. None: all.
        labelled: whether a transcript is required.

    Returns:
        The recordings. Without a data folder, there are none.

    Example:
        >>> clips = recordings(["timit"], language="en", labelled=True)
    """
    allowed_sets = None if sets is None else set(sets)
    return [
        recording
        for recording in _all_recordings(folder())
        if (allowed_sets is None or recording.set in allowed_sets)
        and (language is None or recording.language == language)
        and (recording.transcript or not labelled)
    ]


@functools.cache
def _all_recordings(path: Path | None) -> tuple[Recording, ...]:
    if path is None:
        return ()
    with name_origin_in_errors(path / "manifest.jsonl"):
        return tuple(_recording(path, row) for row in rows("manifest"))


def _recording(path: Path, row: dict[str, Any]) -> Recording:
    return Recording(
        path=path.parent / row["path"],
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
