"""Selects the recordings for studies of hallucination."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

import jaxasr
from experiments.data import real_speech
from experiments.data.corpora import Corpus, Utterance
from experiments.data.real_speech import select_evenly
from experiments.item_cache import Arrays, ItemCache
from experiments.studies.selection import (
    WINDOW_S,
    first_window,
    language,
    select_speech,
    set_of,
    supported_languages,
)
from interventions.generation.transcripts import repetition, words
from jaxasr import Recogniser

# Operations that keep the words. The recipe of a recording lists the operations that made it.
_KEEPS_WORDS = {"load", "mix", "mixnoise", "speed", "lowpass", "highpass", "clip", "gain", "norm"}
# Values of the label `speech_kind`; acted speech, spelling and digits are excluded.
_PLAIN_SPEECH = (None, "read", "TTS")


def clean_speech(
    corpus: Corpus, asr: Recogniser, n: int, max_new_tokens: int = 224, at_least_s: float = 2.0
) -> list[Utterance]:
    """Selects recordings of plain English sentences, spread evenly over the sets.

    Args:
        corpus: the recordings.
        asr: the model that will transcribe the recordings.
        n: largest number of recordings.
        max_new_tokens: largest number of tokens per text. Recordings with longer transcripts are
            excluded.
        at_least_s: smallest length in seconds.

    Returns:
        Recordings with transcripts.
    """
    english = supported_languages(asr, ["en"])
    clips = [
        clip
        for clip in select_speech(
            corpus, len(corpus), english, labelled=True, at_least_s=at_least_s
        )
        if _is_clean(clip) and _fits(clip, asr, max_new_tokens)
    ]
    return select_evenly(clips, n, set_of)


def _is_clean(clip: Utterance) -> bool:
    # Noisy copies of clean recordings have no label of their own, only the name of their set.
    noisy = str(set_of(clip)).endswith("noisy")
    incongruent = clip.label("target")  # a sentence of E5 with an unexpected word
    plain = clip.label("speech_kind") in _PLAIN_SPEECH
    return plain and not incongruent and not noisy and has_countable_words(clip, at_least=3)


def has_countable_words(clip: Utterance, at_least: int) -> bool:
    """Checks that errors of words can be counted in the text of a recording.

    Numbers are refused, because they have several spellings ("202" and "2, 0, 2"). Recordings that
    repeat themselves are refused, because their transcripts do not.

    Args:
        clip: a recording with a transcript.
        at_least: smallest number of words.

    Example:
        >>> clips = [Utterance("a", "a.wav", transcript=text) for text in ("gate 4", "no number")]
        >>> [has_countable_words(clip, at_least=2) for clip in clips]
        [False, True]
    """
    text = words(clip.transcript, language(clip) or "en")
    has_numbers = any(map(str.isdigit, text))
    return len(text.split()) >= at_least and not has_numbers and not clip.label("audio_periodic")


def _fits(clip: Utterance, asr: Recogniser, max_new_tokens: int) -> bool:
    """Checks that the recording fits into the window, and that its text fits into the token limit.

    The text may be 25 % longer than the transcript. The end of the text takes one more token.
    """
    n_tokens = 1.25 * len(asr.tokenizer.encode(clip.transcript)) + 1
    return float(clip.label("duration_s") or 0) <= WINDOW_S and n_tokens <= max_new_tokens


def find_loops(
    asr: Recogniser, corpus: Corpus, n: int, tries: int, cache: ItemCache, max_new_tokens: int
) -> list[Utterance]:
    """Searches for recordings whose generated text is a repetition loop.

    Recordings with repetitive audio are skipped, because their correct text is repetitive.

    Args:
        asr: the model.
        corpus: the recordings.
        n: number of loops after which the search stops.
        tries: largest number of recordings to transcribe.
        cache: stores the measurements of each recording.
        max_new_tokens: largest number of tokens per text.

    Returns:
        The recordings whose text loops. A recording that was made to trigger loops has a transcript
        only if the operations of its recipe keep the words.
    """
    loops: list[Utterance] = []
    candidates = _candidates(corpus)[:tries]
    with cache.steps.bar("search for loops") as progress:
        measure = functools.partial(repetition_numbers, asr, max_new_tokens=max_new_tokens)
        measured = cache.one_by_one("loop search", candidates, measure)
        for position, (clip, numbers) in enumerate(zip(candidates, measured)):
            progress(position, len(candidates))
            if numbers["loop"]:
                loops.append(clip)
            if len(loops) == n:
                break
        progress(len(candidates), len(candidates))  # completes the bar if the search stopped early
    return loops


def repetition_numbers(asr: Recogniser, clip: Utterance, max_new_tokens: int) -> Arrays:
    """Measures the repetition in the text generated for a recording.

    Returns:
        The numbers of `interventions.generation.transcripts.repetition`.
    """
    memory, _ = asr.model.encode(jaxasr.log_mel(first_window(clip), asr.config.n_mels)[None])
    prompt = asr.tokenizer.prompt(language(clip) or "en")
    [ids] = asr.generate(memory, prompt, max_new_tokens=max_new_tokens).ids
    numbers = repetition(ids, asr.tokenizer.decode(ids))
    return {name: np.asarray(value) for name, value in numbers.items()}


def _candidates(corpus: Corpus) -> list[Utterance]:
    """Lists recordings that were made to trigger loops, then those that no recipe made.

    Triggers with and without a transcript alternate. Recordings with repetitive audio are excluded.
    """
    recipes = {str(row["path"]): row for row in _recipes(corpus)}
    transcripts = {clip.id: clip.transcript for clip in corpus.utterances}
    clips = [
        _with_words(clip, recipes.get(clip.id), transcripts)
        for clip in corpus.utterances
        if not recipes.get(clip.id, {}).get("audio_periodic")
    ]
    triggers = [clip for clip in clips if recipes.get(clip.id, {}).get("group") == "loop"]
    others = [clip for clip in clips if clip.id not in recipes]
    alternating = select_evenly(triggers, len(triggers), lambda clip: bool(clip.transcript))
    return alternating + select_evenly(others, len(others), set_of)


def _recipes(corpus: Corpus) -> Iterable[dict[str, Any]]:
    """Reads the recipes of the data folders; empty for another corpus."""
    folders = [path.resolve() for path in real_speech.folders()]
    if not any(corpus.utterances[0].path.resolve().is_relative_to(path) for path in folders):
        return []
    return [row for row in real_speech.rows("recipes") if row.get("path")]


def _with_words(
    clip: Utterance, recipe: dict[str, Any] | None, transcripts: dict[str, str]
) -> Utterance:
    """Adds the transcript of the source recording if all operations keep the words."""
    if recipe is None or clip.transcript:
        return clip
    operations = recipe["ops"]
    source, has_all_words = operations[0], all(map(_keeps_words, operations))
    text = transcripts.get(source.get("path", ""), "") if source["op"] == "load" else ""
    return dataclasses.replace(clip, transcript=text if has_all_words else "")


def _keeps_words(operation: dict[str, Any]) -> bool:
    # "load" with a start or an end loads only a part of the source, and so not all of its words.
    is_cut = operation["op"] == "load" and (operation.get("start") or operation.get("end"))
    return operation["op"] in _KEEPS_WORDS and not is_cut
