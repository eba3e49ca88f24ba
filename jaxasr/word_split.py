"""Splits token ids into words.

Source: openai/whisper `Tokenizer.split_to_word_tokens`.
"""

import string
from collections.abc import Callable, Sequence

Piece = tuple[str, list[int]]  # a text and its token ids
_INCOMPLETE = "\ufffd"  # U+FFFD, the result of decoding only some of the bytes of a character


def split_on_characters(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[Piece]:
    """Splits ids into the shortest pieces that decode to whole characters."""
    text, offset = decode(ids), 0  # the next piece starts at `offset` in the whole text
    pieces: list[Piece] = []
    current: list[int] = []
    for id_ in ids:
        current = [*current, id_]
        piece = decode(current)
        index = piece.find(_INCOMPLETE)
        # If the whole text has U+FFFD at the same place, more ids would not complete the character.
        if index < 0 or text[offset + index : offset + index + 1] == _INCOMPLETE:
            pieces.append((piece, current))
            current, offset = [], offset + len(piece)
    return pieces


def join_to_words(pieces: Sequence[Piece], is_text: Callable[[int], bool]) -> list[Piece]:
    """Joins pieces to words. A space, punctuation or a control token starts a new word."""
    words: list[Piece] = []
    for text, ids in pieces:
        starts_word = (
            not is_text(ids[0]) or text.startswith(" ") or text.strip() in string.punctuation
        )
        if starts_word or not words:
            words.append((text, ids))
        else:
            words[-1] = (words[-1][0] + text, words[-1][1] + ids)
    return words
