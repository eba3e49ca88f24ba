"""Finds word times of a given text in a recording of any length.

`place_text` splits the recording and the text into windows of at most 30 s, and
`align_windows` aligns the text of each window. A recording of up to 30 s is one window. A longer
recording is first transcribed, and the given words are matched to the transcribed words by edit
distance. Each given word goes to the window of the transcribed segment that it matches.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Num

from jaxasr.alignment.released_heads import Heads
from jaxasr.alignment.spans import (
    WINDOW_S,
    comparable_words,
    cut_points,
    join_spans,
    letters,
    segment_spans,
)
from jaxasr.alignment.words import align
from jaxasr.audio import check_samples, log_mel, n_frames
from jaxasr.config import N_SAMPLES, SAMPLE_RATE
from jaxasr.languages import WITHOUT_SPACES, language_code
from jaxasr.model import Whisper
from jaxasr.options import Options
from jaxasr.tokenizer import Tokenizer
from jaxasr.transcribe import Progress, detect_language, transcribe
from jaxasr.transcript import Word

# Number of control tokens around a text: start, language, task, no timestamps, end of text.
_N_CONTROL_TOKENS = 5
# Sampling temperatures, tried in turn until the text of a window is plausible.
_TEMPERATURES = (0.0, 0.2, 0.4, 0.6)


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of a recording and the text that is spoken in it.

    Attributes:
        start: start of the window, in seconds from the beginning of the recording.
        audio: 16 kHz samples, at most 30 s.
        tokens: ids of the text, without control tokens.
        language: language code of the text.

    Example:
        >>> Window(30.0, np.zeros(16_000, np.float32), tokens=(440,), language="en").start
        30.0
    """

    start: float
    audio: Float32[np.ndarray, "n_samples"]
    tokens: tuple[int, ...]
    language: str


def place_text(
    model: Whisper,
    tokenizer: Tokenizer,
    audio: Num[np.ndarray, "n_samples"],
    text: str,
    *,
    language: str | None = None,
    progress: Progress | None = None,
) -> list[Window]:
    """Splits a recording and its text into windows of at most 30 s.

    Args:
        model: a Whisper, such as `asr.model`.
        tokenizer: the tokenizer of the same checkpoint, such as `asr.tokenizer`.
        audio: float samples at 16 kHz, of any length.
        text: all words that are spoken. Line breaks count as spaces. Times are wrong if the text
            covers only a part of the recording.
        language: a code or an English name. None: detect it (multilingual checkpoints).
        progress: called with the transcribed seconds and the duration in seconds. Not called for a
            recording of up to 30 s, because it needs no transcript.

    Returns:
        The windows that contain text, in order of time.

    Raises:
        ValueError: the text has no words; the text has more tokens than the windows of the
            recording can hold; `audio` is not one recording of finite floats.

    Example:
        ```python
        import jaxasr
        from jaxasr.alignment.forced import align_windows, place_text

        asr = jaxasr.load("tiny.en")
        audio = jaxasr.load_audio("experiments/assets/demo.flac")
        text = asr.transcribe(audio).text
        windows = place_text(asr.model, asr.tokenizer, audio, text)
        words = align_windows(asr.model, asr.tokenizer, windows, heads=asr.alignment_heads)
        ```
    """
    check_samples(audio)
    audio = np.asarray(audio, np.float32)
    duration = len(audio) / SAMPLE_RATE
    if not letters(text):
        raise ValueError(
            f"text: expected words, got {text[:40]!r}. "
            "Give the words that are spoken in the recording."
        )
    if len(audio) <= N_SAMPLES:
        language = _check_or_detect_language(model, tokenizer, audio, language)
        ids = _encode_text(tokenizer, text, language)
        _check_fits(model, ids, start=0.0, end=duration)
        return [Window(0.0, audio, tuple(ids), language)]
    # A text that is too long raises its error here, before the slow transcription.
    ids = _encode_text(tokenizer, text, language or "en")
    _check_fits(model, ids, start=0.0, end=duration)
    options = Options(language=language, temperature=_TEMPERATURES)
    transcript = transcribe(model, tokenizer, audio, options, progress=progress)
    language = transcript.language
    given_words = comparable_words(tokenizer, _encode_text(tokenizer, text, language), language)
    transcribed_words = [
        comparable_words(tokenizer, segment.tokens, language) for segment in transcript.segments
    ]
    spans = segment_spans(
        transcript.segments, [len(words) for words in transcribed_words], duration
    )
    # cuts[i] is the number of given words before span i.
    cuts = cut_points(
        [word for word, _ in given_words],
        [word for words in transcribed_words for word, _ in words],
        spans,
    )
    parts = join_spans(spans, [given_words[a:b] for a, b in itertools.pairwise(cuts)])
    for start, end, ids in parts:
        _check_fits(model, ids, start, end)
    return [
        Window(start, _cut_audio(audio, start, end), tuple(ids), language)
        for start, end, ids in parts
    ]


