"""Finds word times of a given text in a recording of any length.

`place_text` splits the text over windows of at most 30 s. `align_windows` aligns each part in its
window. A recording of up to 30 s is one window. The model transcribes a longer one, and the given
words are matched to the transcribed words by edit distance. The words that match a transcribed
segment are placed at its times.
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

_N_CONTROL = 5  # tokens of the context that are not text
_TEMPERATURES = (0.0, 0.2, 0.4, 0.6)  # for windows that are repetitive or improbable


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of a recording with the text that is spoken in it.

    Attributes:
        start: seconds from the beginning of the recording.
        audio: 16 kHz samples, at most 30 s.
        tokens: ids of the text, without control tokens.
        language: language code of the text.
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
        model: the recogniser's model.
        tokenizer: the tokenizer of the model.
        audio: float samples at 16 kHz, of any length.
        text: all words that are spoken; line breaks count as spaces. A text of only a part of the
            recording gets wrong times.
        language: a code or an English name. None: detect it (multilingual checkpoints).
        progress: called with the seconds transcribed and the duration in seconds, if the recording
            is longer than 30 s.

    Returns:
        The windows that hold the text, in order of time.

    Raises:
        ValueError: the text has no words, or more than fit the recording; `audio` is not one
            recording of finite floats.

    Example:
        ```python
        import jaxasr
        from jaxasr.alignment.forced import align_windows, place

        asr = jaxasr.load("tiny.en")
        audio = jaxasr.load_audio("experiments/assets/demo.flac")
        text = asr.transcribe(audio).text
        windows = place(asr.model, asr.tokenizer, audio, text)
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
        language = _language(model, tokenizer, audio, language)
        ids = _encode_text(tokenizer, text, language)
        _check_fits(model, ids, 0.0, duration)
        return [Window(0.0, audio, tuple(ids), language)]
    _check_fits(model, _encode_text(tokenizer, text, language or "en"), 0.0, duration)
    options = Options(language=language, temperature=_TEMPERATURES)
    transcript = transcribe(model, tokenizer, audio, options, progress=progress)
    language = transcript.language
    given = comparable_words(tokenizer, _encode_text(tokenizer, text, language), language)
    transcribed = [
        comparable_words(tokenizer, segment.tokens, language) for segment in transcript.segments
    ]
    spans = segment_spans(transcript.segments, [len(words) for words in transcribed], duration)
    cuts = cut_points(
        [word for word, _ in given], [word for words in transcribed for word, _ in words], spans
    )
    parts = join_spans(spans, [given[a:b] for a, b in itertools.pairwise(cuts)])
    for start, end, ids in parts:
        _check_fits(model, ids, start, end)
    return [
        Window(start, _cut_audio(audio, start, end), tuple(ids), language)
        for start, end, ids in parts
    ]


def _language(model: Whisper, tokenizer: Tokenizer, audio: np.ndarray, language: str | None) -> str:
    if language is not None or not tokenizer.is_multilingual:
        # Raises if the checkpoint does not have the language.
        tokenizer.sot_sequence(language)
        return language_code(language or "en")
    memory, _ = model.encode(log_mel(audio, model.config.n_mels)[None])
    return next(iter(detect_language(model, tokenizer, memory)[0]))


def _encode_text(tokenizer: Tokenizer, text: str, language: str) -> list[int]:
    lead = "" if language_code(language) in WITHOUT_SPACES else " "
    return tokenizer.encode(lead + " ".join(text.split()))


def _check_fits(model: Whisper, ids: Sequence[int], start: float, end: float) -> None:
    """Raises `ValueError` if the text does not fit the contexts of the windows of this time."""
    room = (model.config.n_text_ctx - _N_CONTROL) * -(-(end - start) // WINDOW_S)
    if len(ids) > room:
        raise ValueError(
            f"text: expected at most {room:.0f} tokens for the {end - start:.1f} s from "
            f"{start:.1f} s on, got {len(ids)}. Check that the text belongs to this recording and "
            "contains only what is spoken."
        )


def _cut_audio(
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
    """Finds the times of the words of all windows.

    Args:
        model: the recogniser's model.
        tokenizer: the tokenizer of the model.
        windows: audio with its text, from `place_text`.
        heads: (layer, head) pairs, see `jaxasr.alignment.released_heads` and
            `jaxasr.alignment.choose_heads`.
        progress: called with the number of aligned windows and the number of all windows.

    Returns:
        Words in order, with times in seconds from the beginning of the recording.
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
