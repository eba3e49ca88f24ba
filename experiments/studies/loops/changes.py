"""Changes recordings as transmission channels and damaged files do.

Each function maps 16 kHz samples to float32 samples, and is deterministic.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from interventions.corruptions import band_stop
from jaxasr.config import SAMPLE_RATE

Samples = Float[np.ndarray, "n"]
_MU = 255  # of the mu-law of telephony, ITU-T G.711
# Band of a telephone in Hz, ITU-T G.712.
_TELEPHONE_BAND = (300, 3400)


def over_telephone(audio: Samples) -> Samples:
    """Limits a recording to 300 to 3,400 Hz, and quantises it to 8 bits on the mu-law scale.

    Example:
        >>> tone = 0.1 * np.sin(np.arange(16_000, dtype=np.float32) / 50)  # 51 Hz
        >>> bool(np.abs(over_telephone(tone)).max() < 0.01)
        True
    """
    low, high = _TELEPHONE_BAND
    in_band = band_stop(band_stop(audio, 0, low), high, SAMPLE_RATE / 2)
    compressed = np.sign(in_band) * np.log1p(_MU * np.abs(np.clip(in_band, -1, 1))) / np.log1p(_MU)
    steps = np.round(compressed * 127) / 127
    return (np.sign(steps) * np.expm1(np.abs(steps) * np.log1p(_MU)) / _MU).astype(np.float32)


def faster(audio: Samples, factor: float) -> Samples:
    """Plays a recording faster, which also raises its pitch.

    Args:
        audio: 16 kHz samples.
        factor: ratio of the speeds, at least 1.

    Example:
        >>> len(faster(np.zeros(16_000, np.float32), 1.6))
        10000
    """
    positions = np.arange(int(len(audio) / factor)) * factor
    return np.interp(positions, np.arange(len(audio)), audio).astype(np.float32)


def gained(audio: Samples, decibels: float) -> Samples:
    """Changes the level of a recording. Samples beyond full scale are clipped.

    Example:
        >>> gained(np.array([0.01, 0.5], np.float32), 20).round(3).tolist()
        [0.10000000149011612, 1.0]
    """
    return np.clip(audio * np.float32(10 ** (decibels / 20)), -1, 1)


def overlapping(recordings: Sequence[Samples], seconds: float, level: float = 0.06) -> Samples:
    """Adds recordings of several speakers at equal levels. Shorter recordings are repeated.

    Args:
        recordings: 16 kHz samples of each speaker.
        seconds: length of the sum.
        level: root mean square of the sum.

    Example:
        >>> tones = [np.sin(np.arange(8_000) / k).astype(np.float32) for k in (5, 6)]
        >>> len(overlapping(tones, seconds=1.0))
        16000
    """
    n = round(seconds * SAMPLE_RATE)
    total = np.sum([np.resize(audio / root_mean_square(audio), n) for audio in recordings], axis=0)
    return (total * level / root_mean_square(total)).astype(np.float32)


def reverse(audio: Samples) -> Samples:
    """Reverses a recording in time.

    Example:
        >>> reverse(np.array([1, 2, 3], np.float32)).tolist()
        [3.0, 2.0, 1.0]
    """
    return np.ascontiguousarray(audio[::-1], np.float32)


def swap_bytes(audio: Samples) -> Samples:
    """Exchanges the two bytes of each 16-bit sample, as a reader of the wrong byte order does.

    Example:
        >>> swap_bytes(np.array([1 / 32768], np.float32)).tolist()
        [0.0078125]
    """
    integers = np.round(np.clip(audio, -1, 1) * 32767).astype("<i2")
    return integers.byteswap().astype(np.float32) / 32768


def overdrive(audio: Samples, decibels: float = 40.0) -> Samples:
    """Amplifies a recording until most samples are clipped, then lowers it to half of full scale.

    Example:
        >>> overdrive(np.array([0.5, -0.5], np.float32)).tolist()
        [0.5, -0.5]
    """
    return gained(audio, decibels) / 2


def root_mean_square(audio: Samples) -> float:
    """Returns the root mean square of samples; 1e-9 for silence.

    Example:
        >>> root_mean_square(np.array([0.5, -0.5]))
        0.5
    """
    return max(float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))), 1e-9)


def is_periodic(audio: Samples, least: float = 0.95) -> bool:
    """Returns whether a recording repeats itself, so that a repeating text may be correct.

    Args:
        audio: 16 kHz samples.
        least: smallest correlation of the recording with itself, at a delay of 0.25 s to half of
            its length.

    Example:
        >>> noise = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
        >>> is_periodic(noise), is_periodic(np.tile(noise[:5_000], 4))
        (False, True)
    """
    # The correlation at every delay, from the power spectrum of the padded samples.
    n, centred = len(audio), audio - audio.mean()
    spectrum = np.fft.rfft(centred, 2 * n)
    products = np.fft.irfft(np.abs(spectrum) ** 2)[:n]
    energy = np.concatenate([[0], np.cumsum(np.square(centred, dtype=np.float64))])
    delays = np.arange(SAMPLE_RATE // 4, n // 2)
    # Energies of the two overlapping parts, the first and the last n - delay samples.
    scale = np.sqrt(energy[n - delays] * (energy[n] - energy[delays])) + 1e-9
    return bool(delays.size and (products[delays] / scale).max() > least)
