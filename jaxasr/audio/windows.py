"""Computes the log-mel features of a long recording, window by window."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float

from jaxasr.audio.features import log_mel, long_log_mel, pad_or_trim
from jaxasr.config import HOP, Config


@dataclasses.dataclass(frozen=True)
class AudioWindows:
    """Features of a recording, one window at a time.

    Attributes:
        n_frames: mel frames of 10 ms in the recording, without padding.
        width: mel frames per window; 3,000 in released models.
        features: maps the first mel frame of a window to the features [M, width] of the window.
    """

    n_frames: int
    width: int
    features: Callable[[int], Float[Array | np.ndarray, "M F"]]

    @classmethod
    def from_audio(
        cls, audio: Float[np.ndarray, "n_samples"], config: Config, padding: str
    ) -> "AudioWindows":
        """Returns the windows of `audio`. `padding` is "audio" or "features" (see `Options`)."""
        n_mels, width = config.n_mels, config.n_mel_frames
        if padding == "audio":
            return cls(
                len(audio) // HOP,
                width,
                lambda seek: log_mel(audio[seek * HOP : (seek + width) * HOP], n_mels, width),
            )
        mel = long_log_mel(audio, n_mels)
        return cls(mel.shape[1], width, lambda seek: pad_or_trim(mel[:, seek:], width))

    def true_frames(self, seek: int) -> int:
        """Returns how many mel frames are not padding in the window that starts at frame `seek`."""
        return min(self.width, self.n_frames - seek)
