"""Sentences with a similar-sounding word in place of the expected one, spoken by espeak-ng."""

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
_ENOUGH = 20  # sentences; a corpus with fewer is supplemented
# Values of espeak-ng's C interface (speak_lib.h).
_RATE_HZ, _SYNCHRONOUS, _UTF8, _SPEED = 22050, 2, 1, 1
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A sentence with two words for one place.

    Attributes:
        sentence: has "{}" in place of the word.
        expected: the word that fits.
        target: a word that sounds similar and does not fit.
    """

    sentence: str
    expected: str
    target: str


@functools.cache
def pairs() -> tuple[Pair, ...]:
    """Reads the sentences of the package."""
    file = resources.files("experiments").joinpath("assets", "pairs.tsv")
    lines = file.read_text(encoding="utf-8").splitlines()
    return tuple(Pair(*line.split("\t")) for line in lines if line)


def spoken_pairs(corpus: Corpus, sentences: int, voices: int) -> list[Utterance]:
    """Returns recordings with the labels `target` and `expected`.

    A corpus with few such recordings is supplemented by the package's sentences, if espeak-ng is
    installed: each with the target word and with the expected word (label `congruent`).

    Args:
        corpus: the recordings.
        sentences: most sentences of the package.
        voices: number of espeak-ng voices.

    Returns:
        The recordings.
    """
    labelled = [
        clip for clip in corpus.utterances if clip.label("target") and clip.label("expected")
    ]
    if len(labelled) >= _ENOUGH or not installed():
        return labelled
    return labelled + [
        _utterance(pair, voice, congruent)
        for pair in pairs()[:sentences]
        for voice in VOICES[:voices]
        for congruent in (False, True)
    ]


def _utterance(pair: Pair, voice: str, congruent: bool) -> Utterance:
    text = pair.sentence.format(pair.expected if congruent else pair.target)
    labels = {
        "target": pair.target,
        "expected": pair.expected,
        "congruent": congruent,
        "voice": voice,
        "lang": "en",
        "set": "pairs",
    }
    name, samples = f"{voice}: {text}", functools.partial(synthesise, text, voice)
    return Utterance(name, Path(name), voice, text, labels=labels, read=samples)


@functools.lru_cache(maxsize=64)
def synthesise(text: str, voice: str) -> Float[np.ndarray, "n"]:
    """Synthesises a text with espeak-ng.

    Args:
        text: the text.
        voice: an espeak-ng voice, such as those of `VOICES`.

    Returns:
        16 kHz samples, peak 0.7, with 0.2 s of silence at both ends; the same ones in every call.

    Raises:
        ValueError: an unknown voice.
        OSError: the library cannot be loaded.
    """
    library, chunks = _library(), []

    @_Callback
    def take(samples: "ctypes._Pointer[ctypes.c_short]", n: int, _: object) -> int:
        if samples and n:
            chunks.append(np.ctypeslib.as_array(samples, (n,)).copy())
        return 0

    library.espeak_SetSynthCallback(take)
    if library.espeak_SetVoiceByName(voice.encode()):
        raise ValueError(f"voice: expected a voice of espeak-ng, got {voice!r}.")
    library.espeak_SetParameter(_SPEED, WORDS_PER_MINUTE, 0)
    data = text.encode()
    library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 1, 0, _UTF8, None, None)
    # 320 / 441 of 22,050 Hz are 16 kHz.
    audio = scipy.signal.resample_poly(np.concatenate(chunks).astype(np.float64), 320, 441)
    return np.pad(audio * (0.7 / np.abs(audio).max()), SAMPLE_RATE // 5).astype(np.float32)


@functools.cache
def _library() -> ctypes.CDLL:
    import espeakng_loader

    library, data = (
        ctypes.CDLL(espeakng_loader.get_library_path()),
        espeakng_loader.get_data_path(),
    )
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), 0)
    if rate != _RATE_HZ:
        raise OSError(f"espeak-ng: expected a sample rate of {_RATE_HZ} Hz, got {rate}.")
    return library
