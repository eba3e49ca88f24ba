"""Computes the log-mel features that the encoder reads, and the times of encoder frames."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Float32, Num

from jaxasr.config import FRAMES_PER_S, HOP, N_MEL_FRAMES, N_SAMPLES, SAMPLE_RATE, SAMPLES_PER_FRAME

N_FFT = 400  # samples in a short-time window: 25 ms
MEL_COUNTS = (80, 128)  # numbers of mel bands in released checkpoints; 128 from large-v3 on
# Largest accepted magnitude of a sample. Samples of recordings lie in [-1, 1]. The features of
# samples up to this limit do not overflow in float32.
MAX_MAGNITUDE = 1e4


def n_frames(n_samples: int) -> int:
    """Returns the length of a recording in encoder frames of 20 ms, rounded up.

    The frames after this length are padding of the window.

    Args:
        n_samples: length in samples at 16 kHz.

    Raises:
        ValueError: the length is negative.

    Example:
        >>> n_frames(16_000)
        50
    """
    if n_samples < 0:
        raise ValueError(f"n_samples: expected a length of at least 0, got {n_samples}.")
    return -(-n_samples // SAMPLES_PER_FRAME)


def frame_to_seconds(frame: Any) -> Any:
    """Returns the start of an encoder frame in seconds. Frame i lasts from i / 50 to (i + 1) / 50.

    Args:
        frame: index of a frame, or an array of indices.

    Example:
        >>> frame_to_seconds(50)
        1.0
    """
    return frame / FRAMES_PER_S


def pad_or_trim(
    audio: Num[Array | np.ndarray, "*batch n"], length: int = N_SAMPLES
) -> Num[Array | np.ndarray, "*batch length"]:
    """Pads the last axis with zeros to the size `length`, or cuts off the end.

    Args:
        audio: samples or features with time as the last axis.
        length: size of the last axis (default: 30 s of samples).

    Example:
        >>> pad_or_trim(np.ones(2), 3)
        array([1., 1., 0.])
    """
    audio = audio[..., :length]
    xp = jnp if isinstance(audio, jax.Array) else np
    return xp.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(0, length - audio.shape[-1])])


@functools.cache
def mel_filters(n_mels: int) -> Float32[np.ndarray, "M 201"]:
    """Returns triangular filters of unit area on the Slaney mel scale, 0 to 8,000 Hz.

    The filters are bitwise equal to those of `librosa.filters.mel`. They are computed here, because
    importing librosa takes a second.

    Args:
        n_mels: 80, or 128 for large-v3 and later.

    Returns:
        Weights [M, 201] of the bins of a 400-point Fourier transform, per mel band.

    Raises:
        ValueError: `n_mels` is not 80 or 128.

    Example:
        >>> mel_filters(80).shape
        (80, 201)
    """
    if n_mels not in MEL_COUNTS:
        raise ValueError(
            f"n_mels: expected one of {MEL_COUNTS} (a model's `config.n_mels`), got {n_mels!r}."
        )
    edges, bins = _mel_edges(n_mels + 2)[:, None], np.fft.rfftfreq(N_FFT, 1 / SAMPLE_RATE)
    width, distance = np.diff(edges, axis=0), bins - edges
    # Each triangle rises from edge i to edge i + 1 and falls to edge i + 2.
    rising, falling = distance[:-2] / width[:-1], -distance[2:] / width[1:]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles.astype(np.float32) * (2 / (edges[2:] - edges[:-2]))).astype(np.float32)


def _mel_edges(n: int) -> np.ndarray:
    """Returns `n` frequencies in Hz at equal distances on Slaney's mel scale."""
    # The scale is linear up to 1,000 Hz, with 3 mel per 200 Hz. Above 1,000 Hz it is logarithmic,
    # with 27 mel per factor of 6.4.
    knee, step = 15.0, np.log(6.4) / 27  # 15 mel are 1,000 Hz; log of the factor per mel above
    mels = np.linspace(0, knee + np.log(SAMPLE_RATE / 2 / 1000) / step, n)
    return np.where(mels < knee, mels * 200 / 3, 1000 * np.exp(step * (mels - knee)))


