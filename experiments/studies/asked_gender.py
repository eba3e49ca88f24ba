"""Asks an audio language model for the gender of a speaker, to compare it with probes."""

import re
from collections.abc import Iterable

import numpy as np
import xarray as xr

from experiments.data.corpora import Utterance
from experiments.item_cache import Arrays, ItemCache
from experiments.studies.selection import first_window
from jaxasr.language.recogniser import PromptedRecogniser

QUESTION = "Is the speaker male or female? Answer with one word."
_MAX_NEW_TOKENS = 16
_WORDS = {"F": {"female", "woman", "girl", "feminine"}, "M": {"male", "man", "boy", "masculine"}}


def add_answers(
    asr: PromptedRecogniser, clips: Iterable[Utterance], arrays: xr.Dataset, cache: ItemCache
) -> xr.Dataset:
    """Asks for the gender, and adds `answered` [example] to the rows of E1.

    `answered` is 1 if the model answers with the right gender, else 0. Rows of other questions get
    NaN.

    Args:
        asr: the model.
        clips: all recordings that rows may come from.
        arrays: from `experiments.studies.probing.concatenate`.
        cache: stores the answers.
    """
    by_row = {f"gender {clip.id}": clip for clip in clips}  # as `probe_layers` names its rows
    asked = np.flatnonzero(arrays.question.values == "gender")

    rows = [by_row[str(arrays.example.values[i])] for i in asked]

    def ask(clip: Utterance) -> Arrays:
        audio = first_window(clip)[: asr.config.n_samples]
        answer = asr.ask(audio, QUESTION, max_new_tokens=_MAX_NEW_TOKENS)
        return {"answer": np.array(answer)}

    answers = cache.each("E1 answers", rows, ask)
    answered = np.full(arrays.sizes["example"], np.nan)
    labels = arrays.label.values[asked]
    answered[asked] = [
        read_answer(str(item["answer"])) == label for item, label in zip(answers, labels)
    ]
    return arrays.assign(answered=("example", answered))


def read_answer(text: str) -> str:
    """Returns "F" or "M"; "" for an answer that names neither or both.

    Example:
        >>> read_answer("The speaker is a woman.")
        'F'
    """
    words = set(re.findall(r"[a-z]+", text.lower()))
    named = [gender for gender, names in _WORDS.items() if words & names]
    return named[0] if len(named) == 1 else ""
