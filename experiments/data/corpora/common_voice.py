"""Common Voice as distributed: a folder with TSV files and a folder `clips`.

Source: https://github.com/common-voice/cv-dataset.
"""

import csv
from pathlib import Path

from experiments.data.corpora.utterance import Utterance

EXPECTED = (
    "Common Voice: a folder with clips/ and validated.tsv, or one of its .tsv files "
    "(train.tsv, test.tsv …)"
)
_COLUMNS = {"client_id", "path", "sentence"}


def find(path: Path) -> Path | None:
    """Returns the table at or in `path`, or None if `path` is not Common Voice."""
    table = path / "validated.tsv" if path.is_dir() else path
    has_clips = (table.parent / "clips").is_dir()
    return table if table.suffix == ".tsv" and table.is_file() and has_clips else None


def read(table: Path) -> list[Utterance]:
    """Reads a table of clips.

    Args:
        table: the path that `find` returned.

    Returns:
        Utterances. All columns except client_id, path and sentence are labels.

    Raises:
        ValueError: the table lacks a column of clips, or a row is malformed.
    """
    with table.open(encoding="utf-8-sig", newline="") as file:
        # Sentences contain unpaired quotation marks.
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        try:
            if missing := _COLUMNS - set(rows.fieldnames or ()):
                raise ValueError(
                    f"{table.name}: expected the columns {sorted(_COLUMNS)}, "
                    f"found no {sorted(missing)}."
                )
            return [_utterance(table, rows.line_num, row) for row in rows]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(
                f"{table.name}, line {rows.line_num + 1}: expected tab-separated text in UTF-8 "
                f"({error})."
            ) from None


def _utterance(table: Path, line: int, row: dict[str, str]) -> Utterance:
    if missing := [name for name in sorted(_COLUMNS) if row[name] is None]:
        raise ValueError(
            f"{table.name}, line {line}: expected a value for {', '.join(missing)}, "
            "the row is too short."
        )
    labels = {key: value for key, value in row.items() if key not in _COLUMNS and key is not None}
    audio = table.parent / "clips" / row["path"]
    return Utterance(row["path"], audio, row["client_id"], row["sentence"], labels=labels)
