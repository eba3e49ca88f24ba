"""Joins punctuation marks to the words they belong to.

Source: openai/whisper `timing.merge_punctuations`.
"""

from collections.abc import Sequence

from jaxasr.transcript import Word

_PREPENDED = "\"'“¿([{-"
_APPENDED = "\"'.。,，!！?？:：”)]}、"


def merge_punctuation(words: Sequence[Word]) -> list[Word]:
    """Joins opening marks to the next word and closing marks to the previous one.

    The word keeps its times.
    """
    opened: list[Word] = []
    for word in reversed(words):
        if opened and word.text.startswith(" ") and word.text.strip() in _PREPENDED:
            opened[-1] = _join(opened[-1], word, opened[-1])
        else:
            opened.append(word)
    closed: list[Word] = []
    for word in reversed(opened):
        if closed and not closed[-1].text.endswith(" ") and word.text in _APPENDED:
            closed[-1] = _join(closed[-1], closed[-1], word)
        else:
            closed.append(word)
    return closed


def _join(timed: Word, left: Word, right: Word) -> Word:
    return Word(
        left.text + right.text,
        timed.start,
        timed.end,
        timed.probability,
        left.tokens + right.tokens,
    )
