"""Computes the log-mel features of a long recording, window by window."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float

from jaxasr.audio.features import log_mel, long_log_mel, pad_or_trim
from jaxasr.config import HOP, Config


@dataclasses.dataclass(frozen=True)
class AudioWindows:
    """The log-mel features of a recording, computed one window at a time.

    Attributes:
        n_frames: mel frames of 10 ms in the recording, without padding.
        width: mel frames per window; 3,000 in released models.
        features: takes the index of a window's first mel frame, and returns the features
            [M, width] of the window.

    Example:
        ```python
        from jaxasr.audio.windows import AudioWindows

        windows = AudioWindows.from_audio(audio, asr.config, padding="audio")
        windows.features(100).shape  # (80, 3000), from 1.00 s on
        windows.n_unpadded_frames(100)  # frames of the recording in this window
        ```
    """

    n_frames: int
    width: int
    features: Callable[[int], Float[Array | np.ndarray, "M F"]]

    @classmethod
    def from_audio(
        cls, audio: Float[np.ndarray, "n_samples"], config: Config, padding: str
    ) -> "AudioWindows":
        """Returns the windows of a recording.

        Args:
            audio: float samples at 16 kHz.
            config: dimensions of the checkpoint.
            padding: "audio" pads the samples of a window with zeros before the features are
                computed. "features" computes the features of the whole recording and pads them
                with zeros.
        """
        n_mels, width = config.n_mels, config.n_mel_frames
        if padding == "audio":
            return cls(
                len(audio) // HOP,
                width,
                lambda seek: log_mel(audio[seek * HOP : (seek + width) * HOP], n_mels, width),
            )
        mel = long_log_mel(audio, n_mels)
        return cls(mel.shape[1], width, lambda seek: pad_or_trim(mel[:, seek:], width))

    def n_unpadded_frames(self, seek: int) -> int:
        """Returns the number of mel frames without padding in the window from frame `seek` on."""
        return min(self.width, self.n_frames - seek)
