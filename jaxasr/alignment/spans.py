"""Divides a given text among spans of a recording. Matches the text to a transcript by words."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from jaxasr.config import N_SAMPLES, SAMPLE_RATE
from jaxasr.languages import WITHOUT_SPACES
from jaxasr.tokenizer import Tokenizer
from jaxasr.transcript import Segment

WINDOW_S = N_SAMPLES / SAMPLE_RATE  # 30 s, the longest input of the encoder
# Seconds added before and after a segment, but at most half of the gap to its neighbour.
_MARGIN_S = 1.0
# A longer gap between segments becomes a span, because the transcript may lack its words.
_MAX_GAP_S = 2 * _MARGIN_S
_MIN_SPAN_S = 0.1  # needed because the times of a segment may be equal or out of order


@dataclasses.dataclass(frozen=True)
class Span:
    """A part of a recording.

    Attributes:
        start: seconds from the beginning of the recording.
        end: seconds from the beginning of the recording.
        n_words: number of transcribed words in this part.

    Example:
        >>> Span(start=0.0, end=2.5, n_words=6).n_words
        6
    """

    start: float
    end: float
    n_words: int


def letters(text: str) -> str:
    """Returns the letters and digits of a text in lower case, without punctuation and spaces.

    Example:
        >>> letters("Don't panic!")
        'dontpanic'
    """
    return "".join(char for char in text.casefold() if char.isalnum())


def comparable_words(
    tokenizer: Tokenizer, ids: Sequence[int], language: str
) -> list[tuple[str, list[int]]]:
    """Returns the letters and the token ids of each word.

    The ids of a punctuation mark go to the word before it, or to the first word. In languages
    without spaces each character counts as a word. If one token spells several characters, the
    first character gets the token id and the others get none.

    Args:
        tokenizer: the tokenizer, such as `asr.tokenizer`.
        ids: token ids of a text. Control tokens and timestamps are ignored.
        language: code of the language.

    Example:
        ```python
        from jaxasr.alignment.spans import comparable_words

        ids = asr.tokenizer.encode(" Don't panic!")
        [letters for letters, _ in comparable_words(asr.tokenizer, ids, "en")]  # ["dont", "panic"]
        ```
    """
    words: list[tuple[str, list[int]]] = []
    text_ids = [id_ for id_ in ids if tokenizer.is_text(id_)]
    for text, tokens in tokenizer.split_words(text_ids, language):
        spelling = letters(text)
        # Two words are joined if one of them has no letters, because it is punctuation.
        if words and not (spelling and words[-1][0]):
            words[-1] = (words[-1][0] + spelling, words[-1][1] + tokens)
        else:
            words.append((spelling, tokens))
    if language in WITHOUT_SPACES:
        words = [
            (char, [] if i else tokens)
            for spelling, tokens in words
            for i, char in enumerate(spelling)
        ]
    return [word for word in words if word[0]]


def segment_spans(
    segments: Sequence[Segment], n_words: Sequence[int], duration: float
) -> list[Span]:
    """Returns the spans of the segments and of the long gaps between them, in order of time.

    Args:
        segments: segments of the transcript.
        n_words: number of transcribed words of each segment.
        duration: seconds of the whole recording.

    Returns:
        Spans of at most 30 s.

    Example:
        ```python
        from jaxasr.alignment.spans import segment_spans

        segments = asr.transcribe(audio).segments
        n_words = [len(segment.text.split()) for segment in segments]
        spans = segment_spans(segments, n_words, duration=len(audio) / 16_000)
        ```
    """
    spans, previous_end = [], 0.0
    next_starts = [*(segment.start for segment in segments[1:]), duration]
    for segment, n, next_start in zip(segments, n_words, next_starts):
        start = min(max(segment.start, previous_end), duration - _MIN_SPAN_S)
        end = min(max(segment.end, start + _MIN_SPAN_S), duration)
        spans.append(
            Span(
                start - _compute_margin(previous_end, start),
                end + _compute_margin(end, next_start),
                n,
            )
        )
        previous_end = end
    # Entries 2 i and 2 i + 1 of `bounds` are the end of one span and the start of the next.
    bounds = [0.0, *(bound for span in spans for bound in (span.start, span.end)), duration]
    gaps = [Span(a, b, 0) for a, b in zip(bounds[::2], bounds[1::2]) if b - a > _MAX_GAP_S]
    return [
        piece
        for span in sorted(gaps + spans, key=lambda span: span.start)
        for piece in _split_span(span)
    ]


def _compute_margin(gap_start: float, gap_end: float) -> float:
    return min(_MARGIN_S, max(0.0, gap_end - gap_start) / 2)


def _split_span(span: Span) -> list[Span]:
    """Splits a span into equal pieces of at most 30 s."""
    n = math.ceil((span.end - span.start) / WINDOW_S)
    times = np.linspace(span.start, span.end, n + 1).tolist()
    words = np.linspace(0, span.n_words, n + 1).astype(int).tolist()
    return [
        Span(start, end, last - first)
        for (start, end), (first, last) in zip(itertools.pairwise(times), itertools.pairwise(words))
    ]


def cut_points(
    given: Sequence[str], transcribed: Sequence[str], spans: Sequence[Span]
) -> list[int]:
    """Returns the number of given words before each bound of the spans.

    The transcript may lack some given words between two segments. The gaps between the segments
    share these words in proportion to their lengths. If there is no gap, the later segment gets
    the words.

    Args:
        given: letters of each word of the given text.
        transcribed: letters of each word of the transcript.
        spans: spans in order of time, from `segment_spans`.

    Returns:
        One number per bound. The bounds are the start of every span and the end of the last one.

    Example:
        >>> spans = [Span(0.0, 2.0, 1), Span(2.0, 4.0, 2)]
        >>> cut_points(["we", "like", "it"], ["we", "liked", "it"], spans)
        [0, 1, 3]
    """
    # From `lower[n]` to `upper[n]` given words precede transcribed word n.
    lower, upper = _match_words(given, transcribed)
    n_before = list(itertools.accumulate((span.n_words for span in spans), initial=0))
    cuts: list[int] = []
    # Bounds after the same number of transcribed words share the given words at this place.
    for n, bounds in itertools.groupby(range(len(n_before)), key=n_before.__getitem__):
        # Each of these bounds, except the last, starts a gap.
        seconds = [spans[i].end - spans[i].start for i in list(bounds)[:-1]]
        shares = np.cumsum([0.0, *seconds]) / max(sum(seconds), 1e-9)
        cuts += [lower[n] + round((upper[n] - lower[n]) * share) for share in shares.tolist()]
    return [*cuts[:-1], len(given)]


def _match_words(given: Sequence[str], transcribed: Sequence[str]) -> tuple[list[int], list[int]]:
    """Returns the smallest and largest number of given words before each transcribed word."""
    import jiwer

    # jiwer aligns the given text (ref) with the transcript (hyp). -1 marks a missing value.
    lower, upper = [-1] * (len(transcribed) + 1), [0] * (len(transcribed) + 1)
    for chunk in jiwer.process_words(" ".join(given), " ".join(transcribed)).alignments[0]:
        for i in range(chunk.hyp_start_idx, chunk.hyp_end_idx + 1):
            before = min(chunk.ref_start_idx + i - chunk.hyp_start_idx, chunk.ref_end_idx)
            lower[i] = before if lower[i] < 0 else lower[i]
            upper[i] = chunk.ref_end_idx if i == chunk.hyp_end_idx else before
    return lower, upper


def join_spans(
    spans: Sequence[Span], words: Sequence[Sequence[tuple[str, list[int]]]]
) -> list[tuple[float, float, list[int]]]:
    """Joins neighbouring spans into windows of at most 30 s.

    Args:
        spans: spans in order of time.
        words: the words of each span, from `comparable_words`.

    Returns:
        Start in seconds, end in seconds, and token ids of each window. The first and the last span
        of a window contain words.

    Example:
        >>> spans = [Span(0.0, 2.0, 1), Span(2.0, 4.0, 0), Span(4.0, 5.0, 1)]
        >>> join_spans(spans, [[("we", [7])], [], [("do", [8, 9])]])
        [(0.0, 5.0, [7, 8, 9])]
    """
    windows: list[tuple[float, float, list[int]]] = []
    for span, span_words in zip(spans, words):
        ids = [id_ for _, tokens in span_words for id_ in tokens]
        if ids and windows and span.end - windows[-1][0] <= WINDOW_S:
            windows[-1] = (windows[-1][0], span.end, windows[-1][2] + ids)
        elif ids:
            windows.append((span.start, span.end, ids))
    return windows
