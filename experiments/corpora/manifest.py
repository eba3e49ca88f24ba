"""A manifest: JSONL or CSV, one recording (or part of one) a row."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.corpora.utterance import Span, Utterance

LOOKS_FOR = "manifest: a .jsonl or .csv file, or a folder with manifest.jsonl or manifest.csv; its column `path` names recordings"
_OWN = {"path", "speaker", "transcript", "start", "end", "id"}
_TIERS = ("phones", "words")


def find(where: Path) -> Path | None:
    """The manifest that `where` is or holds."""
    if where.is_file():
        return where if where.suffix in (".jsonl", ".csv") else None
    return next((where / name for name in ("manifest.jsonl", "manifest.csv") if (where / name).is_file()), None)


def read(manifest: Path) -> list[Utterance]:
    """The rows of `manifest`. Columns: `path`, and optionally `speaker`, `transcript`, `start`, `end` (seconds), `id`,
    `phones` and `words` (lists of [start, end, label], seconds from the start of the row's sound); all others are labels.

    Paths are relative to the manifest's folder or, when the first is not there, to the folder above it.
    Raises ValueError naming the line that is not a row.
    """
    rows = list(_rows(manifest))
    root = _root(manifest, rows)
    return [_utterance(manifest, root, line, row) for line, row in rows]


def _rows(manifest: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        if manifest.suffix == ".csv":
            yield from enumerate(csv.DictReader(file), start=2)
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _parsed(manifest, number, line)


def _parsed(manifest: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{manifest.name}, line {number}: expected a JSON object, got {line[:60]!r} ({error.msg}).") from error
    if not isinstance(row, dict):
        raise ValueError(f"{manifest.name}, line {number}: expected a JSON object, got {type(row).__name__}.")
    return row


def _root(manifest: Path, rows: list[tuple[int, Mapping[str, Any]]]) -> Path:
    folder = manifest.resolve().parent
    named = [str(row["path"]) for _, row in rows[:1] if row.get("path")]
    beside = not named or (folder / named[0]).exists() or not (folder.parent / named[0]).exists()
    return folder if beside else folder.parent


def _utterance(manifest: Path, root: Path, line: int, row: Mapping[str, Any]) -> Utterance:
    if not row.get("path"):
        raise ValueError(f"{manifest.name}, line {line}: expected a column `path`, got the columns {', '.join(map(str, row))}.")
    start, end = (_seconds(manifest, line, row, name) for name in ("start", "end"))
    part = "" if start is None and end is None else f"#{start or 0:g}-{'' if end is None else f'{end:g}'}"
    return Utterance(
        id=str(row.get("id") or f"{row['path']}{part}"),
        path=root / str(row["path"]),
        speaker=str(row.get("speaker") or ""),
        transcript=str(row.get("transcript") or ""),
        start_s=start,
        end_s=end,
        labels={key: value for key, value in row.items() if key not in _OWN and key not in _TIERS},
        tiers={tier: tuple(Span(float(a), float(b), str(c)) for a, b, c in row[tier]) for tier in _TIERS if row.get(tier)},
    )


def _seconds(manifest: Path, line: int, row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{manifest.name}, line {line}: expected `{name}` in seconds, got {value!r}.") from None
