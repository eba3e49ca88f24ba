"""What kind of text a lens produced: nothing, punctuation, a loop, fluent but unrelated, partly right, right.

The rule is ours; the six categories follow the encoder-lens experiment of arXiv 2508.15882, section 4.6.
"""
from collections.abc import Sequence

from interventions.transcripts import errors, is_loop, words

CATEGORIES = ("empty", "punctuation", "loop", "ungrounded", "partial", "correct")
PARTIAL_WER = 0.5  # below this word error rate against the final text, a text counts as partly right


def category(text: str, reference: str, ids: Sequence[int] = (), language: str = "en") -> str:
    """One of `CATEGORIES` for `text` (token ids `ids`), compared with the model's own final text `reference`."""
    said = words(text, language)
    if not text.strip():
        return "empty"
    if not said:
        return "punctuation"
    if said == words(reference, language):
        return "correct"
    if is_loop(ids or _numbered(said.split())):
        return "loop"
    return "partial" if errors(text, reference, language)["wer"] < PARTIAL_WER else "ungrounded"


def _numbered(said: list[str]) -> list[int]:
    """Words as ids, equal for equal words."""
    return [said.index(word) for word in said]
