"""Recordings that studies of hallucination listen to: those that make a model loop, clean speech, and what is no speech."""

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
from experiments.data.real_speech import spread
from experiments.item_cache import Arrays, Keep
from experiments.studies.selection import (
    WINDOW_S,
    first_window,
    language,
    spoken,
    supported_languages,
)
from interventions.generation.transcripts import repetition, words
from jaxasr.config import SAMPLE_RATE
from jaxasr.rules import rules_for

# What leaves the words as they are; a cut, a reversal, a repetition or a second voice does not.
_KEEPS_WORDS = {"load", "mix", "mixnoise", "speed", "lowpass", "highpass", "clip", "gain", "norm"}
_PLAIN = (None, "read", "TTS")  # kinds of speech that are neither acted, nor spelled, nor digits


def clean(
    corpus: Corpus, asr: Any, n: int, max_new_tokens: int = 224, at_least_s: float = 2.0
) -> list[Utterance]:
    """`n` recordings of plain English sentences with transcripts that can be written within `max_new_tokens`, evenly over the sets."""
    known = spoken(
        corpus, len(corpus), supported_languages(asr, ["en"]), labelled=True, at_least_s=at_least_s
    )
    return spread(
        [one for one in known if _is_clean(one) and _fits(one, asr, max_new_tokens)],
        n,
        lambda one: one.label("set"),
    )


def _is_clean(one: Utterance) -> bool:
    """No sentence with a word that does not fit, none in noise: of such twins only the name of the set says what they are."""
    noisy = str(one.label("set")).endswith("noisy")
    return (
        one.label("speech_kind") in _PLAIN
        and not one.label("target")
        and not noisy
        and _is_sentence(one.transcript)
    )


def _is_sentence(transcript: str) -> bool:
    """At least three words, of which most are no numbers: a row of numbers is written in many ways, and all but one count as errors."""
    said = words(transcript).split()
    return len(said) >= 3 and 2 * sum(any(map(str.isdigit, word)) for word in said) < len(said)


def _fits(one: Utterance, asr: Any, max_new_tokens: int) -> bool:
    """A window holds the recording, the tokens its text, with room for a fourth more and the end."""
    return (
        float(one.label("duration_s") or 0) <= WINDOW_S
        and 1.25 * len(asr.tokenizer.encode(one.transcript)) + 1 <= max_new_tokens
    )


def nonspeech(corpus: Corpus, n: int) -> list[Utterance]:
    """`n` recordings without speech, evenly over the sets; of a corpus that has none, noise of several colours."""
    found = [one for one in corpus.utterances if _silent(one)]
    return spread(found, n, lambda one: one.label("set")) if found else noises(n)


def _silent(one: Utterance) -> bool:
    return one.label("speech_kind") == "non-speech" or bool(one.label("noise_class"))


def noises(n: int, seconds: float = 5.0) -> list[Utterance]:
    """Stationary noise, each a seed: power falls with the 0th, 1st and 2nd power of the frequency in turn, loud and soft."""
    names = [
        (place, ("white", "pink", "brown")[place % 3], (0.1, 0.01)[place // 3 % 2])
        for place in range(n)
    ]
    return [
        _noise(f"{colour}-{level}-{seed}", seed, colour, level, seconds)
        for seed, colour, level in names
    ]


def _noise(name: str, seed: int, colour: str, level: float, seconds: float) -> Utterance:
    labels = {"set": "noise", "noise_class": colour, "duration_s": seconds}
    return Utterance(
        name,
        Path(name),
        labels=labels,
        read=functools.partial(coloured, seed, colour, level, seconds),
    )


def coloured(seed: int, colour: str, level: float, seconds: float) -> Float[np.ndarray, "n"]:
    """Noise with root mean square `level`."""
    n = round(seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    frequency = np.maximum(np.fft.rfftfreq(n, 1 / SAMPLE_RATE), 20)
    drawn = np.fft.irfft(spectrum / frequency ** {"white": 0, "pink": 0.5, "brown": 1}[colour], n)
    return (drawn * level / np.sqrt((drawn**2).mean())).astype(np.float32)


def loops(
    asr: Any, corpus: Corpus, n: int, tries: int, keep: Keep, max_new_tokens: int
) -> list[Utterance]:
    """The first `n` recordings that make the model repeat itself, of at most `tries`. Where the words are known although it is a
    made-up trigger, they are its transcript. Left out: recordings that are known to repeat themselves, so that repeating is right."""
    found: list[Utterance] = []
    candidates = _candidates(corpus)[:tries]
    with keep.steps.bar("search for loops") as progress:
        for place, one in enumerate(candidates):
            progress(place, len(candidates))
            if keep(f"mined {one.id}", lambda one=one: heard_as(asr, one, max_new_tokens))[
                "repetitive"
            ]:
                found.append(one)
            if len(found) == n:
                break
        progress(len(candidates), len(candidates))
    return found


def heard_as(asr: Any, one: Utterance, max_new_tokens: int) -> Arrays:
    """The numbers of `transcripts.repetition` of what the model writes, greedily and without timestamps."""
    memory, _ = asr.model.encode(jaxasr.log_mel(first_window(one), asr.config.n_mels)[None])
    prompt, end = (
        np.asarray([asr.tokenizer.prompt(language(one) or "en")]),
        asr.tokenizer.special.eot,
    )
    out = jaxasr.generate(
        asr.model,
        memory,
        prompt,
        max_new_tokens=max_new_tokens,
        rules=rules_for(asr.tokenizer),
        eot=end,
    )
    ids = np.asarray(out.tokens)[0, : int(out.lengths[0])]
    return {
        name: np.asarray(value)
        for name, value in repetition(ids, asr.tokenizer.decode(ids)).items()
    }


def _candidates(corpus: Corpus) -> list[Utterance]:
    """What is meant to loop, those with words and those without in turn; then everything else."""
    made = {str(row["path"]): row for row in _recipes(corpus)}
    words = {one.id: one.transcript for one in corpus.utterances}
    known = [
        _with_words(one, made.get(one.id), words)
        for one in corpus.utterances
        if not made.get(one.id, {}).get("audio_periodic")
    ]
    meant = [one for one in known if made.get(one.id, {}).get("group") == "loop"]
    others = [one for one in known if one.id not in made]
    return spread(meant, len(meant), lambda one: bool(one.transcript)) + spread(
        others, len(others), lambda one: one.label("set")
    )


def _recipes(corpus: Corpus) -> Iterable[dict[str, Any]]:
    """How the triggers of the data folder were made, if that is the corpus."""
    where = real_speech.folder()
    ours = where is not None and any(
        one.path.is_relative_to(where) for one in corpus.utterances[:1]
    )
    return [row for row in real_speech.rows("recipes") if row.get("path")] if ours else []


def _with_words(one: Utterance, recipe: dict[str, Any] | None, words: dict[str, str]) -> Utterance:
    if recipe is None or one.transcript:
        return one
    ops = recipe["ops"]
    whole = all(
        op["op"] in _KEEPS_WORDS and not (op["op"] == "load" and (op.get("start") or op.get("end")))
        for op in ops
    )
    known = words.get(ops[0].get("path", ""), "") if whole and ops[0]["op"] == "load" else ""
    return dataclasses.replace(one, transcript=known)
