"""Makes corrupted recordings, from which a patch can take its activations.

Each corruption maps 16 kHz samples to float32 samples of the same length.
"""

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Array, Float

from jaxasr.audio import load_audio
from jaxasr.config import SAMPLE_RATE

Real = int | float
Samples = Float[np.ndarray, "n_samples"] | Float[Array, "n_samples"]
OtherSamples = Float[np.ndarray, "n_other"] | Float[Array, "n_other"]  # of a second recording
Audio = Float[np.ndarray, "n_samples"]


def noise(audio: Samples, snr_db: Real, seed: int = 0) -> Audio:
    """Adds white Gaussian noise.

    Args:
        audio: float [n_samples] at 16 kHz.
        snr_db: signal-to-noise ratio in decibels. The RMS of all of `audio` is the signal.
        seed: seed of the noise.

    Raises:
        ValueError: the audio is silent, or the ratio is not finite.

    Example:
        >>> from interventions import corruptions
        >>> tone = np.sin(np.arange(16_000, dtype=np.float32) / 6)
        >>> added = corruptions.noise(tone, snr_db=20) - tone
        >>> bool(np.isclose(np.sqrt((added**2).mean() / (tone**2).mean()), 0.1, atol=1e-3))
        True
    """
    audio = _check_samples(audio)
    if not math.isfinite(snr_db):
        raise ValueError(
            f"snr_db: expected a finite number of decibels, got {snr_db}. "
            "Use white_noise_like for noise alone."
        )
    if not audio.any():
        raise ValueError("audio: is silent, so its signal-to-noise ratio is not defined.")
    return audio + _white_noise(audio, seed) * np.float32(10 ** (-snr_db / 20))


def add(audio: Samples, other: OtherSamples, snr_db: Real, seed: int = 0) -> Audio:
    """Adds a recording of noise, which starts at a random sample.

    The noise is repeated if it is shorter than `audio`.

    Args:
        audio: float [n_samples] at 16 kHz.
        other: the noise, at 16 kHz.
        snr_db: signal-to-noise ratio in decibels. The RMS of all of `audio` is the signal.
        seed: seed of the random start.

    Raises:
        ValueError: either recording is silent.

    Example:
        >>> from interventions import corruptions
        >>> tone = np.sin(np.arange(16_000, dtype=np.float32) / 6)
        >>> corruptions.add(tone, tone[:4_000], snr_db=5).shape
        (16000,)
    """
    audio, other = _check_samples(audio), _check_samples(other)
    start = np.random.default_rng(seed).integers(len(other))
    added = np.resize(np.roll(other, -start), len(audio))  # np.resize repeats the noise
    if not audio.any() or not added.any():
        raise ValueError(
            "audio, other: one of them is silent, so the signal-to-noise ratio is not defined."
        )
    gain = _rms(audio) / _rms(added) * 10 ** (-snr_db / 20)
    return audio + (added * gain).astype(np.float32)


def white_noise_like(audio: Samples, seed: int = 0) -> Audio:
    """Replaces a recording by white Gaussian noise of the same length and RMS.

    Args:
        audio: float [n_samples] at 16 kHz.
        seed: seed of the noise.

    Example:
        >>> from interventions import corruptions
        >>> corruptions.white_noise_like(np.ones(16_000, np.float32)).shape
        (16000,)
    """
    return _white_noise(_check_samples(audio), seed)


def silence(audio: Samples) -> Audio:
    """Replaces a recording by zeros of the same length.

    Example:
        >>> from interventions import corruptions
        >>> corruptions.silence(np.ones(3, np.float32)).tolist()
        [0.0, 0.0, 0.0]
    """
    return np.zeros_like(_check_samples(audio))


def band_stop(audio: Samples, low_hz: Real, high_hz: Real) -> Audio:
    """Removes a band of frequencies with a Butterworth filter of order 8.

    The filter runs forwards and backwards, so the result is not delayed.

    Args:
        audio: float [n_samples] at 16 kHz.
        low_hz: lower edge; at 0 Hz the filter is a high-pass.
        high_hz: upper edge; at 8,000 Hz the filter is a low-pass.

    Raises:
        ValueError: the band is empty, or it covers all frequencies.

    Example:
        >>> from interventions import corruptions
        >>> tone = np.sin(2 * np.pi * 1_000 * np.arange(16_000) / 16_000)
        >>> bool(np.abs(corruptions.band_stop(tone, 800, 1_200)[4_000:8_000]).max() < 0.01)
        True
    """
    import scipy.signal  # imported here because the import takes half a second

    audio, nyquist_hz = _check_samples(audio), SAMPLE_RATE / 2
    if not 0 <= low_hz < high_hz <= nyquist_hz or (low_hz, high_hz) == (0, nyquist_hz):
        raise ValueError(
            f"low_hz, high_hz: expected 0 <= low < high <= {nyquist_hz:g}, not the whole range, "
            f"got {low_hz} and {high_hz}."
        )
    filter_type, edges_hz = "bandstop", (low_hz, high_hz)
    if low_hz == 0:
        filter_type, edges_hz = "highpass", high_hz
    elif high_hz == nyquist_hz:
        filter_type, edges_hz = "lowpass", low_hz
    sos = np.asarray(scipy.signal.butter(8, edges_hz, filter_type, fs=SAMPLE_RATE, output="sos"))
    # The default of SciPy is 6·sections + 3. The padding must be shorter than the recording.
    padding = min(6 * len(sos) + 3, len(audio) - 1)
    filtered = scipy.signal.sosfiltfilt(sos, audio.astype(np.float64), padlen=padding)
    return filtered.astype(np.float32)  # filtered in float64 for accuracy


