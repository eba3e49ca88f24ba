"""Prepares recordings and prompts as the inputs of an audio language model."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from jaxasr.audio import log_mel
from jaxasr.audio.features import check_samples
from jaxasr.config import HOP, SAMPLE_RATE, Config


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """Features and prompts of B recordings.

    Attributes:
        mel: log-mel features [B, M, F] of whole windows.
        lengths: int32 [B], mel frames of each recording, without the padding.
        tokens: int32 [B, T], prompts, padded on the left.
        positions: int32 [B, T], positions of the tokens; negative at padding.

    Example:
        ```python
        inputs = lm_asr.inputs([audio[:32_000]], "What is this?")
        prefix, _ = lm_asr.model.encode(inputs.mel, lengths=inputs.lengths)
        logits, _ = lm_asr.model.decode(inputs.tokens, prefix, positions=inputs.positions)
        ```
    """

    mel: Float[np.ndarray, "B M F"]
    lengths: Int[np.ndarray, "B"]
    tokens: Int[np.ndarray, "B T"]
    positions: Int[np.ndarray, "B T"]


def features(
    audios: Sequence[Float[np.ndarray, "_"]], config: Config
) -> tuple[Float[np.ndarray, "B M F"], Int[np.ndarray, "B"]]:
    """Computes the features of recordings, and counts their mel frames before the padding.

    Args:
        audios: 16 kHz samples of recordings of at most one window.
        config: dimensions of the model.

    Returns:
        Log-mel spectrograms [B, M, F], and int32 [B] mel frames of 10 ms.

    Raises:
        ValueError: no recording, or one that is too long, too short or damaged.
    """
    if not audios:
        raise ValueError("audios: expected at least one recording, got none.")
    least = least_samples(config)
    for audio in audios:
        check_samples(audio, config.n_samples)
        if len(audio) < least:
            raise ValueError(
                f"audio: expected at least {least} samples ({1000 * least / SAMPLE_RATE:g} ms), "
                f"the length of an audio token, got {len(audio)}. Pad the recording with zeros."
            )
    mel = np.stack([log_mel(audio, config.n_mels, config.n_mel_frames) for audio in audios])
    return mel, np.array([-(-len(audio) // HOP) for audio in audios], np.int32)


def least_samples(config: Config) -> int:
    """Returns the number of 16 kHz samples of the shortest recording that gives an audio token.

    Args:
        config: dimensions of the model.

    Example:
        >>> from jaxasr.language.inputs import least_samples
        >>> from jaxasr.language.toy import toy_config
        >>> least_samples(toy_config())
        321
    """
    frames_per_token = config.n_audio_ctx // config.n_audio_tokens
    # 2 mel frames are a frame of the encoder. A frame begins with its first sample.
    return HOP * (2 * (frames_per_token - 1)) + 1


def pad_left(
    prompts: Sequence[Sequence[int]], pad: int
) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, "B T"]]:
    """Returns prompts of different lengths as one array, and the positions of their tokens.

    Args:
        prompts: ids of each row.
        pad: id at padding.

    Example:
        >>> pad_left([[5, 6], [7]], pad=0)[1].tolist()
        [[0, 1], [-1, 0]]
    """
    width = max(map(len, prompts))
    tokens = np.array([[pad] * (width - len(ids)) + list(ids) for ids in prompts], np.int32)
    starts = np.array([[width - len(ids)] for ids in prompts], np.int32)
    return tokens, np.arange(width, dtype=np.int32)[None] - starts