def _check_or_detect_language(
    model: Whisper, tokenizer: Tokenizer, audio: np.ndarray, language: str | None
) -> str:
    if language is not None or not tokenizer.is_multilingual:
        # Raises `ValueError` if the checkpoint does not know the language.
        tokenizer.sot_sequence(language)
        return language_code(language or "en")
    memory, _ = model.encode(log_mel(audio, model.config.n_mels)[None])
    return next(iter(detect_language(model, tokenizer, memory)[0]))


def _encode_text(tokenizer: Tokenizer, text: str, language: str) -> list[int]:
    prefix = "" if language_code(language) in WITHOUT_SPACES else " "
    return tokenizer.encode(prefix + " ".join(text.split()))


def _check_fits(model: Whisper, ids: Sequence[int], start: float, end: float) -> None:
    """Raises `ValueError` if the windows from `start` to `end` have no room for all the tokens."""
    n_windows = -(-(end - start) // WINDOW_S)  # rounded up
    max_tokens = (model.config.n_text_ctx - _N_CONTROL_TOKENS) * n_windows
    if len(ids) > max_tokens:
        raise ValueError(
            f"text: expected at most {max_tokens:.0f} tokens for the {end - start:.1f} s from "
            f"{start:.1f} s on, got {len(ids)}. Check that the text belongs to this recording and "
            "contains only what is spoken."
        )


def _cut_audio(
    audio: Float32[np.ndarray, "n_samples"], start: float, end: float
) -> Float32[np.ndarray, "n_cut"]:
    # Rounding both ends can give one sample too many, so the result is trimmed to one window.
    return audio[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)][:N_SAMPLES]


def align_windows(
    model: Whisper,
    tokenizer: Tokenizer,
    windows: Sequence[Window],
    *,
    heads: Heads,
    progress: Progress | None = None,
) -> list[Word]:
    """Finds the time of each word in all windows.

    Args:
        model: a Whisper, such as `asr.model`.
        tokenizer: the tokenizer of the same checkpoint, such as `asr.tokenizer`.
        windows: audio with its text, from `place_text`.
        heads: (layer, head) pairs of cross-attention heads that follow the speech, such as
            `asr.alignment_heads`.
        progress: called with the number of aligned windows and the number of all windows.

    Returns:
        Words in order, with times in seconds from the beginning of the recording.

    Example:
        ```python
        from jaxasr.alignment.forced import align_windows, place_text

        windows = place_text(asr.model, asr.tokenizer, audio, asr.transcribe(audio).text)
        words = align_windows(asr.model, asr.tokenizer, windows, heads=asr.alignment_heads)
        ```
    """
    words: list[Word] = []
    for n_done, window in enumerate(windows, start=1):
        memory, _ = model.encode(log_mel(window.audio, model.config.n_mels)[None])
        frames = [n_frames(len(window.audio))]
        [window_words] = align(
            model,
            tokenizer,
            memory,
            [window.tokens],
            frames,
            heads=heads,
            language=window.language,
            late_start=True,
        )
        words += [word.shifted(window.start) for word in window_words]
        if progress:
            progress(n_done, len(windows))
    return words
