"""Alignment heads for a checkpoint that names none, chosen without reference times.

Each cross-attention head is scored by how well it alone follows the speech (`jaxasr.alignment.words.path_scores`) while the decoder
reads a text of the recordings: the given one, or what the model transcribes itself.
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

_FEWEST_TOKENS = 3  # fewer have no order to follow


def choose_heads(
    model: Whisper, tokenizer: Tokenizer, windows: Sequence[Window], *, n: int | None = None
) -> Heads:
    """Returns the `n` cross-attention heads that follow the speech best, in the order of layers and heads.

    Args:
        model: the recogniser.
        tokenizer: its tokenizer.
        windows: audio with its text, see `jaxasr.alignment.forced`.
        n: how many heads; None: as many as a layer of the decoder has. The published lists are of about that length.

    Raises:
        ValueError: no window; `n` is below 1 or above the number of heads.

    Example:
        `heads = asr.choose_heads(["a.flac", "b.flac"])`, see `Recogniser.choose_heads`.
    """
    heads = all_heads(model.config)
    n = model.config.n_text_head if n is None else n
    if not 1 <= n <= len(heads):
        raise ValueError(f"n: expected 1 to {len(heads)} heads, got {n}.")
    if not windows:
        raise ValueError(
            "windows: expected at least one window with a text of three tokens or more, got none. Use recordings of speech."
        )
    scores = np.mean([score_heads(model, tokenizer, window) for window in windows], axis=0)
    return tuple(sorted(heads[i] for i in np.argsort(-scores.ravel(), kind="stable")[:n]))


def speech_windows(
    model: Whisper,
    tokenizer: Tokenizer,
    audio: Num[np.ndarray, "n_samples"],
    *,
    language: str | None = None,
) -> list[Window]:
    """Returns the windows of 30 s of a recording with what the model transcribes there, to choose heads by.

    Leaves out windows with fewer than three tokens and those whose text repeats itself.
    """
    options = Options(language=language, timestamps=False)
    found, windows = transcribe(model, tokenizer, audio, options), []
    for segment in found.segments:
        tokens = tuple(id_ for id_ in segment.tokens if id_ < tokenizer.special.eot)
        if (
            len(tokens) >= _FEWEST_TOKENS
            and segment.compression_ratio <= options.compression_ratio_threshold
        ):
            first = round(segment.seek * SAMPLE_RATE)
            samples = np.asarray(audio, np.float32)[first : first + N_SAMPLES]
            windows.append(Window(segment.seek, samples, tokens, found.language))
    return windows


def score_heads(model: Whisper, tokenizer: Tokenizer, window: Window) -> Float[np.ndarray, "L H"]:
    """Returns the score of every cross-attention head in one window, by layer and head; see `jaxasr.alignment.words.path_scores`."""
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
