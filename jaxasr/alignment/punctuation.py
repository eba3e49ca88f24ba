"""Joins punctuation marks to the words they belong to.

Source: openai/whisper `timing.merge_punctuations`.
"""

from collections.abc import Sequence

from jaxasr.transcript import Word

_OPENING_MARKS = "\"'“¿([{-"  # opening marks, joined to the next word
_CLOSING_MARKS = "\"'.。,，!！?？:：”)]}、"  # closing marks, joined to the previous word


def merge_punctuation(words: Sequence[Word]) -> list[Word]:
    """Joins opening marks to the next word and closing marks to the previous one.

    Each joined word has the times and the probability of the word without the mark.

    Args:
        words: words and marks in order, each with its times.

    Example:
        >>> from jaxasr.transcript import Word
        >>> words = [Word(" Yes", 0.0, 0.4, 0.9, (1,)), Word("!", 0.4, 0.5, 0.8, (2,))]
        >>> [(word.text, word.end) for word in merge_punctuation(words)]
        [(' Yes!', 0.4)]
    """
    # Opening marks are joined from the last word to the first, because several marks may precede a
    # word. So the list is in reverse order.
    reversed_words: list[Word] = []
    for word in reversed(words):
        if reversed_words and word.text.startswith(" ") and word.text.strip() in _OPENING_MARKS:
            reversed_words[-1] = _join(
                left=word, right=reversed_words[-1], timed=reversed_words[-1]
            )
        else:
            reversed_words.append(word)
    joined: list[Word] = []
    for word in reversed(reversed_words):
        if joined and not joined[-1].text.endswith(" ") and word.text in _CLOSING_MARKS:
            joined[-1] = _join(left=joined[-1], right=word, timed=joined[-1])
        else:
            joined.append(word)
    return joined


def _join(*, left: Word, right: Word, timed: Word) -> Word:
    """Joins a word and a mark. Keeps the times and the probability of `timed`, the word."""
    return Word(
        left.text + right.text,
        timed.start,
        timed.end,
        timed.probability,
        left.tokens + right.tokens,
    )
