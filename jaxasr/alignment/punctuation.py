"""Joins punctuation marks to the words they belong to.

Source: openai/whisper `timing.merge_punctuations`.
"""

from collections.abc import Sequence

from jaxasr.transcript import Word

_PREPENDED = "\"'“¿([{-"  # opening marks, joined to the next word
_APPENDED = "\"'.。,，!！?？:：”)]}、"  # closing marks, joined to the previous word


def merge_punctuation(words: Sequence[Word]) -> list[Word]:
    """Joins opening marks to the next word and closing marks to the previous one.

    The word keeps its times.
    """
    # Opening marks are joined from the last word to the first, so the list is in reverse order.
    with_opening_marks: list[Word] = []
    for word in reversed(words):
        if with_opening_marks and word.text.startswith(" ") and word.text.strip() in _PREPENDED:
            with_opening_marks[-1] = _join(with_opening_marks[-1], word, with_opening_marks[-1])
        else:
            with_opening_marks.append(word)
    with_closing_marks: list[Word] = []
    for word in reversed(with_opening_marks):
        if (
            with_closing_marks
            and not with_closing_marks[-1].text.endswith(" ")
            and word.text in _APPENDED
        ):
            with_closing_marks[-1] = _join(with_closing_marks[-1], with_closing_marks[-1], word)
        else:
            with_closing_marks.append(word)
    return with_closing_marks


def _join(timed: Word, left: Word, right: Word) -> Word:
    """Joins a word and a mark. `timed` is the word, which gives the times and the probability."""
    return Word(
        left.text + right.text,
        timed.start,
        timed.end,
        timed.probability,
        left.tokens + right.tokens,
    )
