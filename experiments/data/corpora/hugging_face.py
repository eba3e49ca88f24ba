"""A dataset of the Hugging Face hub: `hf:NAME`, `hf:NAME:CONFIG` or `hf:NAME:CONFIG@SPLIT`."""

import importlib.util
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.corpora.utterance import Utterance
from jaxasr.audio import load_audio

EXPECTED = (
    "Hugging Face: hf:NAME[:CONFIG][@SPLIT], such as "
    "hf:mozilla-foundation/common_voice_16_1:ja@test (needs jaxasr[datasets])"
)
_TRANSCRIPT = ("transcript", "sentence", "text", "transcription", "normalized_text")
_SPEAKER = ("speaker", "speaker_id", "client_id")
_ADDRESS = re.compile(r"hf:(?P<name>[^:@]+)(?::(?P<config>[^:@]+))?(?:@(?P<split>[^:@]+))?")


def find(address: str) -> re.Match[str] | None:
    """Returns the parts of an address; None if it is not one of the hub."""
    return _ADDRESS.fullmatch(address)


def read(address: re.Match[str]) -> list[Utterance]:
    """Reads the rows of a split, "train" by default. Audio is decoded when its samples are read.

    Args:
        address: from `find`.

    Returns:
        Utterances. Columns with texts and numbers are labels.

    Raises:
        ValueError: the package `datasets` is not installed, or there is not one column of audio.
    """
    if not importlib.util.find_spec("datasets"):
        raise ValueError(
            "hf: expected the package `datasets`, which is not installed. "
            "pip install 'jaxasr[datasets]'."
        )
    import datasets

    split = address["split"] or "train"
    table: Any = datasets.load_dataset(address["name"], address["config"], split=split)
    columns = [name for name, kind in table.features.items() if type(kind).__name__ == "Audio"]
    if len(columns) != 1:
        raise ValueError(
            f"hf: expected one column of audio in {address['name']!r}, "
            f"got {columns or list(table.features)}."
        )
    table = table.cast_column(columns[0], datasets.Audio(decode=False))
    return [_utterance(address[0], table, columns[0], number) for number in range(len(table))]


def _utterance(address: str, table: Any, column: str, number: int) -> Utterance:
    row = {name: _class_name(table.features[name], value) for name, value in table[number].items()}
    audio = row.pop(column)
    transcript, speaker = (
        next((row.pop(name) for name in names if name in row), "")
        for names in (_TRANSCRIPT, _SPEAKER)
    )
    return Utterance(
        f"{address}/{number}",
        Path(audio["path"] or f"{number}"),
        str(speaker),
        str(transcript),
        labels={name: value for name, value in row.items() if isinstance(value, str | int | float)},
        read=lambda: _samples(table[number][column]),
    )


def _class_name(feature: Any, value: Any) -> Any:
    """Converts the number of a class to its name."""
    return feature.int2str(value) if hasattr(feature, "int2str") and value is not None else value


def _samples(audio: Mapping[str, Any]) -> np.ndarray:
    if not audio["bytes"]:
        return load_audio(audio["path"])
    with tempfile.TemporaryDirectory() as folder:
        # The file keeps its name, because errors mention it.
        file = Path(folder) / Path(audio["path"] or "recording").name
        file.write_bytes(audio["bytes"])
        return load_audio(file)
