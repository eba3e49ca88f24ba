"""The folder of real recordings, where there is one; everything works without it.

`$JAXASR_DATA` names the folder with `manifest.jsonl`; the default is `../shared/data/dev` beside the repository.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from experiments.data.corpora.manifest import json_lines
from interventions.storage.inert import named

_REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = (
    Path(__file__).parents[1] / "assets" / "demo.flac"
)  # the project's own recording, always there


@dataclasses.dataclass(frozen=True)
class Recording:
    """One clip. `transcript` is "" where the words are not known; `labels` is the whole row of the manifest."""

    path: Path
    set: str
    transcript: str
    language: str
    duration_s: float
    labels: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)


def folder() -> Path | None:
    """The data folder, or None. Raises `FileNotFoundError` when `$JAXASR_DATA` is set and has no manifest."""
    named = os.environ.get("JAXASR_DATA")
    path = Path(named) if named else _REPOSITORY.parent / "shared" / "data" / "dev"
    if (path / "manifest.jsonl").is_file():
        return path
    if named:
        raise FileNotFoundError(
            f"JAXASR_DATA: expected a folder with manifest.jsonl, got {named!r}."
        )
    return None


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of `<name>.jsonl` in the data folder; none when there is no folder."""
    where = folder()
    if where is None:
        return []
    return [row for _, row in json_lines(where / f"{name}.jsonl")]


def recordings(
    sets: Iterable[str] | None = None, language: str | None = None, labelled: bool = False
) -> list[Recording]:
    """Clips in the manifest's order: of these `sets`, in this `language`, with a transcript when `labelled`."""
    wanted = None if sets is None else set(sets)
    return [
        recording
        for recording in _all(folder())
        if (wanted is None or recording.set in wanted)
        and (language is None or recording.language == language)
        and (recording.transcript or not labelled)
    ]


@functools.cache
def _all(where: Path | None) -> tuple[Recording, ...]:
    if where is None:
        return ()
    with named(where / "manifest.jsonl"):
        return tuple(_recording(where, row) for row in rows("manifest"))


def _recording(where: Path, row: dict[str, Any]) -> Recording:
    return Recording(
        where.parent / row["path"],
        row["set"],
        row["transcript"],
        row["lang"],
        row["duration_s"],
        row,
    )


def spread(
    clips: list[Any], n: int, set_of: Callable[[Any], Any] = lambda clip: clip.set
) -> list[Any]:
    """`n` of `clips`, evenly over the sets and over each set; all of them when there are fewer."""
    by_set: dict[Any, list[Any]] = {}
    for clip in clips:
        by_set.setdefault(set_of(clip), []).append(clip)
    chosen: list[Any] = []
    queues = [_evenly(group) for group in by_set.values()]
    while len(chosen) < min(n, len(clips)):
        for queue in [queue for queue in queues if queue]:
            chosen.append(queue.pop(0))
    return chosen[:n]


def _evenly(group: list) -> list:
    """In an order whose every beginning is spread over the group: bit-reversed."""
    width = max(len(group) - 1, 1).bit_length()
    return [
        group[i] for i in sorted(range(len(group)), key=lambda i: int(f"{i:0{width}b}"[::-1], 2))
    ]
