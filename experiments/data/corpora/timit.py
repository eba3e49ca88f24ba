"""Reads TIMIT, such as [TRAIN|TEST/]DR1/FCJF0/SA1.WAV with SA1.TXT, SA1.PHN and SA1.WRD.

Names may be in upper or lower case. Times in alignments are sample numbers at 16 kHz.
Source of the layout: LDC93S1, README.DOC.
"""

import re
from pathlib import Path

from experiments.data.corpora.manifest import text_lines
from experiments.data.corpora.utterance import Span, Utterance

LAYOUT_DESCRIPTION = "TIMIT: a folder with [TRAIN|TEST/]DR<n>/<speaker>/*.PHN"
_DIALECTS = (  # names of dialect regions 1 to 8
    "New England",
    "Northern",
    "North Midland",
    "South Midland",
    "Southern",
    "New York City",
    "Western",
    "Army Brat",
)
# Suffix of the alignment file of each tier.
_TIER_SUFFIXES = {"phones": ".phn", "words": ".wrd"}


def find(path: Path) -> Path | None:
    """Returns `path` if it is a folder of TIMIT, else None."""
    return path if path.is_dir() and _phone_files(path) else None


def _phone_files(path: Path) -> list[Path]:
    # The user may name TIMIT or a folder in it, so one to four folders are between path and file.
    files = (file for depth in range(1, 5) for file in path.glob("*/" * depth + "*"))
    return sorted(file for file in files if file.suffix.lower() == ".phn" and _region(file))


def _region(file: Path) -> int:
    """Returns the number of the dialect region, or 0 if no folder DR1 to DR8 contains the file."""
    match = re.fullmatch(r"dr([1-8])", file.parent.parent.name.lower())
    return int(match[1]) if match else 0


def read(path: Path) -> list[Utterance]:
    """Reads all utterances below a folder.

    Args:
        path: the folder that `find` returned.

    Returns:
        Utterances with the tiers phones and words. Their labels are gender, dialect_region (1 to
        8), dialect, split, sentence (SA1 …) and kind of sentence (SA, SI, SX).

    Raises:
        ValueError: an alignment has a malformed line.
    """
    return [_utterance(phone_file) for phone_file in _phone_files(path)]


def _utterance(phone_file: Path) -> Utterance:
    files = {file.name.lower(): file for file in phone_file.parent.iterdir()}
    stem, speaker = phone_file.stem, phone_file.parent.name.lower()
    region, split = _region(phone_file), phone_file.parents[2].name.lower()
    split = split if split in ("train", "test") else ""
    tiers = {
        tier: _spans(files[name])
        for tier, suffix in _TIER_SUFFIXES.items()
        if (name := f"{stem}{suffix}".lower()) in files
    }
    labels = {
        "gender": speaker[0].upper(),
        "dialect_region": region,
        "dialect": _DIALECTS[region - 1],
        "split": split,
        "sentence": stem.upper(),
        "kind": stem[:2].upper(),
    }
    return Utterance(
        id="/".join(part for part in (split, f"dr{region}", speaker, stem.lower()) if part),
        path=_audio_file(phone_file, files),
        speaker=speaker,
        transcript=_transcript(files.get(f"{stem}.txt".lower())),
        labels=labels,
        tiers=tiers,
    )


def _audio_file(phone_file: Path, files: dict[str, Path]) -> Path:
    # Some copies of TIMIT also have the recording as a RIFF file, SA1.WAV.wav.
    names = (f"{phone_file.stem}{suffix}".lower() for suffix in (".wav.wav", ".wav", ".flac"))
    return next((files[name] for name in names if name in files), phone_file.with_suffix(".WAV"))


def _transcript(file: Path | None) -> str:
    """Returns the words of a line such as `0 46797 She had …`."""
    return " ".join("".join(line for _, line in text_lines(file)).split()[2:]) if file else ""


def _spans(file: Path) -> tuple[Span, ...]:
    return tuple(_span(file, number, line) for number, line in text_lines(file) if line.strip())


def _span(file: Path, line_number: int, line: str) -> Span:
    from jaxasr.config import SAMPLE_RATE

    try:
        first, last, label = line.strip().split(maxsplit=2)
        return Span(int(first) / SAMPLE_RATE, int(last) / SAMPLE_RATE, label)
    except ValueError:
        raise ValueError(
            f"{file}, line {line_number}: expected a first sample, a last sample and a label, got "
            f"{line[:60]!r}."
        ) from None