def log_mel(
    audio: Num[Array | np.ndarray, "*n_samples"], n_mels: int, n_frames: int = N_MEL_FRAMES
) -> Float32[Array, "M F"]:
    """Returns log-mel features of one recording of at most 30 s, padded with zeros to 30 s.

    Runs on the default device, also under `jax.jit` and `jax.vmap`. For a batch of recordings of
    the same length, use `jax.vmap(lambda audio: log_mel(audio, 80))(batch)`.

    Source: openai/whisper `log_mel_spectrogram`. The features are equal to those of
    `transformers.WhisperFeatureExtractor` within 1e-4.

    Args:
        audio: float samples at 16 kHz in [-1, 1], at most 30 s.
        n_mels: 80, or 128 for large-v3 and later (`config.n_mels`).
        n_frames: mel frames of 10 ms in the model's window (`config.n_mel_frames`). Released
            models have 3,000, which are 30 s.

    Raises:
        ValueError: `audio` has the wrong rank, type or length; `n_mels` is not 80 or 128; a sample
            is NaN, infinite or of magnitude above 10,000 (not checked under `jit`).

    Example:
        >>> log_mel(np.zeros(16_000, np.float32), 80).shape
        (80, 3000)
    """
    filters = mel_filters(n_mels)
    check_samples(audio, n_frames * HOP)
    if not isinstance(audio, jax.Array):
        audio = np.asarray(audio, np.float32)
    return _compile(_compute_log_mel)(
        pad_or_trim(audio, n_frames * HOP).astype(jnp.float32), filters
    )


