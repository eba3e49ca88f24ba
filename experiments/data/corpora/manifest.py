"""Reads manifests in JSONL or CSV. Each row is a recording or a part of a recording."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.data.corpora.utterance import Span, Utterance

LAYOUT_DESCRIPTION = (
    "manifest: a .jsonl or .csv file whose column `path` names recordings, or a folder with "
    "manifest.jsonl or manifest.csv"
)
# Columns that become fields of an utterance, and columns of time-aligned labels. Others are labels.
_FIELD_COLUMNS = {"path", "speaker", "transcript", "start", "end", "id"}
_TIER_COLUMNS = ("phones", "words")
_MAX_LINE_BYTES = 16 << 20  # a file with a longer line is not a manifest


def find(path: Path) -> Path | None:
    """Returns the manifest at `path` or in the folder `path`, or None if there is none."""
    if path.is_file():
        return path if path.suffix in (".jsonl", ".csv") else None
    files = (path / name for name in ("manifest.jsonl", "manifest.csv"))
    return next((file for file in files if file.is_file()), None)


def read(manifest: Path) -> list[Utterance]:
    """Reads the rows of a manifest.

    Paths are relative to the manifest's folder. If the first recording exists only relative to the
    folder above, all paths are relative to that folder.

    Args:
        manifest: a file with the column `path`. Optional columns are `id`, `speaker`, `transcript`,
            `start` and `end` (seconds in the recording), `phones` and `words`. The last two are
            lists of [start, end, label], in seconds from `start`. All other columns are labels.

    Returns:
        Utterances.

    Raises:
        ValueError: a row is malformed. The message names the file and the line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "manifest.csv")
        ...     _ = file.write_text("path,speaker,gender\\na.wav,ann,F\\n")
        ...     [utterance] = read(file)
        >>> utterance.speaker, utterance.labels
        ('ann', {'gender': 'F'})
    """
    rows = list(_rows(manifest))
    folder = folder_of_paths(manifest, rows)
    return [_utterance(manifest, folder, line_number, row) for line_number, row in rows]


def _rows(manifest: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    yield from _csv_rows(manifest) if manifest.suffix == ".csv" else json_lines(manifest)


def _csv_rows(manifest: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    text = io.StringIO("".join(line for _, line in text_lines(manifest)), newline="")
    reader = csv.DictReader(text)
    try:
        for row in reader:
            if None in row:  # DictReader puts the fields beyond the header under the key None
                raise ValueError(
                    f"{manifest.name}, line {reader.line_num}: expected {len(row) - 1} fields as "
                    "in line 1, got more."
                )
            yield reader.line_num, row
    except csv.Error as error:
        # A DictReader counts only the lines of good rows. Its `reader` also counts the failed line.
        raise ValueError(
            f"{manifest.name}, line {reader.reader.line_num}: expected a row of a CSV file "
            f"({error})."
        ) from None


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Reads a JSONL file.

    Yields:
        Line number and object of each line that is not empty.

    Raises:
        ValueError: a line is malformed. The message names the file and the line.
    """
    for number, line in text_lines(path):
        if line.strip():
            yield number, _parse_row(path, number, line)


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Reads a text file line by line.

    Yields:
        Line number and text of each line.

    Raises:
        ValueError: a line is too long or not UTF-8. The message names the file and the line.
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
            # The first line may begin with a byte order mark, which utf-8-sig removes.
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path.name}, line {number}: expected UTF-8 ({error.reason} at byte "
                    f"{error.start})."
                ) from None


def _parse_row(manifest: Path, line_number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = getattr(error, "msg", type(error).__name__)
        raise ValueError(
            f"{manifest.name}, line {line_number}: expected a JSON object, "
            f"got {line[:60]!r} ({why})."
        ) from None
    if not isinstance(row, dict):
        raise ValueError(
            f"{manifest.name}, line {line_number}: expected a JSON object, "
            f"got {type(row).__name__}."
        )
    return row


def folder_of_paths(manifest: Path, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> Path:
    """Returns the folder that the paths of the manifest are relative to."""
    folder = manifest.resolve().parent
    first_path = next((str(row["path"]) for _, row in rows[:1] if row.get("path")), None)
    if (
        first_path is None
        or _exists(folder / first_path)
        or not _exists(folder.parent / first_path)
    ):
        return folder
    return folder.parent


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # for example a name that is too long
        return False


def _utterance(manifest: Path, folder: Path, line_number: int, row: Mapping[str, Any]) -> Utterance:
    path = _audio_path(manifest, line_number, row)
    start, end = (_seconds(manifest, line_number, row, name) for name in ("start", "end"))
    return Utterance(
        id=str(row.get("id") or f"{path}{_time_suffix(start, end)}"),
        path=folder / path,
        speaker=str(row.get("speaker") or ""),
        transcript=str(row.get("transcript") or ""),
        start_s=start,
        end_s=end,
        labels={
            name: value
            for name, value in row.items()
            if name not in _FIELD_COLUMNS and name not in _TIER_COLUMNS
        },
        tiers={
            tier: _spans(manifest, line_number, tier, row[tier])
            for tier in _TIER_COLUMNS
            if row.get(tier)
        },
    )


def _time_suffix(start: float | None, end: float | None) -> str:
    """Returns the end of the id of a part of a recording, such as "#1.5-3"."""
    if start is None and end is None:
        return ""
    return f"#{start or 0:g}-{'' if end is None else f'{end:g}'}"


def _audio_path(manifest: Path, line_number: int, row: Mapping[str, Any]) -> str:
    if not row.get("path"):
        raise ValueError(
            f"{manifest.name}, line {line_number}: expected a column `path`, got the columns "
            f"{', '.join(map(str, row))}."
        )
    if not isinstance(row["path"], str):
        raise ValueError(
            f"{manifest.name}, line {line_number}: expected text as `path`, "
            f"got {str(row['path'])[:60]!r}."
        )
    return row["path"]


def _spans(manifest: Path, line_number: int, tier: str, spans: Any) -> tuple[Span, ...]:
    try:
        return tuple(Span(float(start), float(end), str(label)) for start, end, label in spans)
    except (TypeError, ValueError):
        raise ValueError(
            f"{manifest.name}, line {line_number}: expected a list of [start, end, label] as "
            f"`{tier}`, got {str(spans)[:60]!r}."
        ) from None


def _seconds(manifest: Path, line_number: int, row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        # `float(True)` is 1.0, but a truth value is not a time.
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(
            f"{manifest.name}, line {line_number}: expected `{name}` in seconds, "
            f"got {str(value)[:60]!r}."
        )
    return seconds
