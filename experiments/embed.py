"""Sound and pictures as data URIs, for pages that open from disk without a network."""
import base64
import io

import numpy as np
from jaxtyping import Float

from jaxasr.config import SAMPLE_RATE

FLOOR = 2.0  # log10 units shown below the loudest mel cell


def audio_uri(audio: Float[np.ndarray, "n"]) -> str:
    """16 kHz mono audio as FLAC, about half the bytes of WAV."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(audio, -1, 1), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return _uri("audio/flac", buffer.getvalue())


def mel_uri(mel: Float[np.ndarray, "M F"]) -> str:
    """A log-mel spectrogram as a grey PNG, one pixel a cell, low frequencies at the bottom, loud is black."""
    from matplotlib.image import imsave

    top = float(mel.max())
    buffer = io.BytesIO()
    # Whisper's features are (log10 + 4) / 4: a quarter of the floor in feature units.
    imsave(buffer, mel, cmap="gray_r", vmin=top - FLOOR * 0.75, vmax=top, origin="lower", format="png")
    return _uri("image/png", buffer.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