def long_log_mel(audio: Num[np.ndarray, "*n_samples"], n_mels: int) -> Float32[np.ndarray, "M F"]:
    """Returns log-mel features of a recording of any length, on the host.

    Clips values at 80 dB below the loudest bin of the whole recording, as in openai/whisper
    `transcribe`. In contrast, `log_mel` clips relative to the loudest bin of its window.

    Args:
        audio: float samples at 16 kHz in [-1, 1].
        n_mels: 80, or 128 for large-v3 and later (`config.n_mels`).

    Returns:
        Features [M, F] of F = n_samples // 160 frames of 10 ms.

    Raises:
        ValueError: as in `log_mel`, except for the length.

    Example:
        >>> long_log_mel(np.zeros(640_000, np.float32), 80).shape
        (80, 4000)
    """
    filters = mel_filters(n_mels)
    check_samples(audio)
    n_frames = len(audio) // HOP
    # The last window includes silence after the recording. At an abrupt end, the step to silence
    # makes a click that may be the loudest bin, as in openai/whisper.
    n_windows = n_frames // N_MEL_FRAMES + 1
    padded = pad_or_trim(np.asarray(audio, np.float32), n_windows * N_SAMPLES + N_FFT // 2)
    padded = np.pad(padded, (N_FFT // 2, 0), mode="reflect")
    # Neighbouring windows overlap by one short-time window.
    windows = [padded[i * N_SAMPLES : (i + 1) * N_SAMPLES + N_FFT] for i in range(n_windows)]
    log_power = np.concatenate(
        [_compile(_compute_log10_mel)(window, filters) for window in windows], axis=1
    )
    return _clip_and_scale(log_power, np)[:, :n_frames]


def check_samples(audio: Any, longest: int | None = None) -> None:
    """Checks that `audio` is one recording of finite float samples of magnitude at most 10,000.

    Args:
        audio: samples.
        longest: largest number of samples. None: no limit.

    Raises:
        ValueError: `audio` has another rank, type or length, or a sample is not finite or too
            large. The values are not checked under `jit`.

    Example:
        >>> check_samples(np.zeros(16_000, np.float32))
    """
    shape, dtype = np.shape(audio), getattr(audio, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        got = dtype or type(audio).__name__
        raise ValueError(
            f"audio: expected floating point samples in [-1, 1], got {got}. "
            "Divide 16-bit integers by 2**15."
        )
    if len(shape) != 1:
        raise ValueError(
            f"audio: expected one recording [n_samples], got shape {shape}. "
            "Average channels; use jax.vmap for a batch."
        )
    if shape[0] == 0:
        raise ValueError("audio: expected at least one sample, got 0.")
    if longest is not None and shape[0] > longest:
        raise ValueError(
            f"audio: expected at most {longest} samples ({longest / SAMPLE_RATE:g} s), got "
            f"{shape[0]}. For a longer recording call `transcribe`, or cut it with "
            "`jaxasr.audio.pad_or_trim`."
        )
    if not isinstance(audio, Tracer):
        check_values(audio, "audio")


def check_values(audio: Num[Array | np.ndarray, "n_samples"], name: str) -> None:
    """Checks that samples are finite and of magnitude at most 10,000.

    Args:
        audio: samples.
        name: file or argument that the error names.

    Raises:
        ValueError: a sample is NaN, infinite or too large.

    Example:
        >>> check_values(np.zeros(16_000, np.float32), "silence.wav")
    """
    # Unlike abs(), max() and min() allocate no array. If any sample is NaN, `loudest` is NaN and
    # the comparison is False.
    loudest = max(float(audio.max()), -float(audio.min()))
    if loudest <= MAX_MAGNITUDE:
        return
    xp = jnp if isinstance(audio, jax.Array) else np
    n_bad = int(audio.size - xp.isfinite(audio).sum())
    if n_bad:
        raise ValueError(
            f"{name}: expected finite samples, got {n_bad} of {audio.size} NaN or infinite. "
            "Repair or drop them first."
        )
    raise ValueError(
        f"{name}: expected samples in [-1, 1], got one of magnitude {loudest:.3g}. "
        "Divide integers by their largest value (2**15 for 16 bits). The file may be damaged."
    )


@functools.cache
def _compile(fn: Callable) -> Callable:
    # Callers pad the audio first, so there is one program per window length and number of mels.
    return jax.jit(fn)


def _compute_log_mel(
    audio: Float[Array, "n_samples"], filters: Float[Array, "M 201"]
) -> Float[Array, "M F"]:
    return _clip_and_scale(
        _compute_log10_mel(jnp.pad(audio, N_FFT // 2, mode="reflect"), filters), jnp
    )


def _compute_log10_mel(
    padded: Float[Array, "n_padded"], filters: Float[Array, "M 201"]
) -> Float[Array, "M F"]:
    # Leaving out the last value makes the Hann window periodic, as torch.hann_window is.
    window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)
    spectrum = jnp.fft.rfft(_split_frames(padded) * window)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    mel = jnp.matmul(filters, power.T, precision="highest")
    return jnp.log10(jnp.maximum(mel, 1e-10))


def _clip_and_scale(log_power: Any, xp: Any) -> Any:
    # 8 powers of ten are 80 dB. All constants are those of openai/whisper.
    return (xp.maximum(log_power, log_power.max() - 8.0) + 4.0) / 4.0


def _split_frames(padded: Float[Array, "n_padded"]) -> Float[Array, "F 400"]:
    # Frame i has its centre at sample 160 i of the audio before padding. The last frame is left
    # out, as in openai/whisper. Frames of 400 samples overlap, so each is joined from three
    # consecutive blocks of 160 samples and cut to 400.
    n_blocks, n_frames = math.ceil(padded.size / HOP), (padded.size - N_FFT) // HOP
    blocks = jnp.pad(padded, (0, n_blocks * HOP - padded.size)).reshape(n_blocks, HOP)
    shifted = [blocks[i : i + n_frames] for i in range(n_blocks - n_frames)]
    return jnp.concatenate(shifted, axis=1)[:, :N_FFT]
