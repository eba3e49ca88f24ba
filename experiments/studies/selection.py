"""Selects the recordings of a study by language, label and set.

The selection is not random. The label `set` names the data set that a recording comes from.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from jaxtyping import Float
from numpy import ndarray

from experiments.analyses.lens import cut_window
from experiments.data.corpora import Corpus, Utterance
from experiments.data.real_speech import select_evenly
from jaxasr import Recogniser
from jaxasr.config import N_SAMPLES, SAMPLE_RATE
from jaxasr.languages import language_code

WINDOW_S = N_SAMPLES / SAMPLE_RATE  # seconds of audio in the encoder's input
# Names of the language label in our manifests, in Common Voice and in other corpora.
_LANGUAGE_LABELS = ("lang", "locale", "language")


def language(clip: Utterance) -> str:
    """Returns the code of the spoken language; "" if unknown, none or several ("en+zh").

    Example:
        >>> language(Utterance("a", "a.wav", labels={"locale": "pt-BR"}))
        'pt'
    """
    values = (str(clip.label(name)) for name in _LANGUAGE_LABELS if clip.label(name))
    label = next(values, "")
    return language_code(label.split("-")[0]) if label and "+" not in label else ""


def set_of(clip: Utterance) -> Any:
    """Returns the label `set`, which names the data set that a recording comes from.

    Example:
        >>> set_of(Utterance("a", "a.wav", labels={"set": "timit"}))
        'timit'
    """
    return clip.label("set")


def select_speech(
    corpus: Corpus,
    n: int,
    languages: Iterable[str] | None = None,
    *,
    labelled: bool = False,
    at_least_s: float = 0.0,
) -> list[Utterance]:
    """Selects recordings of speech, spread evenly over the corpus's sets.

    Args:
        corpus: the recordings.
        n: largest number of recordings per language.
        languages: language codes; None for all languages.
        labelled: whether to require a transcript.
        at_least_s: smallest length in seconds. Recordings of unknown length are accepted.

    Returns:
        The recordings, grouped by language.
    """
    clips = [
        clip
        for clip in corpus.utterances
        if language(clip)
        and (clip.transcript or not labelled)
        and float(clip.label("duration_s") or at_least_s) >= at_least_s
    ]
    by_language: dict[str, list[Utterance]] = {}
    for clip in clips:
        by_language.setdefault(language(clip), []).append(clip)
    codes = by_language if languages is None else languages
    return [clip for code in codes for clip in select_evenly(by_language.get(code, []), n, set_of)]


def select_balanced(
    clips: Iterable[Utterance], label: Callable[[Utterance], str], n: int
) -> list[Utterance]:
    """Selects equally many recordings of each label value within every set.

    The set of a recording then does not predict the value.

    Args:
        clips: the recordings.
        label: function that returns the label value of a recording; "" means unknown.
        n: largest number of recordings per value.

    Returns:
        The recordings, in an order in which the values alternate.

    Example:
        >>> clips = [Utterance(name, "a.wav") for name in ("F1", "F2", "M1")]
        >>> [clip.id for clip in select_balanced(clips, lambda clip: clip.id[0], 5)]
        ['F1', 'M1']
    """
    by_set: dict[Any, dict[str, list[Utterance]]] = {}
    for clip in clips:
        if value := label(clip):
            by_set.setdefault(set_of(clip), {}).setdefault(value, []).append(clip)
    values = sorted({value for by_value in by_set.values() for value in by_value})
    rows = []
    for by_value in by_set.values():
        # A row has one recording of each value. `zip` stops at the value with the fewest.
        columns = (by_value.get(value, []) for value in values)
        rows += list(zip(*(select_evenly(column, len(column), speaker_of) for column in columns)))
    return [clip for row in select_evenly(rows, n, lambda row: set_of(row[0])) for clip in row]


def speaker_of(clip: Utterance) -> str:
    """Returns the speaker's name; "" if unknown.

    Example:
        >>> speaker_of(Utterance("a", "a.wav", speaker="Ann"))
        'Ann'
    """
    return clip.speaker


def limit_per_speaker(clips: Iterable[Utterance], n: int) -> list[Utterance]:
    """Keeps at most `n` recordings of each speaker, spread evenly over the speaker's recordings.

    All recordings are kept if their speaker is unknown, or if there is only one speaker.

    Args:
        clips: the recordings.
        n: largest number of recordings per speaker.

    Returns:
        The recordings, in their order. `cross_validation_groups` names their independent units.

    Example:
        >>> clips = [Utterance(f"{n}", "a.wav", name) for n, name in enumerate(("A", "A", ""))]
        >>> [clip.id for clip in limit_per_speaker(clips, 1)]
        ['0', '2']
    """
    clips = list(clips)
    if len({clip.speaker for clip in clips}) < 2:
        return clips
    by_speaker: dict[str, list[Utterance]] = {}
    for clip in clips:
        by_speaker.setdefault(clip.speaker, []).append(clip)
    kept = {
        clip.id
        for speaker, own in by_speaker.items()
        for clip in (select_evenly(own, n, lambda _: None) if speaker else own)
    }
    return [clip for clip in clips if clip.id in kept]


def of_few_per_speaker(corpus: Corpus, n: int) -> Corpus:
    """Returns the corpus with at most `n` recordings of each speaker; see `limit_per_speaker`."""
    return dataclasses.replace(corpus, utterances=tuple(limit_per_speaker(corpus.utterances, n)))


def select_nonspeech(corpus: Corpus, without: Iterable[str] = ()) -> list[Utterance]:
    """Selects all recordings that are labelled as non-speech or with a class of noise.

    Recordings with a language are excluded, and so are room impulse responses, whose `speech_kind`
    is "rir".

    Args:
        corpus: the recordings.
        without: values of the label `noise_class` to exclude.

    Returns:
        The recordings without speech.
    """
    excluded = set(without)
    return [
        clip
        for clip in corpus.utterances
        if not language(clip)
        and (_noise_class(clip) or clip.label("speech_kind") == "non-speech")
        and _noise_class(clip) not in excluded
        and clip.label("speech_kind") in (None, "non-speech")
    ]


def _noise_class(clip: Utterance) -> str:
    return str(clip.label("noise_class") or "")


def supported_languages(asr: Recogniser, languages: Iterable[str] | None) -> list[str] | None:
    """Limits languages to those that the model supports.

    Args:
        asr: the model.
        languages: language codes; None for all languages.

    Returns:
        `languages` for a multilingual model, `["en"]` for an English-only model.
    """
    # Audio language models are multilingual.
    if asr.config.audio_language is not None or asr.tokenizer.is_multilingual:
        return None if languages is None else list(languages)
    return ["en"]


def cross_validation_groups(clips: Iterable[Utterance]) -> dict[str, str]:
    """Returns the cross-validation group of each recording, by recording id.

    The group is the speaker's name. If the speaker is unknown, or if all recordings have the same
    speaker, the group is the recording's id.

    Example:
        >>> clips = [Utterance("a", "a.wav", speaker="Ann"), Utterance("b", "b.wav")]
        >>> cross_validation_groups(clips)
        {'a': 'Ann', 'b': 'b'}
    """
    clips = list(clips)
    several_speakers = len({clip.speaker for clip in clips}) > 1
    # `or` also replaces an unknown speaker, which is "".
    return {clip.id: (several_speakers and clip.speaker) or clip.id for clip in clips}


def first_window(clip: Utterance) -> Float[ndarray, "n"]:
    """Returns the first 30 s of a recording, as 16 kHz samples."""
    return cut_window(clip.samples())
