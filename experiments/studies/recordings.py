"""Selects the recordings for studies of hallucination."""

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

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
from jaxasr.config import SAMPLE_RATE

# Operations that keep the words. The recipe of a recording lists the operations that made it.
_KEEPS_WORDS = {"load", "mix", "mixnoise", "speed", "lowpass", "highpass", "clip", "gain", "norm"}
# Values of the label `speech_kind`; acted speech, spelling and digits are excluded.
_PLAIN_SPEECH = (None, "read", "TTS")
# Exponents of the amplitude spectrum, which is proportional to 1 / frequency ** exponent.
_NOISE_EXPONENT = {"white": 0, "pink": 0.5, "brown": 1}


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
    return plain and not incongruent and not noisy and _is_sentence(clip.transcript)


def _is_sentence(transcript: str) -> bool:
    """Accepts texts of at least three words if fewer than half of the words contain digits.

    Numbers have several spellings, so they are often counted as word errors.
    """
    tokens = words(transcript).split()
    n_numbers = sum(any(map(str.isdigit, token)) for token in tokens)
    return len(tokens) >= 3 and 2 * n_numbers < len(tokens)


def _fits(clip: Utterance, asr: Recogniser, max_new_tokens: int) -> bool:
    """Checks that the recording fits into the window, and that its text fits into the token limit.

    The text may be 25 % longer than the transcript. The end of the text takes one more token.
    """
    n_tokens = 1.25 * len(asr.tokenizer.encode(clip.transcript)) + 1
    return float(clip.label("duration_s") or 0) <= WINDOW_S and n_tokens <= max_new_tokens


def nonspeech_or_noise(corpus: Corpus, n: int) -> list[Utterance]:
    """Selects at most `n` recordings without speech, spread evenly over the sets.

    Returns:
        The recordings. If the corpus has none without speech, `n` synthetic noises.
    """
    clips = [
        clip
        for clip in corpus.utterances
        if clip.label("speech_kind") == "non-speech" or clip.label("noise_class")
    ]
    return select_evenly(clips, n, set_of) if clips else synthetic_noises(n)


def synthetic_noises(n: int, seconds: float = 5.0) -> list[Utterance]:
    """Makes `n` recordings of white, pink and brown noise at two levels.

    Example:
        >>> [noise.id for noise in synthetic_noises(2)]
        ['white-0.1-0', 'pink-0.1-1']
    """
    colours, levels = tuple(_NOISE_EXPONENT), (0.1, 0.01)  # levels are root mean squares
    # The colour changes with every noise, and the level after every third noise.
    return [
        _make_noise(seed, colours[seed % 3], levels[seed // 3 % 2], seconds) for seed in range(n)
    ]


def _make_noise(seed: int, colour: str, level: float, seconds: float) -> Utterance:
    name = f"{colour}-{level}-{seed}"
    labels = {"set": "noise", "noise_class": colour, "duration_s": seconds}
    samples = functools.partial(coloured_noise, seed, colour, level, seconds)
    return Utterance(name, Path(name), labels=labels, read=samples)


def coloured_noise(seed: int, colour: str, level: float, seconds: float) -> Float[np.ndarray, "n"]:
    """Makes stationary noise.

    Args:
        seed: seed of the random numbers.
        colour: "white" (constant power), "pink" (power proportional to 1/frequency) or "brown"
            (power proportional to 1/frequency²).
        level: root mean square of the samples.
        seconds: length in seconds.

    Returns:
        16 kHz samples.

    Example:
        >>> samples = coloured_noise(0, "pink", level=0.1, seconds=1.0)
        >>> len(samples), round(float(np.sqrt((samples**2).mean())), 3)
        (16000, 0.1)
    """
    n = round(seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    # Below 20 Hz, which is inaudible, the power is constant.
    frequency = np.maximum(np.fft.rfftfreq(n, 1 / SAMPLE_RATE), 20)
    samples = np.fft.irfft(spectrum / frequency ** _NOISE_EXPONENT[colour], n)
    return (samples * level / np.sqrt((samples**2).mean())).astype(np.float32)


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
