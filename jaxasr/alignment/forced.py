"""Word times of a given text in a recording of any length.

The text is split over windows of at most 30 s (`place`), and each part is aligned in its window (`align_windows`).
A recording of up to 30 s is one window. For a longer one the model transcribes the recording; the given words are
matched to the transcribed ones by edit distance, and each segment of the transcript passes its times on to the words
matched to it.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Num

from jaxasr.alignment.released_heads import Heads
from jaxasr.alignment.words import align
from jaxasr.audio import check_samples, log_mel, n_frames
from jaxasr.config import N_SAMPLES, SAMPLE_RATE
from jaxasr.languages import WITHOUT_SPACES, language_code
from jaxasr.model import Whisper
from jaxasr.options import Options
from jaxasr.tokenizer import Tokenizer
from jaxasr.transcribe import Progress, detect_language, transcribe
from jaxasr.transcript import Segment, Word

_MARGIN_S = 1.0  # audio before and after a segment; no more than half of the gap to the next one
_GAP_S = 2 * _MARGIN_S  # a longer gap may hold words that the transcript lacks
_WINDOW_S = N_SAMPLES / SAMPLE_RATE
_SHORTEST_S = 0.1
_TEMPERATURES = (0.0, 0.2, 0.4, 0.6)  # a window that loops or is improbable is transcribed again


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of a recording with the text that belongs to it.

    Attributes:
        start: seconds from the beginning of the recording.
        audio: 16 kHz samples, at most 30 s.
        tokens: text ids, no control tokens.
        language: of the text, a code.
    """

    start: float
    audio: Float32[np.ndarray, "n_samples"]
    tokens: tuple[int, ...]
    language: str


@dataclasses.dataclass(frozen=True)
class _Span:
    """Seconds of the recording, and how many words were transcribed there."""

    start: float
    end: float
    n_words: int


def place(
    model: Whisper,
    tokenizer: Tokenizer,
    audio: Num[np.ndarray, "n_samples"],
    text: str,
    *,
    language: str | None = None,
    progress: Progress | None = None,
) -> list[Window]:
    """Returns the windows of `audio` that hold `text`, in order.

    Args:
        model: the recogniser.
        tokenizer: its tokenizer.
        audio: float samples at 16 kHz, of any length.
        text: the words to place; line breaks count as spaces.
        language: a code or an English name; None detects it (multilingual checkpoints).
        progress: called with the seconds transcribed and the seconds in all; only for more than 30 s.

    Raises:
        ValueError: no words in the text; more text than can be spoken in the recording; audio as in `transcribe`.
    """
    check_samples(audio)
    audio = np.asarray(audio, np.float32)
    if not _spelled(text):
        raise ValueError(
            f"text: expected words, got {text[:40]!r}. Give the words that are spoken in the recording."
        )
    if len(audio) <= N_SAMPLES:
        language = _language(model, tokenizer, audio, language)
        ids = _encode(tokenizer, text, language)
        _check_fits(model, ids, 0.0, len(audio) / SAMPLE_RATE)
        return [Window(0.0, audio, tuple(ids), language)]
    _check_fits(model, _encode(tokenizer, text, language or "en"), 0.0, len(audio) / SAMPLE_RATE)
    found = transcribe(
        model,
        tokenizer,
        audio,
        Options(language=language, temperature=_TEMPERATURES),
        progress=progress,
    )
    given = _words(tokenizer, _encode(tokenizer, text, found.language), found.language)
    written = [_words(tokenizer, segment.tokens, found.language) for segment in found.segments]
    spans = _spans(found.segments, [len(words) for words in written], len(audio) / SAMPLE_RATE)
    cuts = _cuts(
        [word for word, _ in given], [word for words in written for word, _ in words], spans
    )
    parts = _joined(spans, [given[a:b] for a, b in itertools.pairwise(cuts)])
    for start, end, ids in parts:
        _check_fits(model, ids, start, end)
    return [
        Window(start, _cut(audio, start, end), tuple(ids), found.language)
        for start, end, ids in parts
    ]


def _language(model: Whisper, tokenizer: Tokenizer, audio: np.ndarray, language: str | None) -> str:
    if language is not None or not tokenizer.is_multilingual:
        tokenizer.sot_sequence(language)  # raises for a language that this checkpoint lacks
        return language_code(language or "en")
    memory, _ = model.encode(log_mel(audio, model.config.n_mels)[None])
    return next(iter(detect_language(model, tokenizer, memory)[0]))


def _encode(tokenizer: Tokenizer, text: str, language: str) -> list[int]:
    lead = "" if language_code(language) in WITHOUT_SPACES else " "
    return tokenizer.encode(lead + " ".join(text.split()))


