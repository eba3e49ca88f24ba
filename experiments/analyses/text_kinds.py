"""What kind of text a lens produced: nothing, punctuation, a loop, fluent but unrelated, partly right, right.

The rule is ours; the six categories follow the encoder-lens experiment of arXiv 2508.15882, section 4.6.
"""

import re
from collections.abc import Sequence

from interventions.generation.transcripts import errors, is_loop, words
from jaxasr.languages import WITHOUT_SPACES

CATEGORIES = ("empty", "punctuation", "loop", "ungrounded", "partial", "correct")
PARTIAL_WER = 0.5  # below this error rate (see `error_rate`) against the final text, a text counts as partly right


def category(text: str, reference: str, ids: Sequence[int] = (), language: str = "en") -> str:
    """One of `CATEGORIES` for `text` (token ids `ids`), compared with the model's own final text `reference`."""
    words = _words(text, language)
    if not text.strip():
        return "empty"
    if not words:
        return "punctuation"
    if words == _words(reference, language):
        return "correct"
    if is_loop(ids or _numbered(words.split())):
        return "loop"
    return "partial" if error_rate(text, reference, language) < PARTIAL_WER else "ungrounded"


def _words(text: str, language: str) -> str:
    """Normalised words; of a text that the normaliser removes, such as "(baby crying)" or "Hmm.", the words as they stand."""
    return words(text, language) or " ".join(re.findall(r"\w+", text.lower()))


def error_rate(text: str, reference: str, language: str = "en") -> float:
    """Word error rate; of characters where a language writes no spaces. NaN for a reference without words."""
    return errors(text, reference, language)["cer" if language in WITHOUT_SPACES else "wer"]


def _numbered(words: list[str]) -> list[int]:
    """Words as ids, equal for equal words."""
    return [words.index(word) for word in words]
