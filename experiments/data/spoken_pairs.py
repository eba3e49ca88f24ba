"""Synthesises sentences whose expected word is replaced by a similar-sounding word."""

import ctypes
import dataclasses
import functools
from importlib import resources
from pathlib import Path

import numpy as np
import scipy.signal
from jaxtyping import Float

from experiments.data.corpora import Corpus, Utterance
from experiments.data.phonemes import espeak_installed
from jaxasr.config import SAMPLE_RATE

# Voices of espeak-ng: accents of English, some with another speaker (+m7 is male, +f2 female).
VOICES = ("en-us", "en-gb-x-rp+f2", "en-us+m7", "en-gb-scotland", "en-us+f4", "en-gb-x-rp")
WORDS_PER_MINUTE = 160  # speed of speech
_MIN_RECORDINGS = 20  # a corpus with fewer recordings is extended by synthetic ones
# Values of espeak-ng's C interface (speak_lib.h): sample rate, playback mode, encoding of the text,
# and number of the parameter for the speed.
_RATE_HZ, _SYNCHRONOUS, _UTF8, _SPEED = 22050, 2, 1, 1
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A sentence with a gap, and two words that can fill it.

    Attributes:
        sentence: text with "{}" as the gap.
        expected: the word that fits.
        target: a word that sounds similar and does not fit.

    Example:
        >>> Pair("a bowl of white {}", "rice", "lice").sentence.format("lice")
        'a bowl of white lice'
    """

    sentence: str
    expected: str
    target: str


@functools.cache
def pairs() -> tuple[Pair, ...]:
    """Reads the sentences that the package contains.

    Example:
        >>> pair = pairs()[0]
        >>> pair.sentence.count("{}")
        1
    """
    file = resources.files("experiments").joinpath("assets", "pairs.tsv")
    lines = file.read_text(encoding="utf-8").splitlines()
    return tuple(Pair(*line.split("\t")) for line in lines if line)


def spoken_pairs(corpus: Corpus, sentences: int, voices: int) -> list[Utterance]:
    """Returns recordings with the labels `target` and `expected`.

    Adds synthetic recordings if the corpus has fewer than 20 such recordings and espeak-ng is
    installed. Each voice speaks each sentence of the package once with the target word and once
    with the expected word. The label `congruent` is True for the expected word.

    Args:
        corpus: the recordings.
        sentences: largest number of sentences of the package to synthesise.
        voices: number of voices that speak each sentence.

    Returns:
        Recordings of the corpus, then synthetic recordings.
    """
    labelled = [
        clip for clip in corpus.utterances if clip.label("target") and clip.label("expected")
    ]
    if len(labelled) >= _MIN_RECORDINGS or not espeak_installed():
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
    name = f"{voice}: {text}"
    return Utterance(
        id=name,
        path=Path(name),
        speaker=voice,
        transcript=text,
        labels=labels,
        read=functools.partial(synthesise_sentence, text, voice),
    )


@functools.lru_cache(maxsize=64)
def synthesise_sentence(text: str, voice: str) -> Float[np.ndarray, "n"]:
    """Synthesises a text with espeak-ng.

    Args:
        text: the text to speak.
        voice: an espeak-ng voice, such as those of `VOICES`.

    Returns:
        Samples at 16 kHz, with a peak of 0.7 and 0.2 s of silence at both ends.

    Raises:
        ValueError: an unknown voice.
        OSError: the espeak-ng library cannot be loaded.
    """
    library, chunks = _load_espeak(), []

    @_Callback
    def collect(samples: "ctypes._Pointer[ctypes.c_short]", n: int, _: object) -> int:
        # espeak-ng reuses its buffer after this call, so copy the samples.
        if samples and n:
            chunks.append(np.ctypeslib.as_array(samples, (n,)).copy())
        return 0  # continue

    library.espeak_SetSynthCallback(collect)
    if library.espeak_SetVoiceByName(voice.encode()):
        raise ValueError(f"voice: expected a voice of espeak-ng, got {voice!r}.")
    library.espeak_SetParameter(_SPEED, WORDS_PER_MINUTE, 0)
    data = text.encode()
    # The arguments 0, 1, 0 mean: begin at position 0, positions count characters, no end position.
    library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 1, 0, _UTF8, None, None)
    # 22,050 Hz × 320 / 441 = 16,000 Hz.
    audio = scipy.signal.resample_poly(np.concatenate(chunks).astype(np.float64), 320, 441)
    return np.pad(audio * (0.7 / np.abs(audio).max()), SAMPLE_RATE // 5).astype(np.float32)


@functools.cache
def _load_espeak() -> ctypes.CDLL:
    import espeakng_loader

    library, data = (
        ctypes.CDLL(espeakng_loader.get_library_path()),
        espeakng_loader.get_data_path(),
    )
    # The zeros are the default length of the sound buffer, and no further options.
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), 0)
    if rate != _RATE_HZ:
        raise OSError(f"espeak-ng: expected a sample rate of {_RATE_HZ} Hz, got {rate}.")
    return library
