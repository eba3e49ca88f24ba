"""Numbers about what was written: repetition, word and character errors, length. Host-side, one text at a time."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import SupportsIndex

import jiwer
import numpy as np

from jaxasr.text import compression_ratio, normalise

Ids = Sequence[SupportsIndex] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Repeat:
    """An n-gram of `n` tokens that stands `k` times back to back; nothing repeats when both are 0."""

    n: int = 0
    k: int = 0

    @property
    def span(self) -> int:
        """Tokens covered."""
        return self.n * self.k


def repeats(ids: Ids) -> Iterator[Repeat]:
    """For each n the longest back-to-back repetition of an n-gram, where there is any."""
    ids = np.asarray(ids)
    for n in range(1, len(ids) // 2 + 1):
        equal = np.flatnonzero(np.append(ids[n:] != ids[:-n], True))
        if (k := int(np.diff(equal, prepend=-1).max() - 1) // n + 1) > 1:
            yield Repeat(n, k)


def longest_repeat(ids: Ids) -> Repeat:
    """The repetition that covers most tokens; of equal ones that of the shortest n-gram."""
    return max(repeats(ids), key=lambda repeat: (repeat.span, -repeat.n), default=Repeat())


def longest_loop(ids: Ids) -> Repeat:
    """Finds the longest repetition that is a loop: an n-gram k times back to back with (k >= 4 and n·k >= 20) or (k >= 3 and n >= 6)."""
    loops = [r for r in repeats(ids) if (r.k >= 4 and r.span >= 20) or (r.k >= 3 and r.n >= 6)]
    return max(loops, key=lambda repeat: (repeat.span, -repeat.n), default=Repeat())


def is_loop(ids: Ids) -> bool:
    """Whether token ids repeat themselves (see `longest_loop`)."""
    return longest_loop(ids).k > 0


def repeated(ids: Ids, repeat: Repeat) -> list[int]:
    """Returns the n-gram that `repeat`, one of the repetitions of `ids`, repeats."""
    ids, n = [int(id_) for id_ in ids], repeat.n
    starts = range(len(ids) - repeat.span + 1)
    return next(
        ids[i : i + n] for i in starts if ids[i : i + repeat.span] == ids[i : i + n] * repeat.k
    )


def is_repetitive(ids: Ids, text: str) -> bool:
    """The laxer detector that we read into section 4.5 of arXiv 2508.15882: an n-gram of up to 8 tokens 4 times or more, or a
    compression ratio above 2.4."""
    return any(r.n <= 8 and r.k >= 4 for r in repeats(ids)) or compression_ratio(text) > 2.4


def repetition(ids: Ids, text: str) -> dict[str, float]:
    """`repeat_n`, `repeat_k`, `repeat_span` of the longest repetition, `compression_ratio`, and the two detectors as 0 or 1."""
    longest = longest_repeat(ids)
    numbers = {
        "repeat_n": longest.n,
        "repeat_k": longest.k,
        "repeat_span": longest.span,
        "compression_ratio": compression_ratio(text),
    }
    return {**numbers, "loop": float(is_loop(ids)), "repetitive": float(is_repetitive(ids, text))}


def errors(text: str, reference: str, language: str = "en") -> dict[str, float]:
    """Rates `wer` and `cer`, and counts of words `insertions`, `deletions`, `substitutions` and `reference_words`.

    Both texts are normalised as Whisper's papers do. A reference without words has no rates (NaN), and every word is an insertion.
    """
    said, meant = words(text, language), words(reference, language)
    if not meant:
        return dict(zip(_ERRORS, (np.nan, np.nan, len(said.split()), 0, 0, 0)))
    found = jiwer.process_words(meant, said)
    n_words = found.hits + found.deletions + found.substitutions
    return dict(
        zip(
            _ERRORS,
            (
                found.wer,
                jiwer.cer(meant, said),
                found.insertions,
                found.deletions,
                found.substitutions,
                n_words,
            ),
        )
    )


def words(text: str, language: str = "en") -> str:
    """The normalised words of a text. The normaliser lets some lone punctuation stand; it is no word."""
    return " ".join(
        word for word in normalise(text, language).split() if any(map(str.isalnum, word))
    )


_ERRORS = ("wer", "cer", "insertions", "deletions", "substitutions", "reference_words")
