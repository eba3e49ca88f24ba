"""TIMIT as the LDC distributes it: [TRAIN|TEST]/DR1/FCJF0/SA1.WAV with .TXT, .PHN and .WRD files.

Names may be in upper or lower case. Source: LDC93S1, README.DOC; alignments count 16 kHz samples.
"""

import re
from pathlib import Path

from experiments.data.corpora.manifest import text_lines
from experiments.data.corpora.utterance import Span, Utterance
from jaxasr.config import SAMPLE_RATE

EXPECTED = "TIMIT: a folder with [TRAIN|TEST/]DR<n>/<speaker>/*.PHN"
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


def find(path: Path) -> Path | None:
    """Returns `path` if it is TIMIT, else None."""
    return path if path.is_dir() and _phone_files(path) else None


def _phone_files(path: Path) -> list[Path]:
    files = (file for depth in range(1, 5) for file in path.glob("*/" * depth + "*"))
    return sorted(file for file in files if file.suffix.lower() == ".phn" and _region(file))


def _region(file: Path) -> int:
    """Returns the number of the dialect region; 0 outside of TIMIT's folders."""
    match = re.fullmatch(r"dr([1-8])", file.parent.parent.name.lower())
    return int(match[1]) if match else 0


def read(path: Path) -> list[Utterance]:
    """Reads all utterances below a folder.

    Args:
        path: from `find`.

    Returns:
        Utterances with the labels gender, dialect_region (1 to 8), dialect, split, sentence (SA1 …)
        and kind (SA, SI, SX), and the tiers phones and words.

    Raises:
        ValueError: a malformed line of an alignment.
    """
    return [_utterance(phones) for phones in _phone_files(path)]


def _utterance(phones: Path) -> Utterance:
    files = {file.name.lower(): file for file in phones.parent.iterdir()}
    stem, speaker, region = phones.stem, phones.parent.name.lower(), _region(phones)
    split = phones.parents[2].name.lower()
    split = split if split in ("train", "test") else ""
    tiers = {
        tier: _spans(files[name])
        for tier, suffix in _TIERS.items()
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
    name = "/".join(part for part in (split, f"dr{region}", speaker, stem.lower()) if part)
    text = _sentence(files.get(f"{stem}.txt".lower()))
    return Utterance(name, _audio(phones, files), speaker, text, labels=labels, tiers=tiers)


def _audio(phones: Path, files: dict[str, Path]) -> Path:
    # Some copies have a RIFF file, SA1.WAV.wav, in addition to the original.
    names = (f"{phones.stem}{suffix}".lower() for suffix in (".wav.wav", ".wav", ".flac"))
    return next((files[name] for name in names if name in files), phones.with_suffix(".WAV"))


def _sentence(file: Path | None) -> str:
    """Returns the words of a line such as `0 46797 She had …`."""
    return " ".join("".join(line for _, line in text_lines(file)).split()[2:]) if file else ""


def _spans(file: Path) -> tuple[Span, ...]:
    return tuple(_span(file, number, line) for number, line in text_lines(file) if line.strip())


def _span(file: Path, number: int, line: str) -> Span:
    try:
        first, last, label = line.strip().split(maxsplit=2)
        return Span(int(first) / SAMPLE_RATE, int(last) / SAMPLE_RATE, label)
    except ValueError:
        raise ValueError(
            f"{file}, line {number}: expected a first sample, a last sample and a label, got "
            f"{line[:60]!r}."
        ) from None
