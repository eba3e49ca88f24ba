"""Manifests in JSONL or CSV, with one recording, or part of one, per row."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.data.corpora.utterance import Span, Utterance

EXPECTED = (
    "manifest: a .jsonl or .csv file, or a folder with manifest.jsonl or manifest.csv; its column "
    "`path` names recordings"
)
_COLUMNS = {"path", "speaker", "transcript", "start", "end", "id"}
_TIERS = ("phones", "words")
_MAX_LINE_BYTES = 16 << 20


def find(path: Path) -> Path | None:
    """Returns the manifest that `path` is or has; None if there is none."""
    if path.is_file():
        return path if path.suffix in (".jsonl", ".csv") else None
    files = (path / name for name in ("manifest.jsonl", "manifest.csv"))
    return next((file for file in files if file.is_file()), None)


def read(manifest: Path) -> list[Utterance]:
    """Reads the rows of a manifest.

    Paths are relative to the manifest's folder or, if the first recording is not there, to the
    folder above it.

    Args:
        manifest: a file with the column `path`, and optionally `speaker`, `transcript`, `start` and
            `end` (seconds), `id`, `phones` and `words` (lists of [start, end, label], in seconds
            from the start of the row's part). All other columns are labels.

    Returns:
        Utterances.

    Raises:
        ValueError: a malformed row; the message has the file and the line.
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
                    f"{manifest.name}, line {reader.line_num}: expected {len(row) - 1} fields as "
                    "in line 1, got more."
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(
            f"{manifest.name}, line {reader.line_num + 1}: expected a row of a CSV file ({error})."
        ) from None


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Reads a JSONL file.

    Yields:
        Number and object of each line that is not empty.

    Raises:
        ValueError: a malformed line; the message has the file and the line.
    """
    for number, line in text_lines(path):
        if line.strip():
            yield number, _parse(path, number, line)


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Reads a text file line by line.

    Yields:
        Number and text of each line.

    Raises:
        ValueError: a line is too long or not UTF-8; the message has the file and the line.
    """
    number = 0
    with path.open("rb") as file:
        while line := file.readline(_MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > _MAX_LINE_BYTES:
                raise ValueError(
                    f"{path.name}, line {number}: expected a line of at most {_MAX_LINE_BYTES} "
                    "bytes."
                )
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path.name}, line {number}: expected UTF-8 ({error.reason} at byte "
                    f"{error.start})."
                ) from None


def _parse(manifest: Path, number: int, line: str) -> dict[str, Any]:
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
    first = next((str(row["path"]) for _, row in rows[:1] if row.get("path")), None)
    if first is None or _exists(folder / first) or not _exists(folder.parent / first):
        return folder
    return folder.parent


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file can have
        return False


def _utterance(manifest: Path, root: Path, line: int, row: Mapping[str, Any]) -> Utterance:
    path = _path(manifest, line, row)
    start, end = (_seconds(manifest, line, row, name) for name in ("start", "end"))
    return Utterance(
        id=str(row.get("id") or f"{path}{_part_name(start, end)}"),
        path=root / path,
        speaker=str(row.get("speaker") or ""),
        transcript=str(row.get("transcript") or ""),
        start_s=start,
        end_s=end,
        labels={
            name: value
            for name, value in row.items()
            if name not in _COLUMNS and name not in _TIERS
        },
        tiers={tier: _spans(manifest, line, tier, row[tier]) for tier in _TIERS if row.get(tier)},
    )


def _part_name(start: float | None, end: float | None) -> str:
    if start is None and end is None:
        return ""
    return f"#{start or 0:g}-{'' if end is None else f'{end:g}'}"


def _path(manifest: Path, line: int, row: Mapping[str, Any]) -> str:
    if not row.get("path"):
        raise ValueError(
            f"{manifest.name}, line {line}: expected a column `path`, got the columns "
            f"{', '.join(map(str, row))}."
        )
    if not isinstance(row["path"], str):
        raise ValueError(
            f"{manifest.name}, line {line}: expected text as `path`, got {str(row['path'])[:60]!r}."
        )
    return row["path"]


def _spans(manifest: Path, line: int, tier: str, spans: Any) -> tuple[Span, ...]:
    try:
        return tuple(Span(float(start), float(end), str(label)) for start, end, label in spans)
    except (TypeError, ValueError):
        raise ValueError(
            f"{manifest.name}, line {line}: expected a list of [start, end, label] as `{tier}`, "
            f"got {str(spans)[:60]!r}."
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
