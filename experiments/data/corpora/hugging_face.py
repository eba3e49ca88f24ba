"""A data set of the Hugging Face hub, through the `datasets` package: `hf:NAME`, `hf:NAME:CONFIG`, `hf:NAME:CONFIG@SPLIT`."""

import importlib.util
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.corpora.utterance import Utterance
from jaxasr.audio import load_audio

LOOKS_FOR = "Hugging Face: hf:NAME[:CONFIG][@SPLIT], such as hf:mozilla-foundation/common_voice_16_1:ja@test (needs jaxasr[datasets])"
_TRANSCRIPT = ("transcript", "sentence", "text", "transcription", "normalized_text")
_SPEAKER = ("speaker", "speaker_id", "client_id")


def find(where: str) -> re.Match[str] | None:
    return re.fullmatch(
        r"hf:(?P<name>[^:@]+)(?::(?P<config>[^:@]+))?(?:@(?P<split>[^:@]+))?", where
    )


def read(where: re.Match[str]) -> list[Utterance]:
    """Rows of a split (default: train). The sound is decoded when it is wanted. Raises ValueError without `datasets` or without sound."""
    if not importlib.util.find_spec("datasets"):
        raise ValueError(
            "hf: expected the package `datasets`, which is not installed. pip install 'jaxasr[datasets]'."
        )
    import datasets

    found = datasets.load_dataset(where["name"], where["config"], split=where["split"] or "train")
    sound = [name for name, feature in found.features.items() if type(feature).__name__ == "Audio"]
    if len(sound) != 1:
        raise ValueError(
            f"hf: expected one column of audio in {where['name']!r}, got {sound or list(found.features)}."
        )
    found = found.cast_column(sound[0], datasets.Audio(decode=False))
    return [_utterance(where, found, sound[0], number) for number in range(len(found))]


def _utterance(where: re.Match[str], found: Any, sound: str, number: int) -> Utterance:
    row = {name: _named(found.features[name], value) for name, value in found[number].items()}
    named = row.pop(sound)
    transcript, speaker = (
        next((row.pop(name) for name in names if name in row), "")
        for names in (_TRANSCRIPT, _SPEAKER)
    )
    labels = {name: value for name, value in row.items() if isinstance(value, str | int | float)}
    path = Path(named["path"] or f"{number}")
    name = f"{where[0]}/{number}"
    return Utterance(
        name,
        path,
        str(speaker),
        str(transcript),
        labels=labels,
        read=lambda: _samples(found[number][sound]),
    )


def _named(feature: Any, value: Any) -> Any:
    return feature.int2str(value) if hasattr(feature, "int2str") and value is not None else value


def _samples(sound: Mapping[str, Any]) -> np.ndarray:
    if not sound["bytes"]:
        return load_audio(sound["path"])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(sound["path"] or "recording").name  # errors name it
        file.write_bytes(sound["bytes"])
        return load_audio(file)
