"""A manifest: JSONL or CSV, one recording (or part of one) a row."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.data.corpora.utterance import Span, Utterance

LOOKS_FOR = "manifest: a .jsonl or .csv file, or a folder with manifest.jsonl or manifest.csv; its column `path` names recordings"
_OWN = {"path", "speaker", "transcript", "start", "end", "id"}
_TIERS = ("phones", "words")
_LONGEST = 16 << 20  # bytes of a line


def find(where: Path) -> Path | None:
    """The manifest that `where` is or holds."""
    if where.is_file():
        return where if where.suffix in (".jsonl", ".csv") else None
    return next(
        (where / name for name in ("manifest.jsonl", "manifest.csv") if (where / name).is_file()),
        None,
    )


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
    yield from _csv_rows(manifest) if manifest.suffix == ".csv" else json_lines(manifest)


def _csv_rows(manifest: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    text = io.StringIO("".join(line for _, line in text_lines(manifest)), newline="")
    reader = csv.DictReader(text)
    try:
        for row in reader:
            if None in row:
                raise ValueError(
                    f"{manifest.name}, line {reader.line_num}: expected {len(row) - 1} fields as in line 1, got more."
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(
            f"{manifest.name}, line {reader.line_num + 1}: expected a row of a CSV file ({error})."
        ) from None


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number and object of each line of a JSONL file, empty lines left out. Raises ValueError naming file and line."""
    for number, line in text_lines(path):
        if line.strip():
            yield number, _parsed(path, number, line)


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The number and text of each line. Raises ValueError naming one that is too long or is no UTF-8."""
    number = 0
    with path.open("rb") as file:
        while line := file.readline(_LONGEST + 1):
            number += 1
            if len(line) > _LONGEST:
                raise ValueError(
                    f"{path.name}, line {number}: expected a line of at most {_LONGEST} bytes."
                )
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path.name}, line {number}: expected UTF-8 ({error.reason} at byte {error.start})."
                ) from None


def _parsed(manifest: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = getattr(error, "msg", type(error).__name__)
        raise ValueError(
            f"{manifest.name}, line {number}: expected a JSON object, got {line[:60]!r} ({why})."
        ) from None
    if not isinstance(row, dict):
        raise ValueError(
            f"{manifest.name}, line {number}: expected a JSON object, got {type(row).__name__}."
        )
    return row


def _root(manifest: Path, rows: list[tuple[int, Mapping[str, Any]]]) -> Path:
    folder = manifest.resolve().parent
    named = [str(row["path"]) for _, row in rows[:1] if row.get("path")]
    beside = not named or _exists(folder / named[0]) or not _exists(folder.parent / named[0])
    return folder if beside else folder.parent


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file can have
        return False


def _utterance(manifest: Path, root: Path, line: int, row: Mapping[str, Any]) -> Utterance:
    if not row.get("path"):
        raise ValueError(
            f"{manifest.name}, line {line}: expected a column `path`, got the columns {', '.join(map(str, row))}."
        )
    if not isinstance(row["path"], str):
        raise ValueError(
            f"{manifest.name}, line {line}: expected text as `path`, got {str(row['path'])[:60]!r}."
        )
    start, end = (_seconds(manifest, line, row, name) for name in ("start", "end"))
    part = (
        ""
        if start is None and end is None
        else f"#{start or 0:g}-{'' if end is None else f'{end:g}'}"
    )
    return Utterance(
        id=str(row.get("id") or f"{row['path']}{part}"),
        path=root / str(row["path"]),
        speaker=str(row.get("speaker") or ""),
        transcript=str(row.get("transcript") or ""),
        start_s=start,
        end_s=end,
        labels={key: value for key, value in row.items() if key not in _OWN and key not in _TIERS},
        tiers={tier: _spans(manifest, line, tier, row[tier]) for tier in _TIERS if row.get(tier)},
    )


def _spans(manifest: Path, line: int, tier: str, spans: Any) -> tuple[Span, ...]:
    try:
        return tuple(Span(float(start), float(end), str(label)) for start, end, label in spans)
    except (TypeError, ValueError):
        expected = f"a list of [start, end, label] as `{tier}`"
        raise ValueError(
            f"{manifest.name}, line {line}: expected {expected}, got {str(spans)[:60]!r}."
        ) from None


def _seconds(manifest: Path, line: int, row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(
            f"{manifest.name}, line {line}: expected `{name}` in seconds, got {str(value)[:60]!r}."
        )
    return seconds
