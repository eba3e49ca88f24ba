"""Sentences in which one word is not the one that fits but one that sounds like it, spoken by espeak-ng (the extra `phonemes`)."""

import ctypes
import dataclasses
import functools
from importlib import resources
from pathlib import Path

import numpy as np
import scipy.signal
from jaxtyping import Float

from experiments.data.corpora import Corpus, Utterance
from experiments.data.phonemes import installed
from jaxasr.config import SAMPLE_RATE

VOICES = ("en-us", "en-gb-x-rp+f2", "en-us+m7", "en-gb-scotland", "en-us+f4", "en-gb-x-rp")
WORDS_PER_MINUTE = 160
_FEW = 20
_RATE, _SYNCHRONOUS, _UTF8, _SPEED = 22050, 2, 1, 1
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclasses.dataclass(frozen=True)
class Pair:
    """`sentence` with "{}" in the place of the word; `target` is said, `expected` is what fits there."""

    sentence: str
    expected: str
    target: str


@functools.cache
def pairs() -> tuple[Pair, ...]:
    """The sentences that come with the package."""
    text = (
        resources.files("experiments").joinpath("assets", "pairs.tsv").read_text(encoding="utf-8")
    )
    return tuple(Pair(*line.split("\t")) for line in text.splitlines() if line)


def spoken_pairs(corpus: Corpus, sentences: int, voices: int) -> list[Utterance]:
    """Recordings with the labels `target` and `expected`: those of the corpus; where they are few, also the package's `sentences` in
    several `voices`, each said with the odd word and with the one that fits (`congruent`). These only where espeak-ng is installed."""
    own = [one for one in corpus.utterances if one.label("target") and one.label("expected")]
    if len(own) >= _FEW or not installed():
        return own
    return own + [
        _utterance(pair, voice, fits)
        for pair in pairs()[:sentences]
        for voice in VOICES[:voices]
        for fits in (False, True)
    ]


def _utterance(pair: Pair, voice: str, fits: bool) -> Utterance:
    text = pair.sentence.format(pair.expected if fits else pair.target)
    labels = {
        "target": pair.target,
        "expected": pair.expected,
        "congruent": fits,
        "voice": voice,
        "lang": "en",
        "set": "pairs",
    }
    name = f"{voice}: {text}"
    return Utterance(
        name, Path(name), voice, text, labels=labels, read=functools.partial(say, text, voice)
    )


@functools.lru_cache(maxsize=64)
def say(text: str, voice: str) -> Float[np.ndarray, "n"]:
    """`text` by a voice of espeak-ng, 16 kHz, peak 0.7, 0.2 s of silence at both ends; the same every time.

    Raises ValueError for an unknown voice, OSError when the library cannot be loaded.
    """
    library, parts = _library(), []

    @_Callback
    def take(samples: object, n: int, _: object) -> int:
        if samples and n:
            parts.append(np.ctypeslib.as_array(samples, (n,)).copy())
        return 0

    library.espeak_SetSynthCallback(take)
    if library.espeak_SetVoiceByName(voice.encode()):
        raise ValueError(f"voice: espeak-ng has no {voice!r}.")
    library.espeak_SetParameter(_SPEED, WORDS_PER_MINUTE, 0)
    said = text.encode()
    library.espeak_Synth(said, ctypes.c_size_t(len(said) + 1), 0, 1, 0, _UTF8, None, None)
    audio = scipy.signal.resample_poly(np.concatenate(parts).astype(np.float64), 320, 441)
    return np.pad(audio * (0.7 / np.abs(audio).max()), SAMPLE_RATE // 5).astype(np.float32)


@functools.cache
def _library() -> ctypes.CDLL:
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    if rate != _RATE:
        raise OSError(f"espeak-ng: expected to speak at {_RATE} Hz, got {rate}.")
    return library
