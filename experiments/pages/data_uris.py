"""Encodes sound and pictures as data URIs, so that a page is one file that needs no network."""

import base64
import io

import numpy as np
from jaxtyping import Float

from jaxasr.config import SAMPLE_RATE

# A cell this far below the loudest one is white. Whisper's features are (log10 power + 4) / 4, so
# that 1.5 is 60 dB.
MEL_RANGE = 1.5


def audio_uri(audio: Float[np.ndarray, "n"]) -> str:
    """Encodes 16 kHz mono audio as FLAC, which takes about half the bytes of WAV."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(audio, -1, 1), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return _uri("audio/flac", buffer.getvalue())


def mel_uri(mel: Float[np.ndarray, "M F"]) -> str:
    """Encodes a log-mel spectrogram as a grey PNG.

    Each cell is one pixel. Low frequencies are at the bottom. The loudest cell is black.
    """
    from PIL import Image  # imports much faster than matplotlib

    brightness = np.clip((mel.max() - mel) / MEL_RANGE, 0, 1)
    buffer = io.BytesIO()
    Image.fromarray(np.round(255 * brightness[::-1]).astype(np.uint8)).save(
        buffer, format="PNG", optimize=True
    )
    return png_uri(buffer.getvalue())


def png_uri(data: bytes) -> str:
    """Encodes the bytes of a PNG file, such as a figure."""
    return _uri("image/png", data)


def _uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
