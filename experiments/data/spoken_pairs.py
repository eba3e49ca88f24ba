"""Synthesises sentences whose expected word is replaced by a similar-sounding word."""

import dataclasses
import functools
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Float

from experiments.data.corpora import Corpus, Utterance
from experiments.data.espeak import synthesise_sentence
from experiments.data.phonemes import espeak_installed
from experiments.data.spoken_words import synthesise_word, voice_installed

# Voices of espeak-ng: accents of English, some with another speaker (+m7 is male, +f2 female).
ESPEAK_VOICES = ("en-us", "en-gb-x-rp+f2", "en-us+m7", "en-gb-scotland", "en-us+f4", "en-gb-x-rp")
# Voice "joe" of Piper, and the speed at which it is played. The speed changes pitch and formants.
PIPER_SPEEDS = {"joe": 1.0, "joe, higher": 1.17, "joe, lower": 0.9}
CARRIER = "The next word is {}."  # any word fits
_MIN_RECORDINGS = 20  # synthetic voices replace a corpus with fewer recordings


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


@dataclasses.dataclass(frozen=True)
class Reading:
    """A sentence that one voice reads with the odd word and with the fitting word.

    Attributes:
        pair: the sentence and its two words.
        voice: name of the voice or speaker.
        odd: the sentence with the target word, which does not fit.
        fitting: the sentence with the expected word. None: no such recording exists.
        alone: the target word alone. None: no such recording exists.
        carrier: the target word in `CARRIER`, in which any word fits. None: no such recording
            exists.
        spliced: whether the words are spliced into a recording of real speech.
    """

    pair: Pair
    voice: str
    odd: Utterance
    fitting: Utterance | None = None
    alone: Utterance | None = None
    carrier: Utterance | None = None
    spliced: bool = False

    @property
    def id(self) -> str:
        """Name of the reading, unique for each voice and sentence."""
        return self.odd.id


def available_voices() -> tuple[str, ...]:
    """Lists the installed voices, the natural ones first."""
    piper = tuple(PIPER_SPEEDS) if voice_installed() else ()
    return piper + (ESPEAK_VOICES if espeak_installed() else ())


def readings(corpus: Corpus, sentences: Sequence[Pair], voices: int) -> list[Reading]:
    """Returns readings of sentences with an odd word.

    Uses the recordings of the corpus with the labels `target` and `expected`, if there are at least
    20. The label `congruent` is true for the expected word. Otherwise synthetic voices read the
    sentences.

    Args:
        corpus: the recordings.
        sentences: the sentences to synthesise.
        voices: number of voices that read each sentence.

    Returns:
        The readings, sentence by sentence.
    """
    labelled = [
        clip for clip in corpus.utterances if clip.label("target") and clip.label("expected")
    ]
    if len(labelled) >= _MIN_RECORDINGS:
        return _from_corpus(labelled)
    chosen = available_voices()[:voices]
    return [_synthetic(pair, voice) for pair in sentences for voice in chosen]


def _from_corpus(labelled: Sequence[Utterance]) -> list[Reading]:
    """Joins recordings of the same sentence and speaker."""
    odd: dict[tuple[Pair, str], Utterance] = {}
    fitting: dict[tuple[Pair, str], Utterance] = {}
    for clip in labelled:
        target, expected = str(clip.label("target")), str(clip.label("expected"))
        spoken = expected if clip.label("congruent") else target
        # `\b` marks word boundaries, so that the letters within a longer word are not replaced.
        sentence = re.sub(rf"\b{re.escape(spoken)}\b", "{}", clip.transcript, count=1)
        key = Pair(sentence, expected, target), str(clip.label("voice") or clip.speaker)
        (fitting if clip.label("congruent") else odd)[key] = clip
    return [
        Reading(pair, voice, clip, fitting.get((pair, voice)))
        for (pair, voice), clip in odd.items()
        if "{}" in pair.sentence
    ]


def _synthetic(pair: Pair, voice: str) -> Reading:
    return Reading(
        pair,
        voice,
        odd=_utterance(pair, voice, pair.sentence.format(pair.target)),
        fitting=_utterance(pair, voice, pair.sentence.format(pair.expected)),
        alone=_utterance(pair, voice, f"{pair.target.capitalize()}."),
        carrier=_utterance(pair, voice, CARRIER.format(pair.target)),
    )


def _utterance(pair: Pair, voice: str, text: str) -> Utterance:
    name = f"{voice}: {text}"
    return Utterance(
        id=name,
        path=Path(name),
        speaker=voice,
        transcript=text,
        labels={"target": pair.target, "expected": pair.expected, "lang": "en", "set": "pairs"},
        read=functools.partial(synthesise, text, voice),
    )


def synthesise(text: str, voice: str) -> Float[np.ndarray, "n"]:
    """Synthesises a text with one of `available_voices`."""
    if voice in PIPER_SPEEDS:
        return synthesise_word(text.rstrip("."), PIPER_SPEEDS[voice])
    return synthesise_sentence(text, voice)
