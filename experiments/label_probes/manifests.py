"""Manifests for the probes of real recordings, from the data folder (`experiments.data.real_speech`)."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.data import real_speech
from interventions.storage.text_files import write_text
from jaxasr.config import SAMPLE_RATE

Row = dict[str, Any]
_SPANS = ("phones", "words")
_TAKES = 3  # of each digit and speaker: ten of them would say the same thing ten times


def prepare(folder: Path) -> dict[str, Path]:
    """Writes one manifest a set into `folder`. Raises FileNotFoundError where there are no recordings."""
    where = real_speech.folder()
    if where is None:
        raise FileNotFoundError("no recordings: set JAXASR_DATA to a folder with manifest.jsonl.")
    written = {}
    for name, (of, keep) in _SETS.items():
        rows = [
            _row(where, row, name)
            for row in real_speech.rows("manifest")
            if row["set"] == of and keep(row)
        ]
        written[name] = write_text(
            folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows)
        )
    return written


def _row(where: Path, row: Row, name: str) -> Row:
    kept = {**row, "path": str(where.parent / row["path"]), "id": Path(row["path"]).stem}
    if name != "timit":
        return kept
    return {**kept, "sentence": kept["id"].split("_")[1], **_aligned()[row["path"]]}


@functools.cache
def _aligned() -> dict[str, Row]:
    """Phones and words of TIMIT by path, in seconds."""
    found = {}
    for row in real_speech.rows("timit_align"):
        spans = {
            tier: [[a / SAMPLE_RATE, b / SAMPLE_RATE, label] for a, b, label in row[tier]]
            for tier in _SPANS
        }
        found[row["path"]] = spans | {
            "phones": [[a, b, folded(phone)] for a, b, phone in spans["phones"]]
        }
    return found


# The 61 phones of the corpus as the 39 usually scored (Lee and Hon 1989); the glottal stop q is left out.
_FOLDED = {
    "ao": "aa", "ax": "ah", "ax-h": "ah", "axr": "er", "hv": "hh", "ix": "ih", "el": "l", "em": "m", "en": "n", "nx": "n", "eng": "ng",
    "zh": "sh", "ux": "uw", "pcl": "sil", "tcl": "sil", "kcl": "sil", "bcl": "sil", "dcl": "sil", "gcl": "sil", "h#": "sil", "pau": "sil",
    "epi": "sil", "q": "",
}  # fmt: skip


def folded(phone: str) -> str:
    """One of 39 classes; "" for the glottal stop."""
    return _FOLDED.get(phone, phone)


def _few_takes() -> Callable[[Row], bool]:
    seen: dict[tuple[str, str], int] = {}

    def keep(row: Row) -> bool:
        key = row["speaker"], str(row["digit"])
        seen[key] = seen.get(key, 0) + 1
        return seen[key] <= _TAKES

    return keep


_SETS: dict[str, tuple[str, Callable[[Row], bool]]] = {
    "timit": ("timit", lambda row: True),
    "libri_train100": ("libri_train100", lambda row: True),
    "libri_test_other": ("libri_test_other", lambda row: True),
    "ravdess": ("ravdess", lambda row: True),
    "alnum_l1": ("alnum_l1", lambda row: True),
    "fsdd": ("fsdd", _few_takes()),
}
