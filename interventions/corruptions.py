"""Corrupted recordings to patch from: pure functions audio -> audio, float32 at 16 kHz, seeded, of unchanged length."""

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.signal
from jaxtyping import Array, Float

from jaxasr.audio import load_audio
from jaxasr.config import SAMPLE_RATE

Number = int | float
Samples = Float[np.ndarray, "n_samples"] | Float[Array, "n_samples"]
Other = Float[np.ndarray, "n_other"] | Float[Array, "n_other"]
Audio = Float[np.ndarray, "n_samples"]


def noise(audio: Samples, snr_db: Number, seed: int = 0) -> Audio:
    """`audio` plus white Gaussian noise, `snr_db` decibels below its RMS over the whole recording. Raises ValueError for silent audio."""
    audio = _checked(audio)
    if not math.isfinite(snr_db):
        raise ValueError(
            f"snr_db: expected a finite number of decibels, got {snr_db}. Use white_noise_like for noise alone."
        )
    if not audio.any():
        raise ValueError("audio: is silent, so no signal-to-noise ratio is defined for it.")
    return audio + _white(audio, seed) * np.float32(10 ** (-snr_db / 20))


def add(audio: Samples, other: Other, snr_db: Number, seed: int = 0) -> Audio:
    """`audio` plus a recording of noise, `snr_db` decibels below its RMS; the noise starts at a drawn place and is repeated when too short.

    Raises ValueError when either is silent.
    """
    audio, other = _checked(audio), _checked(other)
    start = np.random.default_rng(seed).integers(len(other))
    drawn = np.resize(np.roll(other, -start), len(audio))
    if not audio.any() or not drawn.any():
        raise ValueError(
            "audio, other: one of them is silent, so no signal-to-noise ratio is defined."
        )
    return audio + (drawn * (_rms(audio) / _rms(drawn) * 10 ** (-snr_db / 20))).astype(np.float32)


def white_noise_like(audio: Samples, seed: int = 0) -> Audio:
    """White Gaussian noise of the same length and RMS."""
    return _white(_checked(audio), seed)


def silence(audio: Samples) -> Audio:
    """Zeros of the same length."""
    return np.zeros_like(_checked(audio))


def band_stop(audio: Samples, low_hz: Number, high_hz: Number) -> Audio:
    """Without the frequencies from `low_hz` to `high_hz`: a Butterworth filter of order 8, run both ways, so that nothing is delayed.

    From 0 Hz it is a high-pass, up to 8,000 Hz a low-pass. Raises ValueError for an empty band and for all of it.
    """
    audio, top = _checked(audio), SAMPLE_RATE / 2
    if not 0 <= low_hz < high_hz <= top or (low_hz, high_hz) == (0, top):
        raise ValueError(
            f"low_hz, high_hz: expected 0 <= low < high <= {top:g}, not the whole of it, got {low_hz} and {high_hz}."
        )
    kind, edge = (
        ("highpass", high_hz)
        if low_hz == 0
        else ("lowpass", low_hz)
        if high_hz == top
        else ("bandstop", (low_hz, high_hz))
    )
    sections = scipy.signal.butter(8, edge, kind, fs=SAMPLE_RATE, output="sos")
    padding = min(6 * len(sections) + 3, len(audio) - 1)
    return scipy.signal.sosfiltfilt(sections, audio.astype(np.float64), padlen=padding).astype(
        np.float32
    )


def time_mask(audio: Samples, start_s: Number, stop_s: Number) -> Audio:
    """With zeros from `start_s` to `stop_s`, seconds. Raises ValueError for a span outside of the recording."""
    audio = _checked(audio).copy()
    audio[_span(audio, start_s, stop_s)] = 0
    return audio


def splice(audio: Samples, other: Other, start_s: Number, stop_s: Number) -> Audio:
    """With what `other` has from `start_s` to `stop_s`, seconds. Raises ValueError for a span outside of either recording."""
    audio, other = _checked(audio).copy(), _checked(other)
    span = _span(audio, start_s, stop_s)
    audio[span] = other[_span(other, start_s, stop_s)]
    return audio


def _checked(audio: Samples) -> Audio:
    audio = np.asarray(audio)
    if audio.ndim != 1 or not audio.size or not np.issubdtype(audio.dtype, np.floating):
        raise ValueError(
            f"audio: expected float samples [n] at 16 kHz, got {audio.dtype}{list(audio.shape)}. Use jaxasr.load_audio."
        )
    if not np.isfinite(audio).all():
        raise ValueError("audio: contains NaN or infinity.")
    return audio.astype(np.float32)


def _white(audio: Audio, seed: int) -> Audio:
    """Scaled to exactly the RMS of `audio`: a short draw has an RMS of its own."""
    drawn = np.random.default_rng(seed).standard_normal(len(audio))
    return (drawn * _rms(audio) / _rms(drawn)).astype(np.float32)


def _rms(audio: Float[np.ndarray, "n_samples"]) -> float:
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))


def _span(audio: Audio, start_s: Number, stop_s: Number) -> slice:
    length = len(audio) / SAMPLE_RATE
    if not 0 <= start_s < stop_s <= length:
        span = f"0 <= start < stop <= {length:.3f} s, the length of the recording"
        raise ValueError(f"start_s, stop_s: expected {span}, got {start_s} and {stop_s}.")
    return slice(round(start_s * SAMPLE_RATE), round(stop_s * SAMPLE_RATE))


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a patch comes from: the activations of the recording `of(audio)`, or, where `of` is None, zeros in their place."""

    name: str
    of: Callable[[Samples], Audio] | None


def parse_source(text: str | os.PathLike, seed: int = 0) -> Source:
    """A source as one writes it on a command line.

    `noise` (white, of the same length and RMS), `snr:5` (noise 5 dB below the recording), `silence` (a silent recording),
    `bandstop:300-3000` (Hz), `mask:1.0-2.0` (seconds), `zero` (no recording: the activations themselves are zero), or a file.
    Raises ValueError listing these.
    """
    text = os.fspath(text)
    name, _, argument = text.partition(":")
    plain = {"zero": None, "silence": silence, "noise": lambda audio: white_noise_like(audio, seed)}
    if text in plain:
        return Source(text, plain[text])
    if name == "snr" and argument:
        (snr,) = _numbers(text, argument, 1)
        return Source(text, lambda audio: noise(audio, snr, seed))
    if name in ("bandstop", "mask") and argument:
        low, high = _numbers(text, argument, 2)
        apply = band_stop if name == "bandstop" else time_mask
        return Source(text, lambda audio: apply(audio, low, high))
    if Path(text).is_file():
        other = load_audio(text)
        return Source(text, lambda audio: other)
    raise ValueError(_unknown(text))


def _numbers(text: str, argument: str, n: int) -> list[float]:
    try:
        numbers = [float(part) for part in ([argument] if n == 1 else argument.split("-"))]
    except ValueError:
        numbers = []
    if len(numbers) != n:
        raise ValueError(_unknown(text))
    return numbers


def _unknown(text: str) -> str:
    return f"source: expected noise, zero, silence, snr:DB, bandstop:LOW-HIGH (Hz), mask:START-STOP (seconds) or a file, got {text!r}."
