"""Adds noisy copies of all recordings to a corpus."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from experiments.data.corpora.utterance import Corpus, Utterance
from interventions.corruptions import add, parse_source
from jaxasr.audio import load_audio

CLEAN = "clean"
_SUFFIXES = {".flac", ".wav", ".ogg", ".mp3"}

AddNoise = Callable[[np.ndarray, int], np.ndarray]  # samples and seed


def with_noise(corpus: Corpus, noises: Sequence[str]) -> Corpus:
    """Adds a copy of every utterance for each kind of noise.

    Args:
        corpus: the recordings.
        noises: `snr:10`, white noise 10 dB below the recording; `snr:10:PATH`, a recording of
            noise: the file PATH, or one of that folder, which the utterance's id decides;
            `bandstop:300-3000` or `mask:1.0-2.0` (see `interventions.corruptions.parse_source`).

    Returns:
        The corpus with the copies. The label `noise` is "clean" or the kind of noise.

    Raises:
        ValueError: an unknown kind of noise, or no recording at PATH.
    """
    if not noises:
        return corpus
    makers = {name: _maker(name) for name in noises}
    noisy = [_copy(clip, name, makers[name]) for clip in corpus.utterances for name in makers]
    clean = [
        dataclasses.replace(clip, labels={**clip.labels, "noise": CLEAN})
        for clip in corpus.utterances
    ]
    return dataclasses.replace(corpus, utterances=(*clean, *noisy))


def _maker(name: str) -> AddNoise:
    kind, _, arguments = name.partition(":")
    snr, _, path = arguments.partition(":")
    if kind == "snr" and path:
        files = _recordings(name, Path(path))
        return lambda audio, seed: add(
            audio, load_audio(files[seed % len(files)]), float(snr), seed
        )
    if parse_source(name).make_recording is None:
        raise ValueError(
            f"noise {name!r}: expected noise that changes the recording, such as snr:10, "
            "snr:10:FOLDER or bandstop:300-3000."
        )
    return functools.partial(_corrupt, name)


def _corrupt(name: str, audio: np.ndarray, seed: int) -> np.ndarray:
    corrupt = parse_source(name, seed).make_recording
    assert corrupt is not None
    return corrupt(audio)


def _recordings(name: str, path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise ValueError(
            f"noise {name!r}: expected a recording or a folder of recordings, found none at "
            f"{str(path)!r}."
        )
    return files


def _copy(clip: Utterance, name: str, add_noise: AddNoise) -> Utterance:
    def read() -> np.ndarray:
        return add_noise(clip.samples(), zlib.crc32(clip.id.encode()))

    # `clip.samples()` has been cut already, so the copy has no start and end.
    labels = {**clip.labels, "noise": _short_name(name)}
    return dataclasses.replace(
        clip, id=f"{clip.id}|{name}", labels=labels, read=read, start_s=None, end_s=None
    )


def _short_name(name: str) -> str:
    """Drops the folders of a recording's path."""
    kind, snr, *path = name.split(":", 2)
    return ":".join([kind, snr, *(Path(part).name for part in path)])
