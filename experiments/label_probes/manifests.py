"""Writes the manifests of the label probes, which list recordings of the data folder.

A manifest is a JSON Lines file with one row per recording. `experiments.data.real_speech` finds the
data folder.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.data import real_speech
from interventions.storage.text_files import write_text
from jaxasr.config import SAMPLE_RATE

Row = dict[str, Any]  # one recording of a manifest
_TIERS = ("phones", "words")  # kinds of segments in the alignments of TIMIT
_MAX_TAKES = 3  # largest number of recordings per digit and speaker


def prepare(folder: Path) -> dict[str, Path]:
    """Writes one manifest per data set.

    Args:
        folder: folder to write to.

    Returns:
        The manifest file of each data set, by name.

    Raises:
        FileNotFoundError: there is no data folder.
    """
    data = real_speech.folder()
    if data is None:
        raise FileNotFoundError("no recordings: set JAXASR_DATA to a folder with manifest.jsonl.")
    manifests = {}
    for name, is_selected in _row_filters().items():
        rows = [
            _manifest_row(data, row)
            for row in real_speech.rows("manifest")
            if row["set"] == name and is_selected(row)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        manifests[name] = write_text(folder / f"{name}.jsonl", lines)
    return manifests


def _row_filters() -> dict[str, Callable[[Row], bool]]:
    """Returns, by data set, a function that selects rows."""
    # "fsdd" has spoken digits, of which only a few recordings are selected.
    names = ("timit", "libri_train100", "libri_test_other", "ravdess", "alnum_l1")
    return {**dict.fromkeys(names, lambda row: True), "fsdd": _take_limit()}


def _take_limit() -> Callable[[Row], bool]:
    """Returns a function that selects the first `_MAX_TAKES` rows of each speaker and digit."""
    counts: dict[tuple[str, str], int] = {}

    def is_selected(row: Row) -> bool:
        key = row["speaker"], str(row["digit"])
        counts[key] = counts.get(key, 0) + 1
        return counts[key] <= _MAX_TAKES

    return is_selected


def _manifest_row(data: Path, row: Row) -> Row:
    """Makes the path absolute, and adds an id. For TIMIT, also adds the sentence and alignment."""
    absolute = {**row, "path": str(data.parent / row["path"]), "id": Path(row["path"]).stem}
    if row["set"] != "timit":
        return absolute
    sentence = absolute["id"].split("_")[1]  # the file names are SPEAKER_SENTENCE
    return {**absolute, "sentence": sentence, **_alignments()[row["path"]]}


@functools.cache
def _alignments() -> dict[str, Row]:
    """Reads the phones and words of each TIMIT recording, with times in seconds, by path."""
    alignments = {}
    for row in real_speech.rows("timit_align"):
        spans = {
            tier: [
                [first / SAMPLE_RATE, last / SAMPLE_RATE, label] for first, last, label in row[tier]
            ]
            for tier in _TIERS
        }
        phones = [[start, end, fold_phone(phone)] for start, end, phone in spans["phones"]]
        alignments[row["path"]] = spans | {"phones": phones}
    return alignments


# Maps the 61 phones of TIMIT to the 39 that are usually scored (Lee and Hon 1989). Phones that are
# not listed stay as they are.
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
    "q": "",  # the glottal stop has no class
}


def fold_phone(phone: str) -> str:
    """Maps a TIMIT phone to one of 39 classes, or to "" for the glottal stop.

    Example:
        >>> fold_phone("ix")
        'ih'
    """
    return _FOLDED.get(phone, phone)
