"""Adds noisy copies of all recordings to a corpus."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from experiments.data.corpora.utterance import Corpus, Utterance

CLEAN = "clean"  # value of the label `noise` for recordings without added noise
_AUDIO_SUFFIXES = {".flac", ".wav", ".ogg", ".mp3"}  # of recorded noise in a folder

AddNoise = Callable[[np.ndarray, int], np.ndarray]  # maps samples and a seed to noisy samples


def with_noise(corpus: Corpus, noises: Sequence[str]) -> Corpus:
    """Adds a copy of every utterance for each kind of noise.

    Args:
        corpus: the recordings.
        noises: kinds of noise. `snr:10` is white noise 10 dB below the recording. `snr:10:PATH` is
            recorded noise. PATH is a file, or a folder from which the utterance's id chooses a
            file. `interventions.corruptions.parse_source` lists other kinds, such as
            `bandstop:300-3000`.

    Returns:
        The corpus with the copies. The label `noise` is "clean" or the kind of noise.

    Raises:
        ValueError: a kind of noise is unknown, or there is no recording at PATH.

    Example:
        ```python
        corpus = with_noise(open_corpus("manifest.jsonl"), ["snr:10", "snr:0"])
        ```
    """
    if not noises:
        return corpus
    functions = {name: _noise_function(name) for name in noises}
    noisy = [
        _noisy_copy(clip, name, add_noise)
        for clip in corpus.utterances
        for name, add_noise in functions.items()
    ]
    clean = [
        dataclasses.replace(clip, labels={**clip.labels, "noise": CLEAN})
        for clip in corpus.utterances
    ]
    return dataclasses.replace(corpus, utterances=(*clean, *noisy))


def _noise_function(name: str) -> AddNoise:
    from interventions.corruptions import add, parse_source
    from jaxasr.audio import load_audio

    kind, _, arguments = name.partition(":")
    snr, _, path = arguments.partition(":")
    if kind == "snr" and path:
        files = _noise_files(name, Path(path))
        return lambda audio, seed: add(
            audio, load_audio(files[seed % len(files)]), float(snr), seed
        )
    if parse_source(name).make_recording is None:
        raise ValueError(
            f"noise {name!r}: expected noise that changes the recording, such as snr:10, "
            "snr:10:FOLDER or bandstop:300-3000."
        )
    return functools.partial(_apply_corruption, name)


def _apply_corruption(name: str, audio: np.ndarray, seed: int) -> np.ndarray:
    from interventions.corruptions import parse_source

    corrupt = parse_source(name, seed).make_recording
    assert corrupt is not None
    return corrupt(audio)


def _noise_files(name: str, path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _AUDIO_SUFFIXES)
    if not files:
        raise ValueError(
            f"noise {name!r}: expected a recording or a folder of recordings, found none at "
            f"{str(path)!r}."
        )
    return files


def _noisy_copy(clip: Utterance, name: str, add_noise: AddNoise) -> Utterance:
    # The seed depends on the id alone, so that every process adds the same noise.
    def read() -> np.ndarray:
        return add_noise(clip.samples(), zlib.crc32(clip.id.encode()))

    # `clip.samples()` applies start and end already, so the copy must not apply them again.
    labels = {**clip.labels, "noise": _short_name(name)}
    return dataclasses.replace(
        clip, id=f"{clip.id}|{name}", labels=labels, read=read, start_s=None, end_s=None
    )


def _short_name(name: str) -> str:
    """Drops the folders of a recording's path."""
    kind, snr, *path = name.split(":", 2)
    return ":".join([kind, snr, *(Path(part).name for part in path)])
