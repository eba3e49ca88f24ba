"""Encodes sounds and pictures as data URIs, so that a page is one file and loads no other."""

import base64
import io

import numpy as np
from jaxtyping import Float

from jaxasr.config import SAMPLE_RATE

# Difference between the log-mel value of a black and of a white pixel. A log-mel value of Whisper
# is (log10 power + 4) / 4, and 10 dB are 1 in log10 power, so 1.5 corresponds to 60 dB.
MEL_RANGE = 1.5


def audio_uri(audio: Float[np.ndarray, "n"]) -> str:
    """Encodes 16 kHz mono audio as FLAC, which has about half the bytes of WAV.

    Example:
        >>> audio_uri(np.zeros(16_000, np.float32))[:22]
        'data:audio/flac;base64'
    """
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(audio, -1, 1), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return _make_uri("audio/flac", buffer.getvalue())


def mel_uri(mel: Float[np.ndarray, "M F"]) -> str:
    """Encodes a log-mel spectrogram as a grey PNG.

    Each value is one pixel. Low frequencies are at the bottom. The largest value is black, and
    values at least `MEL_RANGE` below it are white.

    Example:
        >>> mel_uri(np.zeros((80, 3000), np.float32))[:21]
        'data:image/png;base64'
    """
    from PIL import Image  # imports much faster than matplotlib

    brightness = np.clip((mel.max() - mel) / MEL_RANGE, 0, 1)
    buffer = io.BytesIO()
    # A picture begins with its top row, but mel bins begin with the lowest frequency.
    Image.fromarray(np.round(255 * brightness[::-1]).astype(np.uint8)).save(
        buffer, format="PNG", optimize=True
    )
    return png_uri(buffer.getvalue())


def png_uri(data: bytes) -> str:
    """Encodes the bytes of a PNG file.

    Example:
        >>> png_uri(b"")
        'data:image/png;base64,'
    """
    return _make_uri("image/png", data)


def _make_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
