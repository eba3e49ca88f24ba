"""Manifests of the label probes, made from the data folder (`experiments.data.real_speech`)."""

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
_TAKES = 3  # per digit and speaker; more of them add little


def prepare(folder: Path) -> dict[str, Path]:
    """Writes the manifests.

    Args:
        folder: where to write them.

    Returns:
        Manifest by name.

    Raises:
        FileNotFoundError: there is no data folder.
    """
    data = real_speech.folder()
    if data is None:
        raise FileNotFoundError("no recordings: set JAXASR_DATA to a folder with manifest.jsonl.")
    manifests = {}
    for name, keep_row in _selections().items():
        rows = [
            _row(data, row)
            for row in real_speech.rows("manifest")
            if row["set"] == name and keep_row(row)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        manifests[name] = write_text(folder / f"{name}.jsonl", lines)
    return manifests


def _selections() -> dict[str, Callable[[Row], bool]]:
    """Returns, by set, which rows to keep."""
    names = ("timit", "libri_train100", "libri_test_other", "ravdess", "alnum_l1")
    return {**dict.fromkeys(names, lambda row: True), "fsdd": _few_takes()}


def _few_takes() -> Callable[[Row], bool]:
    counts: dict[tuple[str, str], int] = {}

    def keep_row(row: Row) -> bool:
        key = row["speaker"], str(row["digit"])
        counts[key] = counts.get(key, 0) + 1
        return counts[key] <= _TAKES

    return keep_row


def _row(data: Path, row: Row) -> Row:
    absolute = {**row, "path": str(data.parent / row["path"]), "id": Path(row["path"]).stem}
    if row["set"] != "timit":
        return absolute
    sentence = absolute["id"].split("_")[1]
    return {**absolute, "sentence": sentence, **_alignments()[row["path"]]}


@functools.cache
def _alignments() -> dict[str, Row]:
    """Reads phones and words of TIMIT, in seconds, by path."""
    alignments = {}
    for row in real_speech.rows("timit_align"):
        spans = {
            tier: [
                [first / SAMPLE_RATE, last / SAMPLE_RATE, label] for first, last, label in row[tier]
            ]
            for tier in _SPANS
        }
        phones = [[start, end, fold_phone(phone)] for start, end, phone in spans["phones"]]
        alignments[row["path"]] = spans | {"phones": phones}
    return alignments


# Folds the 61 phones of the corpus to the 39 that are usually scored (Lee and Hon 1989).
_FOLDED = {
    "ao": "aa",
    "ax": "ah",
    "ax-h": "ah",
    "axr": "er",
    "hv": "hh",
    "ix": "ih",
    "el": "l",
    "em": "m",
    "en": "n",
    "nx": "n",
    "eng": "ng",
    "zh": "sh",
    "ux": "uw",
    **dict.fromkeys(("pcl", "tcl", "kcl", "bcl", "dcl", "gcl", "h#", "pau", "epi"), "sil"),
    "q": "",
}


def fold_phone(phone: str) -> str:
    """Returns one of 39 classes; "" for the glottal stop, which is dropped.

    Example:
        >>> fold_phone("ix")
        'ih'
    """
    return _FOLDED.get(phone, phone)