def time_mask(audio: Samples, start_s: Real, stop_s: Real) -> Audio:
    """Silences a span of time.

    Args:
        audio: float [n_samples] at 16 kHz.
        start_s: start in seconds.
        stop_s: end in seconds.

    Raises:
        ValueError: the span is empty or not within the recording.

    Example:
        >>> from interventions import corruptions
        >>> masked = corruptions.time_mask(np.ones(16_000, np.float32), 0.25, 0.5)
        >>> int((masked == 0).sum())
        4000
    """
    audio = _check_samples(audio).copy()
    audio[_sample_range(audio, start_s, stop_s)] = 0
    return audio


def splice(audio: Samples, other: OtherSamples, start_s: Real, stop_s: Real) -> Audio:
    """Replaces a span of time by the same span of another recording.

    Args:
        audio: float [n_samples] at 16 kHz.
        other: the recording to copy from, at 16 kHz.
        start_s: start in seconds.
        stop_s: end in seconds.

    Raises:
        ValueError: the span is empty or not within both recordings.

    Example:
        >>> from interventions import corruptions
        >>> ones, zeros = np.ones(16_000, np.float32), np.zeros(16_000, np.float32)
        >>> int(corruptions.splice(ones, zeros, 0.25, 0.5).sum())
        12000
    """
    audio, other = _check_samples(audio).copy(), _check_samples(other)
    span = _sample_range(audio, start_s, stop_s)
    audio[span] = other[_sample_range(other, start_s, stop_s)]
    return audio


def _check_samples(audio: Samples | OtherSamples) -> Audio:
    samples = np.asarray(audio)
    if samples.ndim != 1 or not samples.size or not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(
            "audio: expected float samples [n] at 16 kHz, "
            f"got {samples.dtype}{list(samples.shape)}. Use jaxasr.load_audio."
        )
    if not np.isfinite(samples).all():
        raise ValueError("audio: contains NaN or infinity.")
    return samples.astype(np.float32)


def _white_noise(audio: Audio, seed: int) -> Audio:
    """Draws white noise and scales it to exactly the RMS of `audio`."""
    drawn = np.random.default_rng(seed).standard_normal(len(audio))
    return (drawn * _rms(audio) / _rms(drawn)).astype(np.float32)


def _rms(audio: Float[np.ndarray, "n_samples"]) -> float:
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))


def _sample_range(audio: Audio, start_s: Real, stop_s: Real) -> slice:
    duration_s = len(audio) / SAMPLE_RATE
    if not 0 <= start_s < stop_s <= duration_s:
        raise ValueError(
            f"start_s, stop_s: expected 0 <= start < stop <= {duration_s:.3f} s, "
            f"the length of the recording, got {start_s} and {stop_s}."
        )
    return slice(round(start_s * SAMPLE_RATE), round(stop_s * SAMPLE_RATE))


@dataclasses.dataclass(frozen=True)
class Source:
    """The recording that a patch comes from.

    Attributes:
        name: the text given on the command line, such as "snr:5".
        make_recording: function from the target's samples to the source's. None for "zero", which
            needs no recording.

    Example:
        >>> from interventions import corruptions
        >>> corruptions.parse_source("zero")
        Source(name='zero', make_recording=None)
    """

    name: str
    make_recording: Callable[[Samples], Audio] | None


def parse_source(text: str | os.PathLike, seed: int = 0) -> Source:
    """Parses a source of the command line.

    Args:
        text: `noise` (white, of the same length and RMS), `snr:5` (adds noise at 5 dB SNR),
            `silence` (a silent recording), `bandstop:300-3000` (Hz), `mask:1.0-2.0` (seconds),
            `zero` (zero activations), or the path of an audio file.
        seed: seed of the noise.

    Raises:
        ValueError: `text` is none of these.

    Example:
        >>> from interventions import corruptions
        >>> source = corruptions.parse_source("mask:0-0.5")
        >>> int(source.make_recording(np.ones(16_000, np.float32)).sum())
        8000
    """
    text = os.fspath(text)
    name, _, argument = text.partition(":")
    without_argument = {
        "zero": None,
        "silence": silence,
        "noise": lambda audio: white_noise_like(audio, seed),
    }
    if text in without_argument:
        return Source(text, without_argument[text])
    if name == "snr" and argument:
        (snr_db,) = _parse_numbers(text, argument, n=1)
        return Source(text, lambda audio: noise(audio, snr_db, seed))
    if name in ("bandstop", "mask") and argument:
        low, high = _parse_numbers(text, argument, n=2)
        corrupt = band_stop if name == "bandstop" else time_mask
        return Source(text, lambda audio: corrupt(audio, low, high))
    if Path(text).is_file():
        other = load_audio(text)
        return Source(text, lambda audio: other)
    raise ValueError(_unknown_source_message(text))


def _parse_numbers(text: str, argument: str, n: int) -> list[float]:
    try:
        numbers = [float(part) for part in ([argument] if n == 1 else argument.split("-"))]
    except ValueError:
        numbers = []
    if len(numbers) != n:
        raise ValueError(_unknown_source_message(text))
    return numbers


def _unknown_source_message(text: str) -> str:
    return (
        "source: expected noise, zero, silence, snr:DB, bandstop:LOW-HIGH (Hz), "
        f"mask:START-STOP (seconds) or a file, got {text!r}."
    )
