"""Reads Common Voice, a folder with TSV files and a folder `clips`.

Source of the layout: https://github.com/common-voice/cv-dataset.
"""

import csv
from pathlib import Path

from experiments.data.corpora.manifest import text_lines
from experiments.data.corpora.utterance import Utterance

LAYOUT_DESCRIPTION = (
    "Common Voice: a folder with clips/ and validated.tsv, or one of its .tsv files "
    "(train.tsv, test.tsv …)"
)
_REQUIRED_COLUMNS = {"client_id", "path", "sentence"}


def find(path: Path) -> Path | None:
    """Returns the table of clips at `path`, or None if `path` is not Common Voice.

    Args:
        path: a table, or the folder of Common Voice, whose table is validated.tsv.
    """
    table = path / "validated.tsv" if path.is_dir() else path
    has_clips = (table.parent / "clips").is_dir()
    return table if table.suffix == ".tsv" and table.is_file() and has_clips else None


def read(table: Path) -> list[Utterance]:
    """Reads a table of clips.

    Args:
        table: the file that `find` returned.

    Returns:
        Utterances. All columns except client_id, path and sentence are labels.

    Raises:
        ValueError: the table lacks a required column, or a row is malformed.
    """
    lines = (line for _, line in text_lines(table))
    # Sentences contain unpaired quotation marks, so these are ordinary characters here.
    rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        if missing := _REQUIRED_COLUMNS - set(rows.fieldnames or ()):
            raise ValueError(
                f"{table.name}: expected the columns {sorted(_REQUIRED_COLUMNS)}, "
                f"found no {sorted(missing)}."
            )
        return [_utterance(table, rows.line_num, row) for row in rows]
    except csv.Error as error:
        # A DictReader counts only the lines of good rows. Its `reader` also counts the failed line.
        raise ValueError(
            f"{table.name}, line {rows.reader.line_num}: expected tab-separated text ({error})."
        ) from None


def _utterance(table: Path, line_number: int, row: dict[str, str]) -> Utterance:
    if missing := [name for name in sorted(_REQUIRED_COLUMNS) if row[name] is None]:
        raise ValueError(
            f"{table.name}, line {line_number}: expected a value for {', '.join(missing)}, "
            "got a row that is too short."
        )
    if None in row:  # `csv.DictReader` collects the values of further columns there
        raise ValueError(
            f"{table.name}, line {line_number}: expected as many values as the table has columns, "
            "got a row that is too long."
        )
    return Utterance(
        id=row["path"],
        path=table.parent / "clips" / row["path"],
        speaker=row["client_id"],
        transcript=row["sentence"],
        labels={key: value for key, value in row.items() if key not in _REQUIRED_COLUMNS},
    )
