"""Chooses alignment heads for a checkpoint without published ones. Needs no reference times.

The decoder reads the text of each window. `jaxasr.alignment.words.path_scores` then scores how well
each cross-attention head follows the speech. `choose_heads` returns the heads with the highest mean
scores.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Num

from jaxasr.alignment.forced import Window
from jaxasr.alignment.released_heads import Heads, all_heads
from jaxasr.alignment.words import path_scores
from jaxasr.audio import log_mel, n_frames
from jaxasr.config import N_SAMPLES, SAMPLE_RATE
from jaxasr.model import Whisper
from jaxasr.options import Options
from jaxasr.tokenizer import Tokenizer
from jaxasr.transcribe import transcribe

_MIN_TOKENS = 3  # text tokens; a window with fewer is too short to compare heads


def choose_heads(
    model: Whisper, tokenizer: Tokenizer, windows: Sequence[Window], *, n: int | None = None
) -> Heads:
    """Chooses the `n` cross-attention heads that follow the speech best.

    Args:
        model: a Whisper, such as `asr.model`.
        tokenizer: the tokenizer of the same checkpoint, such as `asr.tokenizer`.
        windows: audio with its text, from `speech_windows` or
            `jaxasr.alignment.forced.place_text`.
        n: number of heads to choose. None: the number of heads in one decoder layer.

    Returns:
        Sorted (layer, head) pairs.

    Raises:
        ValueError: `windows` is empty; `n` is below 1 or above the decoder's number of heads.

    Example:
        ```python
        import jaxasr
        from jaxasr.alignment.choose_heads import choose_heads, speech_windows

        asr = jaxasr.load("tiny.en")
        audio = jaxasr.load_audio("experiments/assets/demo.flac")
        windows = speech_windows(asr.model, asr.tokenizer, audio)
        heads = choose_heads(asr.model, asr.tokenizer, windows)
        ```
    """
    candidates = all_heads(model.config)
    n = model.config.n_text_head if n is None else n
    if not 1 <= n <= len(candidates):
        raise ValueError(f"n: expected 1 to {len(candidates)} heads, got {n}.")
    if not windows:
        raise ValueError(
            "windows: expected at least one window with a text of three tokens or more, got none. "
            "Use recordings of speech."
        )
    scores = np.mean([score_heads(model, tokenizer, window) for window in windows], axis=0)
    # A stable sort prefers the lower layer and head if scores are equal.
    best = np.argsort(-scores.ravel(), kind="stable")[:n]
    return tuple(sorted(candidates[i] for i in best))


def speech_windows(
    model: Whisper,
    tokenizer: Tokenizer,
    audio: Num[np.ndarray, "n_samples"],
    *,
    language: str | None = None,
) -> list[Window]:
    """Splits a recording into windows of 30 s with their transcribed text.

    Leaves out windows with fewer than three text tokens and windows with a repetitive text.

    Args:
        model: a Whisper, such as `asr.model`.
        tokenizer: the tokenizer of the same checkpoint, such as `asr.tokenizer`.
        audio: float samples at 16 kHz.
        language: a code or an English name. None: detect it (multilingual checkpoints).

    Example:
        ```python
        from jaxasr.alignment.choose_heads import speech_windows

        windows = speech_windows(asr.model, asr.tokenizer, audio)
        windows[0].start  # 0.0 s
        ```
    """
    # Without timestamps, every window is one segment.
    options = Options(language=language, timestamps=False)
    max_ratio = options.compression_ratio_threshold
    assert max_ratio is not None  # `Options` sets a number by default
    transcript = transcribe(model, tokenizer, audio, options)
    windows = []
    for segment in transcript.segments:
        tokens = tuple(id_ for id_ in segment.tokens if tokenizer.is_text(id_))
        if len(tokens) >= _MIN_TOKENS and segment.compression_ratio <= max_ratio:
            # `seek` is the start of the window in seconds.
            first_sample = round(segment.seek * SAMPLE_RATE)
            samples = np.asarray(audio, np.float32)[first_sample : first_sample + N_SAMPLES]
            windows.append(Window(segment.seek, samples, tokens, transcript.language))
    return windows


def score_heads(model: Whisper, tokenizer: Tokenizer, window: Window) -> Float[np.ndarray, "L H"]:
    """Scores how well every cross-attention head follows the speech of one window.

    Args:
        model: a Whisper, such as `asr.model`.
        tokenizer: the tokenizer of the same checkpoint, such as `asr.tokenizer`.
        window: audio with its text.

    Returns:
        The scores of `jaxasr.alignment.words.path_scores`, by layer and head.

    Example:
        ```python
        from jaxasr.alignment.choose_heads import score_heads, speech_windows

        [window] = speech_windows(asr.model, asr.tokenizer, audio)
        score_heads(asr.model, asr.tokenizer, window).shape  # (4, 6)
        ```
    """
    memory, _ = model.encode(log_mel(window.audio, model.config.n_mels)[None])
    frames = [n_frames(len(window.audio))]
    scores = path_scores(
        model,
        tokenizer,
        memory,
        [window.tokens],
        frames,
        heads=all_heads(model.config),
        language=window.language,
    )
    return scores.reshape(model.config.n_text_layer, model.config.n_text_head)
