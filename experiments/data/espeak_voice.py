"""Synthesises texts with the voices of espeak-ng."""

import ctypes
import functools

import numpy as np
import scipy.signal
from jaxtyping import Float

from jaxasr.config import SAMPLE_RATE

WORDS_PER_MINUTE = 160  # speed of speech
# Values of espeak-ng's C interface (speak_lib.h): sample rate, playback mode, encoding of the text,
# and number of the parameter for the speed.
_RATE_HZ, _SYNCHRONOUS, _UTF8, _SPEED = 22050, 2, 1, 1
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@functools.lru_cache(maxsize=64)
def synthesise_sentence(text: str, voice: str) -> Float[np.ndarray, "n"]:
    """Synthesises a text with espeak-ng.

    Args:
        text: the text to speak.
        voice: an espeak-ng voice, such as "en-us".

    Returns:
        Samples at 16 kHz, with a peak of 0.7 and 0.2 s of silence at both ends.

    Raises:
        ValueError: an unknown voice.
        OSError: the espeak-ng library cannot be loaded.
    """
    library, chunks = _load_espeak(), []

    @_Callback
    def collect(samples: "ctypes._Pointer[ctypes.c_short]", n: int, _: object) -> int:
        # espeak-ng reuses its buffer after this call, so copy the samples.
        if samples and n:
            chunks.append(np.ctypeslib.as_array(samples, (n,)).copy())
        return 0  # continue

    library.espeak_SetSynthCallback(collect)
    if library.espeak_SetVoiceByName(voice.encode()):
        raise ValueError(f"voice: expected a voice of espeak-ng, got {voice!r}.")
    library.espeak_SetParameter(_SPEED, WORDS_PER_MINUTE, 0)
    data = text.encode()
    # The arguments 0, 1, 0 mean: begin at position 0, positions count characters, no end position.
    library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 1, 0, _UTF8, None, None)
    # 22,050 Hz × 320 / 441 = 16,000 Hz.
    audio = scipy.signal.resample_poly(np.concatenate(chunks).astype(np.float64), 320, 441)
    return np.pad(audio * (0.7 / np.abs(audio).max()), SAMPLE_RATE // 5).astype(np.float32)


@functools.cache
def _load_espeak() -> ctypes.CDLL:
    import espeakng_loader

    library, data = (
        ctypes.CDLL(espeakng_loader.get_library_path()),
        espeakng_loader.get_data_path(),
    )
    # The zeros are the default length of the sound buffer, and no further options.
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), 0)
    if rate != _RATE_HZ:
        raise OSError(f"espeak-ng: expected a sample rate of {_RATE_HZ} Hz, got {rate}.")
    return library
