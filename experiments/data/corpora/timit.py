"""TIMIT as the LDC ships it, in capitals or not: [TRAIN|TEST]/DR1/FCJF0/SA1.WAV with .TXT, .PHN and .WRD beside.

Source: LDC93S1, README.DOC; times of its alignments are samples at 16 kHz.
"""

import re
from pathlib import Path

from experiments.data.corpora.manifest import text_lines
from experiments.data.corpora.utterance import Span, Utterance
from jaxasr.config import SAMPLE_RATE

LOOKS_FOR = "TIMIT: a folder with [TRAIN|TEST/]DR<n>/<speaker>/*.PHN"
_DIALECTS = (
    "New England",
    "Northern",
    "North Midland",
    "South Midland",
    "Southern",
    "New York City",
    "Western",
    "Army Brat",
)
_TIERS = {"phones": ".phn", "words": ".wrd"}


def find(where: Path) -> Path | None:
    return where if where.is_dir() and next(iter(_alignments(where)), None) else None


def _alignments(where: Path) -> list[Path]:
    """Of every utterance the file of its phones."""
    found = [
        path
        for depth in range(1, 5)
        for path in where.glob("*/" * depth + "*")
        if path.suffix.lower() == ".phn"
    ]
    return sorted(path for path in found if _region(path))


def _region(path: Path) -> int | None:
    region = re.fullmatch(r"dr([1-8])", path.parent.parent.name.lower())
    return int(region[1]) if region else None


def read(where: Path) -> list[Utterance]:
    """Labels: gender, dialect_region (1 to 8), dialect, split, sentence (SA1 …), kind (SA, SI, SX). Tiers: phones, words."""
    return [_utterance(path) for path in _alignments(where)]


def _utterance(phones: Path) -> Utterance:
    files = {path.name.lower(): path for path in phones.parent.iterdir()}
    stem, region, speaker = phones.stem, _region(phones), phones.parent.name.lower()
    split = phones.parents[2].name.lower()
    split = split if split in ("train", "test") else ""
    # Some copies keep the original beside a RIFF one, SA1.WAV.wav.
    names = [f"{stem}.wav.wav", f"{stem}.wav", f"{stem}.flac"]
    audio = next(
        (files[name.lower()] for name in names if name.lower() in files), phones.with_suffix(".WAV")
    )
    tiers = {
        tier: _spans(files[name])
        for tier, ending in _TIERS.items()
        if (name := f"{stem}{ending}".lower()) in files
    }
    text = files.get(f"{stem}.txt".lower())
    labels = {
        "gender": speaker[0].upper(),
        "dialect_region": region,
        "dialect": _DIALECTS[region - 1],
        "split": split,
        "sentence": stem.upper(),
        "kind": stem[:2].upper(),
    }
    name = "/".join(part for part in (split, f"dr{region}", speaker, stem.lower()) if part)
    return Utterance(name, audio, speaker, _sentence(text), labels=labels, tiers=tiers)


def _sentence(file: Path | None) -> str:
    """`0 46797 She had …`: the words alone."""
    return " ".join("".join(line for _, line in text_lines(file)).split()[2:]) if file else ""


def _spans(file: Path) -> tuple[Span, ...]:
    return tuple(_span(file, number, line) for number, line in text_lines(file) if line.strip())


def _span(file: Path, number: int, line: str) -> Span:
    try:
        first, last, label = line.strip().split(maxsplit=2)
        return Span(int(first) / SAMPLE_RATE, int(last) / SAMPLE_RATE, label)
    except ValueError:
        raise ValueError(
            f"{file}, line {number}: expected a first sample, a last sample and a label, got {line[:60]!r}."
        ) from None
