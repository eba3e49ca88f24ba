"""Replaces a word of a recording by another one, with its duration and level matched."""

import numpy as np
from jaxtyping import Float

_FRAME = 400  # samples that are moved as one piece, 25 ms
_HOP = _FRAME // 2
_SEARCH = 120  # largest shift of a piece in samples, 7.5 ms
FADE = 96  # half of a crossfade in samples, 6 ms
_TINY = 1e-9


def stretch(audio: Float[np.ndarray, "n"], length: int) -> Float[np.ndarray, "m"]:
    """Changes the duration of audio, and keeps its pitch (WSOLA, Verhelst and Roelands 1993).

    Pieces of 25 ms are moved. Each begins where it continues the piece before it best, at most
    7.5 ms from its place.

    Args:
        audio: samples at 16 kHz.
        length: number of samples of the result.

    Example:
        >>> tone = np.sin(np.arange(8000) / 10)
        >>> len(stretch(tone, 6000))
        6000
    """
    n_pieces = -(-length // _HOP) + 1
    padded = np.pad(audio, (_HOP, _FRAME + _SEARCH + _HOP))
    last = len(padded) - _FRAME - _HOP
    window = np.hanning(_FRAME + 1)[:-1]  # windows at half their length add up to 1
    result = np.zeros((n_pieces + 1) * _HOP)
    begin = 0
    for piece in range(n_pieces):
        if piece:
            wanted = round(piece * _HOP * len(audio) / length)
            begin = _best_continuation(padded, min(begin + _HOP, last), min(wanted, last), last)
        result[piece * _HOP : piece * _HOP + _FRAME] += window * padded[begin : begin + _FRAME]
    return result[_HOP : _HOP + length].astype(audio.dtype)


def _best_continuation(padded: np.ndarray, natural: int, wanted: int, last: int) -> int:
    """Finds the piece near `wanted` that resembles most the piece that follows the last one."""
    first, stop = max(0, wanted - _SEARCH), min(last, wanted + _SEARCH) + 1
    region = padded[first : stop + _FRAME - 1]
    products = np.correlate(region, padded[natural : natural + _FRAME], "valid")
    energies = np.correlate(region**2, np.ones(_FRAME), "valid")
    return first + int(np.argmax(products / np.sqrt(energies + _TINY)))


def cut(
    audio: Float[np.ndarray, "n"], span: tuple[int, int], length: int
) -> Float[np.ndarray, "m"]:
    """Cuts a word, with half a crossfade at both ends, and changes its duration.

    Args:
        audio: samples at 16 kHz.
        span: first sample of the word, and the sample after it.
        length: number of samples of the word afterwards. The result has `2 * FADE` more.

    Example:
        >>> len(cut(np.ones(16_000), (4000, 8000), 3000)) - 2 * FADE
        3000
    """
    start, stop = span
    padded = np.pad(audio, FADE)
    return stretch(padded[start : stop + 2 * FADE], length + 2 * FADE)


def insert(
    audio: Float[np.ndarray, "n"], span: tuple[int, int], word: Float[np.ndarray, "m"], level: float
) -> Float[np.ndarray, "k"]:
    """Replaces a span of a recording by a word, with crossfades at both ends.

    Args:
        audio: the recording, samples at 16 kHz.
        span: first replaced sample, and the sample after the last one.
        word: the result of `cut`.
        level: root mean square of the word afterwards.

    Example:
        >>> audio = np.full(16_000, 0.5)
        >>> same = insert(audio, (4000, 8000), cut(audio, (4000, 8000), 4000), level=0.5)
        >>> bool(np.allclose(same, audio))
        True
    """
    start, stop = span
    padded = np.pad(audio, FADE)
    up = (np.arange(2 * FADE) + 0.5) / (2 * FADE)
    left, right = padded[: start + 2 * FADE].copy(), padded[stop:].copy()
    word = word * (level / max(rms(word), _TINY))
    left[-2 * FADE :] *= up[::-1]
    right[: 2 * FADE] *= up
    word[: 2 * FADE] *= up
    word[-2 * FADE :] *= up[::-1]
    result = np.zeros(start + len(word) + len(padded) - stop - 2 * FADE)
    result[: len(left)] += left
    result[start : start + len(word)] += word
    result[len(result) - len(right) :] += right
    return result[FADE : len(result) - FADE].astype(audio.dtype)


def rms(audio: Float[np.ndarray, "n"]) -> float:
    """Returns the root mean square; 0 for no samples.

    Example:
        >>> rms(np.array([3.0, -3.0]))
        3.0
    """
    return float(np.sqrt(np.mean(np.square(audio)))) if len(audio) else 0.0


def snap(audio: Float[np.ndarray, "n"], sample: int, reach: int, window: int = 160) -> int:
    """Moves a bound of a word to the quietest place nearby.

    Args:
        audio: samples at 16 kHz.
        sample: the bound.
        reach: largest distance in samples.
        window: number of samples whose mean power is compared.

    Example:
        >>> audio = np.ones(1000)
        >>> audio[300:500] = 0
        >>> snap(audio, 350, reach=100, window=200)
        400
    """
    low, high = max(0, sample - reach), min(len(audio), sample + reach)
    padded = np.pad(np.square(audio, dtype=float), (window // 2, window - window // 2))
    power = np.convolve(padded[low : high + window], np.ones(window), "valid")
    return low + int(power.argmin())
