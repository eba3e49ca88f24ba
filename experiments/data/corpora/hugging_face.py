"""Reads datasets of the Hugging Face hub, such as `hf:NAME` or `hf:NAME:CONFIG@SPLIT`."""

import importlib.util
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.corpora.utterance import Utterance

# A line for the error message that lists the supported kinds of corpora.
LAYOUT_DESCRIPTION = (
    "Hugging Face: hf:NAME[:CONFIG][@SPLIT], such as "
    "hf:mozilla-foundation/common_voice_16_1:ja@test (needs jaxasr[datasets])"
)
# Names that datasets give to the same column. Of several, the first one in this list is used.
_TRANSCRIPT_COLUMNS = ("transcript", "sentence", "text", "transcription", "normalized_text")
_SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")
_ADDRESS = re.compile(r"hf:(?P<name>[^:@]+)(?::(?P<config>[^:@]+))?(?:@(?P<split>[^:@]+))?")


def find(address: str) -> re.Match[str] | None:
    """Returns the parts of `address`, or None if it is not an address of the hub.

    Example:
        >>> find("hf:google/fleurs:en_us@test")["config"]
        'en_us'
    """
    return _ADDRESS.fullmatch(address)


def read(address: re.Match[str]) -> list[Utterance]:
    """Reads the rows of a split, "train" by default.

    Audio is decoded only when the samples of an utterance are read.

    Args:
        address: the match that `find` returned.

    Returns:
        Utterances. Columns with texts and numbers are labels.

    Raises:
        ValueError: the package `datasets` is not installed, or the dataset does not have exactly
            one column of audio.
    """
    if not importlib.util.find_spec("datasets"):
        raise ValueError(
            "hf: expected the package `datasets`, which is not installed. "
            "pip install 'jaxasr[datasets]'."
        )
    import datasets

    split = address["split"] or "train"
    table: Any = datasets.load_dataset(address["name"], address["config"], split=split)
    audio_columns = [
        name for name, feature in table.features.items() if type(feature).__name__ == "Audio"
    ]
    if len(audio_columns) != 1:
        raise ValueError(
            f"hf: expected one column of audio in {address['name']!r}, "
            f"got {audio_columns or list(table.features)}."
        )
    [audio_column] = audio_columns
    table = table.cast_column(audio_column, datasets.Audio(decode=False))
    return [_utterance(address[0], table, audio_column, index) for index in range(len(table))]


def _utterance(address: str, table: Any, audio_column: str, index: int) -> Utterance:
    row = {name: _class_name(table.features[name], value) for name, value in table[index].items()}
    audio = row.pop(audio_column)
    transcript, speaker = (
        next((row.pop(name) for name in names if name in row), "")
        for names in (_TRANSCRIPT_COLUMNS, _SPEAKER_COLUMNS)
    )
    return Utterance(
        id=f"{address}/{index}",
        path=Path(audio["path"] or f"{index}"),
        speaker="" if speaker is None else str(speaker),
        transcript="" if transcript is None else str(transcript),
        labels={name: value for name, value in row.items() if isinstance(value, str | int | float)},
        # Each call reads the row again, so that the bytes of the audio do not stay in memory.
        read=lambda: _read_audio(table[index][audio_column]),
    )


def _class_name(feature: Any, value: Any) -> Any:
    """Converts a class number to its name, and returns other values unchanged."""
    return feature.int2str(value) if hasattr(feature, "int2str") and value is not None else value


def _read_audio(audio: Mapping[str, Any]) -> np.ndarray:
    from jaxasr.audio import load_audio

    if not audio["bytes"]:
        return load_audio(audio["path"])
    with tempfile.TemporaryDirectory() as folder:
        # The temporary file has the original name, because error messages mention it.
        file = Path(folder) / Path(audio["path"] or "recording").name
        file.write_bytes(audio["bytes"])
        return load_audio(file)
