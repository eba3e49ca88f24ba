"""LibriSpeech as it is unpacked: <subset>/<speaker>/<chapter>/<speaker>-<chapter>-<n>.flac, transcripts beside, SPEAKERS.TXT above.

Source: https://www.openslr.org/12, README.TXT.
"""

from pathlib import Path

from experiments.data.corpora.manifest import text_lines
from experiments.data.corpora.utterance import Utterance

LOOKS_FOR = (
    "LibriSpeech: a folder with <subset>/<speaker>/<chapter>/*.trans.txt, or one of its subsets"
)


def find(where: Path) -> Path | None:
    return where if where.is_dir() and _transcripts(where) else None


def _transcripts(where: Path) -> list[Path]:
    return sorted([*where.glob("*/*/*.trans.txt"), *where.glob("*/*/*/*.trans.txt")])


def read(where: Path) -> list[Utterance]:
    """Labels: gender (F or M), subset, condition ("clean" or "other"), chapter."""
    genders = _genders(where)
    return [
        utterance
        for file in _transcripts(where)
        for number, line in text_lines(file)
        if line.strip()
        for utterance in [_utterance(file, number, line, genders)]
    ]


def _utterance(file: Path, number: int, line: str, genders: dict[str, str]) -> Utterance:
    name, _, transcript = line.strip().partition(" ")
    if name.count("-") != 2:
        raise ValueError(
            f"{file}, line {number}: expected SPEAKER-CHAPTER-NUMBER and a transcript, got {line[:60]!r}."
        )
    speaker, chapter, _ = name.split("-")
    subset = file.parents[2].resolve().name
    condition = next((kind for kind in ("clean", "other") if kind in subset.split("-")), "")
    labels = {
        "gender": genders.get(speaker, ""),
        "subset": subset,
        "condition": condition,
        "chapter": chapter,
    }
    return Utterance(
        f"{subset}/{name}", file.parent / f"{name}.flac", speaker, transcript, labels=labels
    )


def _genders(where: Path) -> dict[str, str]:
    """Of SPEAKERS.TXT, `14 | F | train-clean-360 | 25.03 | name`, a line a speaker; none without the file."""
    for folder in (where, where.resolve().parent):
        if (folder / "SPEAKERS.TXT").is_file():
            lines = text_lines(folder / "SPEAKERS.TXT")
            rows = [
                [cell.strip() for cell in line.split("|")]
                for _, line in lines
                if line.strip() and not line.startswith(";")
            ]
            return {row[0]: row[1] for row in rows if len(row) > 1}
    return {}
