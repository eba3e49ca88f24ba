"""Decodes the spelling of tokens in a byte-level vocabulary, such as that of GPT-2 and Whisper."""

import functools


@functools.cache
def _byte_of_char() -> dict[str, int]:
    """Returns the byte that each character stands for."""
    # GPT-2 spells a printable byte by its Latin-1 character. It spells the other bytes, in order,
    # by the characters from U+0100 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + i): byte for i, byte in enumerate(hidden)
    }


def decode_token(token: str) -> str:
    r"""Returns the text of a token, with incomplete characters as bytes, such as `\xe3`.

    Example:
        >>> decode_token("Ġthe")
        ' the'
    """
    return bytes(_byte_of_char()[char] for char in token).decode("utf-8", "backslashreplace")
