"""Common Voice as it is unpacked: TSV files beside a folder `clips`. Source: https://github.com/common-voice/cv-dataset."""

import csv
from pathlib import Path

from experiments.data.corpora.utterance import Utterance

LOOKS_FOR = "Common Voice: a folder with clips/ and validated.tsv, or one of its .tsv files (train.tsv, test.tsv …)"
_OWN = {"client_id", "path", "sentence"}


def find(where: Path) -> Path | None:
    """The table of clips."""
    table = where / "validated.tsv" if where.is_dir() else where
    return (
        table
        if table.suffix == ".tsv" and table.is_file() and (table.parent / "clips").is_dir()
        else None
    )


def read(table: Path) -> list[Utterance]:
    """Labels: every other column (age, gender, accents, locale …). Raises ValueError for a table of something else."""
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(
            file, delimiter="\t", quoting=csv.QUOTE_NONE
        )  # sentences hold single quotation marks
        try:
            if missing := _OWN - set(rows.fieldnames or ()):
                raise ValueError(
                    f"{table.name}: expected the columns {sorted(_OWN)} of clips, {sorted(missing)} missing."
                )
            return [_utterance(table, rows.line_num, row) for row in rows]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(
                f"{table.name}, line {rows.line_num + 1}: expected a row of a table in UTF-8 ({error})."
            ) from None


def _utterance(table: Path, line: int, row: dict[str, str]) -> Utterance:
    if missing := [name for name in sorted(_OWN) if row[name] is None]:
        raise ValueError(
            f"{table.name}, line {line}: expected a value for {', '.join(missing)}, the row is too short."
        )
    clips = table.parent / "clips"
    labels = {key: value for key, value in row.items() if key not in _OWN and key is not None}
    return Utterance(
        row["path"], clips / row["path"], row["client_id"], row["sentence"], labels=labels
    )
