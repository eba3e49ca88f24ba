"""Sorts the texts that are generated from encoder layers into six categories.

The categories are those of the encoder-lens experiment in arXiv 2508.15882, section 4.6. The rules
that assign a text to a category are ours.
"""

import re
from collections.abc import Sequence

from interventions.generation.transcripts import errors, is_loop, words
from jaxasr.languages import WITHOUT_SPACES

CATEGORIES = ("empty", "punctuation", "loop", "ungrounded", "partial", "correct")
PARTIAL_WER = 0.5  # a text whose `error_rate` is lower counts as partial, else as ungrounded


def text_category(text: str, reference: str, ids: Sequence[int] = (), language: str = "en") -> str:
    """Finds the category of a text by comparing it with the text of the last encoder layer.

    Args:
        text: text generated from an encoder layer.
        reference: text generated from the last encoder layer.
        ids: token ids of `text`, which are searched for loops. (): the words are searched instead.
        language: language code, for the error rate.

    Returns:
        One of `CATEGORIES`.

    Example:
        >>> text_category("The cat sat.", reference="the cat sat")
        'correct'
    """
    normalised = _normalise(text, language)
    if not text.strip():
        return "empty"
    if not normalised:
        return "punctuation"
    if normalised == _normalise(reference, language):
        return "correct"
    if is_loop(ids or _number_words(normalised.split()), text):
        return "loop"
    return "partial" if error_rate(text, reference, language) < PARTIAL_WER else "ungrounded"


def _normalise(text: str, language: str) -> str:
    """Normalises words. Keeps a text that the normaliser would remove, such as "(crying)"."""
    return words(text, language) or " ".join(re.findall(r"\w+", text.lower()))


def error_rate(text: str, reference: str, language: str = "en") -> float:
    """Computes the word error rate, or for a language without spaces the character error rate.

    Returns:
        Errors per word (or character) of the reference. NaN if the reference has no words.

    Example:
        >>> error_rate("the cat", "the cat sat on")
        0.5
    """
    return errors(text, reference, language)["cer" if language in WITHOUT_SPACES else "wer"]


def _number_words(words: list[str]) -> list[int]:
    """Returns for each word a number that is equal for equal words."""
    return [words.index(word) for word in words]
