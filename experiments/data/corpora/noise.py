"""Recordings heard in noise: every utterance once more for each kind of noise, told apart by its label `noise`."""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from experiments.data.corpora.utterance import Corpus, Utterance
from interventions.corruptions import add, parse_source
from jaxasr.audio import load_audio

CLEAN = "clean"
_SOUND = {".flac", ".wav", ".ogg", ".mp3"}


def with_noise(corpus: Corpus, noises: Sequence[str]) -> Corpus:
    """Every utterance as it is (label `noise` "clean"), and once more for each of `noises`.

    `snr:10`: white noise 10 dB below the recording. `snr:10:PATH`: a recording of noise, the file PATH or one of that folder, drawn
    by the utterance's id. Also `bandstop:300-3000` and `mask:1.0-2.0`, see `interventions.corruptions.parse_source`. Raises ValueError.
    """
    if not noises:
        return corpus
    makers = {name: _maker(name) for name in noises}
    noisy = [_noisy(one, name, makers[name]) for one in corpus.utterances for name in makers]
    clean = [
        dataclasses.replace(one, labels={**one.labels, "noise": CLEAN}) for one in corpus.utterances
    ]
    return dataclasses.replace(corpus, utterances=(*clean, *noisy))


Maker = Callable[[np.ndarray, int], np.ndarray]


def _maker(name: str) -> Maker:
    kind, _, rest = name.partition(":")
    snr, _, where = rest.partition(":")
    if kind != "snr" or not where:
        if not parse_source(name).of:
            raise ValueError(
                f"noise {name!r}: expected noise that is heard, such as snr:10, snr:10:FOLDER or bandstop:300-3000."
            )
        return lambda audio, seed: parse_source(name, seed).of(audio)  # pyright: ignore[reportOptionalCall]
    files = _recordings(name, Path(where))
    return lambda audio, seed: add(audio, load_audio(files[seed % len(files)]), float(snr), seed)


def _recordings(name: str, where: Path) -> list[Path]:
    files = (
        [where]
        if where.is_file()
        else sorted(path for path in where.rglob("*") if path.suffix.lower() in _SOUND)
    )
    if not files:
        raise ValueError(
            f"noise {name!r}: expected a recording or a folder of recordings, found none at {str(where)!r}."
        )
    return files


def _noisy(one: Utterance, name: str, maker: Maker) -> Utterance:
    def read() -> np.ndarray:
        return maker(one.samples(), zlib.crc32(one.id.encode()))

    # What is read is cut already.
    labels = {**one.labels, "noise": _short(name)}
    return dataclasses.replace(
        one, id=f"{one.id}|{name}", labels=labels, read=read, start_s=None, end_s=None
    )


def _short(name: str) -> str:
    """Without the folders that lead to a recording of noise."""
    kind, snr, *where = name.split(":", 2)
    return ":".join([kind, snr, *(Path(one).name for one in where)])
