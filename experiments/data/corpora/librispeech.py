"""Reads LibriSpeech, whose files are <subset>/<speaker>/<chapter>/<speaker>-<chapter>-<n>.flac.

Each chapter has a file of transcripts. SPEAKERS.TXT is in the folder above the subsets.
Source of the layout: https://www.openslr.org/12, README.TXT.
"""

from pathlib import Path

from experiments.data.corpora.manifest import text_lines
from experiments.data.corpora.utterance import Utterance

LAYOUT_DESCRIPTION = (
    "LibriSpeech: a folder with <subset>/<speaker>/<chapter>/*.trans.txt, or one of its subsets"
)


def find(path: Path) -> Path | None:
    """Returns `path` if it is the folder of LibriSpeech or of one of its subsets, else None."""
    return path if path.is_dir() and _transcript_files(path) else None


def _transcript_files(path: Path) -> list[Path]:
    # The first pattern finds the chapters of a subset, the second those of all subsets.
    return sorted([*path.glob("*/*/*.trans.txt"), *path.glob("*/*/*/*.trans.txt")])


def read(path: Path) -> list[Utterance]:
    """Reads all utterances below a folder.

    Args:
        path: the folder that `find` returned.

    Returns:
        Utterances with the labels gender (F or M), subset, chapter, and condition ("clean" or
        "other").

    Raises:
        ValueError: a transcript file has a malformed line.
    """
    genders = _read_genders(path)
    return [
        _utterance(file, number, line, genders)
        for file in _transcript_files(path)
        for number, line in text_lines(file)
        if line.strip()
    ]


def _utterance(file: Path, line_number: int, line: str, genders: dict[str, str]) -> Utterance:
    name, _, transcript = line.strip().partition(" ")
    if name.count("-") != 2:
        raise ValueError(
            f"{file}, line {line_number}: expected SPEAKER-CHAPTER-NUMBER and a transcript, "
            f"got {line[:60]!r}."
        )
    speaker, chapter, _ = name.split("-")
    subset = file.parents[2].resolve().name
    condition = next((word for word in ("clean", "other") if word in subset.split("-")), "")
    labels = {
        "gender": genders.get(speaker, ""),
        "subset": subset,
        "condition": condition,
        "chapter": chapter,
    }
    return Utterance(
        id=f"{subset}/{name}",
        path=file.parent / f"{name}.flac",
        speaker=speaker,
        transcript=transcript,
        labels=labels,
    )


def _read_genders(path: Path) -> dict[str, str]:
    """Returns "F" or "M" for each speaker, or nothing if there is no SPEAKERS.TXT."""
    folders = (path, path.resolve().parent)
    files = [file for folder in folders if (file := folder / "SPEAKERS.TXT").is_file()]
    if not files:
        return {}
    # A line is, for example, `14 | F | train-clean-360 | 25.03 | name`.
    rows = [
        [cell.strip() for cell in line.split("|")]
        for _, line in text_lines(files[0])
        if line.strip() and not line.startswith(";")
    ]
    return {row[0]: row[1] for row in rows if len(row) > 1}