def _check_fits(model: Whisper, ids: Sequence[int], start: float, end: float) -> None:
    """Raises `ValueError` when the decoder's context could not hold the text of so many seconds."""
    room = (model.config.n_text_ctx - 5) * -(-(end - start) // _WINDOW_S)
    if len(ids) > room:
        raise ValueError(
            f"text: expected at most {room:.0f} tokens for the {end - start:.1f} s from {start:.1f} s on, got {len(ids)}. "
            "Check that the text belongs to this recording, and that it holds no other text."
        )


def _spelled(text: str) -> str:
    """Letters and digits only, as words are compared."""
    return "".join(char for char in text.casefold() if char.isalnum())


def _words(tokenizer: Tokenizer, ids: Sequence[int], language: str) -> list[tuple[str, list[int]]]:
    """Words as they are compared, with their ids; punctuation goes with the word before it, or the first one.

    Characters where the language writes no spaces; the first character of a token has its id.
    """
    words: list[tuple[str, list[int]]] = []
    for text, tokens in tokenizer.split_words(
        [i for i in ids if i < tokenizer.special.eot], language
    ):
        spelled = _spelled(text)
        if words and not (spelled and words[-1][0]):
            words[-1] = (words[-1][0] + spelled, words[-1][1] + tokens)
        else:
            words.append((spelled, tokens))
    if language in WITHOUT_SPACES:
        words = [
            (char, [] if i else tokens)
            for spelled, tokens in words
            for i, char in enumerate(spelled)
        ]
    return [word for word in words if word[0]]


def _spans(segments: Sequence[Segment], n_words: Sequence[int], duration: float) -> list[_Span]:
    """The segments, and the gaps between them that are long enough to hold words of their own."""
    spans, before = [], 0.0
    for segment, n, after in zip(segments, n_words, [*(s.start for s in segments[1:]), duration]):
        start = min(max(segment.start, before), duration - _SHORTEST_S)
        end = min(max(segment.end, start + _SHORTEST_S), duration)
        spans.append(_Span(start - _margin(before, start), end + _margin(end, after), n))
        before = end
    bounds = [0.0, *(bound for span in spans for bound in (span.start, span.end)), duration]
    gaps = [_Span(a, b, 0) for a, b in zip(bounds[::2], bounds[1::2]) if b - a > _GAP_S]
    return [
        piece
        for span in sorted(gaps + spans, key=lambda span: span.start)
        for piece in _pieces(span)
    ]


def _margin(before: float, after: float) -> float:
    return min(_MARGIN_S, max(0.0, after - before) / 2)


def _pieces(span: _Span) -> list[_Span]:
    """The span in equal pieces of at most 30 s."""
    n = math.ceil((span.end - span.start) / _WINDOW_S)
    bounds, words = (
        np.linspace(span.start, span.end, n + 1).tolist(),
        np.linspace(0, span.n_words, n + 1).astype(int).tolist(),
    )
    return [
        _Span(a, b, m - k)
        for (a, b), (k, m) in zip(itertools.pairwise(bounds), itertools.pairwise(words))
    ]


def _cuts(given: Sequence[str], written: Sequence[str], spans: Sequence[_Span]) -> list[int]:
    """Index into the given words at each bound of the spans: the words before it belong to earlier spans.

    Given words that the transcript lacks go to the spans without transcribed words at that place, in proportion to
    their seconds; where there is no such span, to the segment after it.
    """
    lower, upper = _matched(given, written)
    done = list(itertools.accumulate((span.n_words for span in spans), initial=0))
    cuts: list[int] = []
    for n, run in itertools.groupby(range(len(done)), key=done.__getitem__):
        empty = [spans[i].end - spans[i].start for i in list(run)[:-1]]
        shares = np.cumsum([0.0, *empty]) / max(sum(empty), 1e-9)
        cuts += [lower[n] + round((upper[n] - lower[n]) * share) for share in shares.tolist()]
    return [*cuts[:-1], len(given)]


def _matched(given: Sequence[str], written: Sequence[str]) -> tuple[list[int], list[int]]:
    """For each number of transcribed words, how many given words lie before it: at least, and at most."""
    import jiwer

    lower, upper = [-1] * (len(written) + 1), [0] * (len(written) + 1)
    for chunk in jiwer.process_words(" ".join(given), " ".join(written)).alignments[0]:
        for i in range(chunk.hyp_start_idx, chunk.hyp_end_idx + 1):
            before = min(chunk.ref_start_idx + i - chunk.hyp_start_idx, chunk.ref_end_idx)
            lower[i] = before if lower[i] < 0 else lower[i]
            upper[i] = chunk.ref_end_idx if i == chunk.hyp_end_idx else before
    return lower, upper


def _joined(
    spans: Sequence[_Span], words: Sequence[Sequence[tuple[str, list[int]]]]
) -> list[tuple[float, float, list[int]]]:
    """Start, end and ids of the windows: neighbouring spans share one of up to 30 s; spans without words have none."""
    joined: list[tuple[float, float, list[int]]] = []
    for span, own in zip(spans, words):
        ids = [id_ for _, tokens in own for id_ in tokens]
        if ids and joined and span.end - joined[-1][0] <= _WINDOW_S:
            joined[-1] = (joined[-1][0], span.end, joined[-1][2] + ids)
        elif ids:
            joined.append((span.start, span.end, ids))
    return joined


def _cut(
    audio: Float32[np.ndarray, "n_samples"], start: float, end: float
) -> Float32[np.ndarray, "n_cut"]:
    return audio[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)][:N_SAMPLES]


def align_windows(
    model: Whisper,
    tokenizer: Tokenizer,
    windows: Sequence[Window],
    *,
    heads: Heads,
    progress: Progress | None = None,
) -> list[Word]:
    """Returns the words of all windows in order, with times in seconds from the beginning of the recording.

    Args:
        model: the recogniser.
        tokenizer: its tokenizer.
        windows: see `place`.
        heads: (layer, head) pairs, see `jaxasr.alignment.released_heads` and `jaxasr.alignment.choose_heads`.
        progress: called with the number of windows done and in all.
    """
    words: list[Word] = []
    for done, window in enumerate(windows, start=1):
        memory, _ = model.encode(log_mel(window.audio, model.config.n_mels)[None])
        frames = [n_frames(len(window.audio))]
        [found] = align(
            model,
            tokenizer,
            memory,
            [window.tokens],
            frames,
            heads=heads,
            language=window.language,
            late_start=True,
        )
        words += [word.shifted(window.start) for word in found]
        if progress:
            progress(done, len(windows))
    return words
