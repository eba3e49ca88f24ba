"""Which recordings of a corpus a study listens to: what is spoken, in which language, evenly over the sets."""

from collections.abc import Callable, Iterable
from typing import Any

from jaxtyping import Float
from numpy import ndarray

from experiments.analyses.lens import window
from experiments.data.corpora import Corpus, Utterance
from experiments.data.real_speech import spread
from jaxasr.config import N_SAMPLES, SAMPLE_RATE
from jaxasr.languages import language_code

WINDOW_S = N_SAMPLES / SAMPLE_RATE  # what the encoder hears at once
_LANGUAGE = ("lang", "locale", "language")  # labels of the manifests, of Common Voice, of others


def language(one: Utterance) -> str:
    """The code of the language that is spoken; "" where it is not known, as for what is not speech."""
    named = next((str(one.label(name)) for name in _LANGUAGE if one.label(name)), "")
    return language_code(named.split("-")[0]) if named else ""


def spoken(
    corpus: Corpus,
    n: int,
    languages: Iterable[str] | None = None,
    *,
    labelled: bool = False,
    sets: Iterable[str] | None = None,
    at_least_s: float = 0.0,
) -> list[Utterance]:
    """At most `n` recordings of speech for each language, evenly over the corpus's sets; always the same ones.

    `languages`: all that are spoken by default. `labelled`: only those with a transcript. `sets`: only of these sets.
    `at_least_s`: none that is known to be shorter.
    """
    known = [one for one in corpus.utterances if language(one) and (one.transcript or not labelled)]
    known = [one for one in known if sets is None or one.label("set") in set(sets)]
    known = [one for one in known if float(one.label("duration_s") or at_least_s) >= at_least_s]
    wanted = dict.fromkeys(map(language, known)) if languages is None else languages
    return [
        one
        for code in wanted
        for one in spread([k for k in known if language(k) == code], n, lambda u: u.label("set"))
    ]


def balanced(
    clips: Iterable[Utterance], label: Callable[[Utterance], str], n: int
) -> list[Utterance]:
    """At most `n` of each value of `label`, in every set equally many of each: no set gives a value away. "" is not known."""
    by_set: dict[Any, dict[str, list[Utterance]]] = {}
    for one in clips:
        if value := label(one):
            by_set.setdefault(one.label("set"), {}).setdefault(value, []).append(one)
    values = {value for kinds in by_set.values() for value in kinds}
    rows = []
    for kinds in by_set.values():
        every = [
            spread(kinds.get(value, []), len(kinds.get(value, [])), lambda one: one.speaker)
            for value in sorted(values)
        ]
        rows += list(zip(*every))
    return [one for row in spread(rows, n, lambda row: row[0].label("set")) for one in row]


def not_speech(corpus: Corpus, without: Iterable[str] = ()) -> list[Utterance]:
    """Recordings of anything but speech: those labelled so, or by a class of noise; none of the classes `without`, no room response."""
    left_out = set(without)
    classes = {one.id: str(one.label("noise_class") or "") for one in corpus.utterances}
    known = [
        one
        for one in corpus.utterances
        if not language(one) and (classes[one.id] or one.label("speech_kind") == "non-speech")
    ]
    return [
        one
        for one in known
        if classes[one.id] not in left_out and one.label("speech_kind") in (None, "non-speech")
    ]


def supported_languages(asr: Any, wanted: Iterable[str] | None) -> list[str] | None:
    """Those of the `wanted` languages (None: all) that a model can be asked about: of an English-only one, English."""
    if asr.tokenizer.is_multilingual:
        return None if wanted is None else list(wanted)
    return ["en"]


def cross_validation_groups(clips: Iterable[Utterance]) -> dict[str, str]:
    """By id, what may not be on both sides of a fold: the speaker; the recording where he is not known, or is the same in all."""
    clips = list(clips)
    named = len({one.speaker for one in clips}) > 1
    return {one.id: (named and one.speaker) or one.id for one in clips}


def first_window(one: Utterance) -> Float[ndarray, "n"]:
    """The samples of a recording, its first 30 s."""
    return window(one.samples())
