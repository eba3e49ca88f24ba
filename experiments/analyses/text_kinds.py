"""Sorts texts generated from encoder layers into six kinds.

The kinds are those of the encoder-lens experiment in arXiv 2508.15882, section 4.6; the rule that
decides among them is ours.
"""

import re
from collections.abc import Sequence

from interventions.generation.transcripts import errors, is_loop, words
from jaxasr.languages import WITHOUT_SPACES

CATEGORIES = ("empty", "punctuation", "loop", "ungrounded", "partial", "correct")
PARTIAL_WER = 0.5  # a text with a lower error rate (`error_rate`) is partly right


def category(text: str, reference: str, ids: Sequence[int] = (), language: str = "en") -> str:
    """Sorts a text by comparing it with the text of the whole model.

    Args:
        text: generated from an encoder layer.
        reference: generated from the last layer.
        ids: token ids of `text`, in which loops are looked for. (): in its words.
        language: code, for the error rate.

    Returns:
        One of `CATEGORIES`.

    Example:
        >>> category("The cat sat.", reference="the cat sat")
        'correct'
    """
    words = _normalise(text, language)
    if not text.strip():
        return "empty"
    if not words:
        return "punctuation"
    if words == _normalise(reference, language):
        return "correct"
    if is_loop(ids or _number_words(words.split())):
        return "loop"
    return "partial" if error_rate(text, reference, language) < PARTIAL_WER else "ungrounded"


def _normalise(text: str, language: str) -> str:
    """Normalises words. Texts that the normaliser removes, such as "(baby crying)", stay."""
    return words(text, language) or " ".join(re.findall(r"\w+", text.lower()))


def error_rate(text: str, reference: str, language: str = "en") -> float:
    """Computes the word error rate, or the character error rate of a language without spaces.

    Returns:
        A share of the reference, NaN if the reference has no words.
    """
    return errors(text, reference, language)["cer" if language in WITHOUT_SPACES else "wer"]


def _number_words(words: list[str]) -> list[int]:
    return [words.index(word) for word in words]
