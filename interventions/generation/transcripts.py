"""Measures the repetition and the word and character errors of generated texts, on the host."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import SupportsIndex

import jiwer
import numpy as np

from jaxasr.text import compression_ratio, normalise

# openai/whisper decodes a text with a higher ratio again, because it takes it for a repetition.
MAX_COMPRESSION_RATIO = 2.4
Ids = Sequence[SupportsIndex] | np.ndarray  # token ids of one text


@dataclasses.dataclass(frozen=True)
class Repeat:
    """An n-gram that occurs several times in a row.

    Attributes:
        n: number of tokens in the n-gram; 0 if nothing repeats.
        k: number of consecutive occurrences.

    Example:
        >>> from interventions.generation import transcripts
        >>> transcripts.Repeat(n=2, k=3).span
        6
    """

    n: int = 0
    k: int = 0

    @property
    def span(self) -> int:
        """Number of tokens that the repetition covers."""
        return self.n * self.k


def repeats(ids: Ids) -> Iterator[Repeat]:
    """Yields the longest consecutive repetition of an n-gram, for each n that has one.

    Args:
        ids: token ids.

    Example:
        >>> from interventions.generation import transcripts
        >>> list(transcripts.repeats([1, 2, 1, 2, 3, 3, 3]))
        [Repeat(n=1, k=3), Repeat(n=2, k=2)]
    """
    ids = np.asarray(ids)
    for n in range(1, len(ids) // 2 + 1):
        # If each of m consecutive tokens equals the token n positions earlier, the n-gram occurs
        # m // n more times. `breaks` are the positions where a token differs, and the end.
        breaks = np.flatnonzero(np.append(ids[n:] != ids[:-n], True))
        if (k := int(np.diff(breaks, prepend=-1).max() - 1) // n + 1) > 1:
            yield Repeat(n, k)


def longest_repeat(ids: Ids) -> Repeat:
    """Finds the repetition that covers most tokens. Among equals, returns the shortest n-gram.

    Args:
        ids: token ids.

    Example:
        >>> from interventions.generation import transcripts
        >>> transcripts.longest_repeat([9, 1, 2, 1, 2, 1, 2, 8])
        Repeat(n=2, k=3)
    """
    return max(repeats(ids), key=lambda repeat: (repeat.span, -repeat.n), default=Repeat())


def longest_loop(ids: Ids) -> Repeat:
    """Finds the longest repetition that is a loop.

    An n-gram is a loop if it occurs 4 times or more in a row, or 3 times if n >= 6.

    Args:
        ids: token ids.

    Returns:
        The loop, or `Repeat(0, 0)`.

    Example:
        >>> from interventions.generation import transcripts
        >>> transcripts.longest_loop([*range(6)] * 3)
        Repeat(n=6, k=3)
    """
    loops = [r for r in repeats(ids) if r.k >= 4 or (r.k >= 3 and r.n >= 6)]
    return max(loops, key=lambda repeat: (repeat.span, -repeat.n), default=Repeat())


def is_loop(ids: Ids, text: str = "") -> bool:
    """Returns whether a text is a repetition loop.

    A text is a loop if an n-gram of its tokens is (`longest_loop`), or if its compression ratio is
    above 2.4. The paper (arXiv:2508.15882, section 4.5) states no rule; this is our choice. Of
    1,366 reference transcripts in 31 data sets, it marks five, and four of these repeat a sentence
    three times. Of 63 known loops of tiny.en, it finds all in the first 48 tokens, and 60 in the
    first 40.

    Args:
        ids: token ids.
        text: the text of these ids; "" applies the rule for n-grams alone.

    Example:
        >>> from interventions.generation import transcripts
        >>> transcripts.is_loop([1, 2] * 4), transcripts.is_loop([1, 2] * 3)
        (True, False)
    """
    return longest_loop(ids).k > 0 or compression_ratio(text) > MAX_COMPRESSION_RATIO


def repeated(ids: Ids, repeat: Repeat) -> list[int]:
    """Returns the n-gram that a repetition repeats.

    Args:
        ids: token ids.
        repeat: one of the repetitions of `ids`.

    Example:
        >>> from interventions.generation import transcripts
        >>> transcripts.repeated([9, 1, 2, 1, 2, 8], transcripts.Repeat(2, 2))
        [1, 2]
    """
    ids, n = [int(id_) for id_ in ids], repeat.n
    starts = range(len(ids) - repeat.span + 1)
    return next(
        ids[i : i + n] for i in starts if ids[i : i + repeat.span] == ids[i : i + n] * repeat.k
    )


def repetition(ids: Ids, text: str) -> dict[str, float]:
    """Measures the repetition of a text.

    Args:
        ids: token ids.
        text: the text of these ids.

    Returns:
        `repeat_n`, `repeat_k` and `repeat_span`: the fields of the longest `Repeat`.
        `compression_ratio`: size of the text divided by its size after zlib.
        `loop`: the result of `is_loop`, as 0 or 1.

    Example:
        >>> from interventions.generation import transcripts
        >>> transcripts.repetition([1, 2, 3], "one two three")["repeat_k"]
        0
    """
    longest = longest_repeat(ids)
    return {
        "repeat_n": longest.n,
        "repeat_k": longest.k,
        "repeat_span": longest.span,
        "compression_ratio": compression_ratio(text),
        "loop": float(is_loop(ids, text)),
    }


def errors(text: str, reference: str, language: str = "en") -> dict[str, float]:
    """Counts the errors of a text against a reference. Normalises both as in Whisper's paper.

    Args:
        text: the generated text.
        reference: the correct text.
        language: language of both texts, for the normaliser.

    Returns:
        `wer`, `cer`: word and character error rates; NaN for a reference without words.
        `insertions`, `deletions`, `substitutions`, `reference_words`: numbers of words.

    Example:
        >>> from interventions.generation import transcripts
        >>> transcripts.errors("The cat sat sat.", "the cat sat")["insertions"]
        1
    """
    hypothesis, reference = words(text, language), words(reference, language)
    if not reference:
        return {
            "wer": np.nan,
            "cer": np.nan,
            "insertions": len(hypothesis.split()),
            "deletions": 0,
            "substitutions": 0,
            "reference_words": 0,
        }
    counts = jiwer.process_words(reference, hypothesis)
    return {
        "wer": counts.wer,
        "cer": float(np.asarray(jiwer.cer(reference, hypothesis))),
        "insertions": counts.insertions,
        "deletions": counts.deletions,
        "substitutions": counts.substitutions,
        "reference_words": counts.hits + counts.deletions + counts.substitutions,
    }


def words(text: str, language: str = "en") -> str:
    """Returns the normalised words of a text, without punctuation marks between spaces.

    Args:
        text: any text.
        language: language of the text, for the normaliser.

    Example:
        >>> from interventions.generation import transcripts
        >>> transcripts.words("Don't panic , Mr. Dent!")
        'do not panic mister dent'
    """
    return " ".join(
        word for word in normalise(text, language).split() if any(map(str.isalnum, word))
    )
