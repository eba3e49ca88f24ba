"""Log-mel features of samples, as the encoder takes them, and the clock of encoder frames of 20 ms."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Num

from jaxasr.config import FRAMES_PER_S, HOP, N_MEL_FRAMES, N_SAMPLES, SAMPLE_RATE, SAMPLES_PER_FRAME

N_FFT = 400  # samples in a short-time window: 25 ms
MEL_COUNTS = (80, 128)  # what released checkpoints were trained on: 128 from large-v3 on
LOUDEST = 1e4  # far above any recording in [-1, 1], and far below what overflows float32 when it is squared and summed


def n_frames(n_samples: int) -> int:
    """True length of a recording in encoder frames of 20 ms: the last, partly filled frame counts; frames after it are padding.

    Raises `ValueError` for a negative length.
    """
    if n_samples < 0:
        raise ValueError(f"n_samples: expected a length of at least 0, got {n_samples}.")
    return -(-n_samples // SAMPLES_PER_FRAME)


def frame_to_seconds(frame: Any) -> Any:
    """Start of encoder frame `frame` in seconds (a number or an array): frame i covers [i / 50, (i + 1) / 50)."""
    return frame / FRAMES_PER_S


def seconds_to_frame(seconds: Any) -> Any:
    """The encoder frame that covers a time in seconds (a number or an array); the inverse of `frame_to_seconds` on frame starts."""
    # 0.58 * 50 is 28.999999999999996: a start of a frame belongs to that frame.
    frame = np.floor(np.round(np.asarray(seconds) * FRAMES_PER_S, 6)).astype(int)
    return int(frame) if frame.ndim == 0 else frame


def pad_or_trim(
    audio: Num[Array | np.ndarray, "*batch n"], length: int = N_SAMPLES
) -> Num[Array | np.ndarray, "*batch length"]:
    """Zeros appended, or the end cut off, so that the last axis is `length` (default 30 s of samples)."""
    audio = audio[..., :length]
    xp = jnp if isinstance(audio, jax.Array) else np
    return xp.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(0, length - audio.shape[-1])])


@functools.cache
def mel_filters(n_mels: int) -> Float32[np.ndarray, "M 201"]:
    """Triangular filters on the Slaney mel scale, unit area, 0 to 8,000 Hz, of the 201 bins of a 400-point transform.

    To the bit what `librosa.filters.mel` gives, whose import takes a second, all of scipy's signal processing with it.

    Raises `ValueError` when `n_mels` is not one a released checkpoint uses.
    """
    if n_mels not in MEL_COUNTS:
        raise ValueError(
            f"n_mels: expected one of {MEL_COUNTS} (a model's `config.n_mels`), got {n_mels!r}."
        )
    edges, bins = _mel_edges(n_mels + 2)[:, None], np.fft.rfftfreq(N_FFT, 1 / SAMPLE_RATE)
    width, above = np.diff(edges, axis=0), bins - edges
    triangles = np.maximum(0, np.minimum(above[:-2] / width[:-1], -above[2:] / width[1:]))
    return (triangles.astype(np.float32) * (2 / (edges[2:] - edges[:-2]))).astype(np.float32)


def _mel_edges(n: int) -> np.ndarray:
    """`n` frequencies in Hz, equally far apart on Slaney's scale: 3 mel in 200 Hz up to 1,000 Hz, then 27 in a factor of 6.4."""
    knee, step = 15.0, np.log(6.4) / 27
    mels = np.linspace(0, knee + np.log(SAMPLE_RATE / 2 / 1000) / step, n)
    return np.where(mels < knee, mels * 200 / 3, 1000 * np.exp(step * (mels - knee)))


def log_mel(
    audio: Num[Array | np.ndarray, "*n_samples"], n_mels: int, n_frames: int = N_MEL_FRAMES
) -> Float32[Array, "M F"]:
    """Log-mel features of one recording of at most 30 s, zeros appended to 30 s; computed on the default device.

    Works under `jax.jit` and `jax.vmap` (of padded recordings: `jax.vmap(lambda a: log_mel(a, 80))(batch)`).
    Source: openai/whisper `log_mel_spectrogram`; equal to `transformers.WhisperFeatureExtractor` within 1e-4.

    Args:
        audio: float samples at 16 kHz in [-1, 1]. Longer than 30 s is an error: what to leave out is the caller's choice.
        n_mels: 80, or 128 for large-v3 and later.
        n_frames: mel frames of 10 ms in the model's window, `config.n_mel_frames`: 3,000, for 30 s, in released models.

    Raises:
        ValueError: wrong rank, type, length or `n_mels`; samples that are NaN, infinite or above 10,000
            (when the values are known, so not under `jit`).
    """
    filters = mel_filters(n_mels)
    check_samples(audio, n_frames * HOP)
    if not isinstance(audio, jax.Array):
        audio = np.asarray(audio, np.float32)
    return _compiled(_log_mel)(pad_or_trim(audio, n_frames * HOP).astype(jnp.float32), filters)


def long_log_mel(audio: Num[np.ndarray, "*n_samples"], n_mels: int) -> Float32[np.ndarray, "M F"]:
    """Log-mel features of a recording of any length, F = n_samples // 160 frames of 10 ms; on the host, computed 30 s at a time.

    80 dB are counted from the loudest bin of the whole recording, as openai/whisper `transcribe` does; `log_mel` counts within its window.
    Raises as `log_mel` does, but for the length.
    """
    filters = mel_filters(n_mels)
    check_samples(audio)
    n_frames = len(audio) // HOP
    n_windows = (
        n_frames // N_MEL_FRAMES + 1
    )  # the silence after the end counts: a hard end is a click, and may be the loudest
    padded = pad_or_trim(np.asarray(audio, np.float32), n_windows * N_SAMPLES + N_FFT // 2)
    padded = np.pad(padded, (N_FFT // 2, 0), mode="reflect")
    windows = [padded[i * N_SAMPLES : (i + 1) * N_SAMPLES + N_FFT] for i in range(n_windows)]
    log = np.concatenate([_compiled(_log10_mel)(window, filters) for window in windows], axis=1)
    return _scaled(log, np)[:, :n_frames]


def check_samples(audio: Any, longest: int | None = None) -> None:
    """Raises `ValueError` unless `audio` is one recording of float samples that are finite and at most 10,000.

    Args:
        audio: one sample at least, and at most `longest`.
        longest: number of samples. None: no limit.
    """
    shape, dtype = np.shape(audio), getattr(audio, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        got = dtype or type(audio).__name__
        raise ValueError(
            f"audio: expected floating point samples in [-1, 1], got {got}. Divide 16-bit integers by 2**15."
        )
    if len(shape) != 1:
        raise ValueError(
            f"audio: expected one recording [n_samples], got shape {shape}. Average channels; use jax.vmap for a batch."
        )
    if shape[0] == 0:
        raise ValueError("audio: expected at least one sample, got 0.")
    if longest is not None and shape[0] > longest:
        raise ValueError(
            f"audio: expected at most {longest} samples ({longest / SAMPLE_RATE:g} s), got {shape[0]}. "
            "For a longer recording call `transcribe`, or cut it with `jaxasr.audio.pad_or_trim`."
        )
    if not isinstance(audio, jax.core.Tracer):
        check_values(audio, "audio")


def check_values(audio: Num[Array | np.ndarray, "n_samples"], what: str) -> None:
    """Raises `ValueError`, which begins with `what`, for NaN or infinite samples and for absurd ones, above 10,000."""
    loudest = max(
        float(audio.max()), -float(audio.min())
    )  # NaN where a sample is NaN; takes no memory, as abs() would
    if loudest <= LOUDEST:
        return
    xp = jnp if isinstance(audio, jax.Array) else np
    bad = int(audio.size - xp.isfinite(audio).sum())
    if bad:
        raise ValueError(
            f"{what}: expected finite samples, got {bad} of {audio.size} NaN or infinite. "
            "Repair or drop them first."
        )
    raise ValueError(
        f"{what}: expected samples in [-1, 1], got one of magnitude {loudest:.3g}. "
        "Divide integers by their largest value (16 bits: 2**15); a damaged file may hold any value."
    )


@functools.cache
def _compiled(fn: Callable) -> Callable:
    return jax.jit(
        fn
    )  # compiled once for each window and number of mels: audio always comes padded


def _log_mel(
    audio: Float[Array, "n_samples"], filters: Float[Array, "M 201"]
) -> Float[Array, "M F"]:
    return _scaled(_log10_mel(jnp.pad(audio, N_FFT // 2, mode="reflect"), filters), jnp)


def _log10_mel(
    padded: Float[Array, "n_padded"], filters: Float[Array, "M 201"]
) -> Float[Array, "M F"]:
    window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)  # periodic Hann
    spectrum = jnp.fft.rfft(_short_frames(padded) * window)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    mel = jnp.matmul(filters, power.T, precision="highest")
    return jnp.log10(jnp.maximum(mel, 1e-10))


def _scaled(log: Any, xp: Any) -> Any:
    return (xp.maximum(log, log.max() - 8.0) + 4.0) / 4.0  # 80 dB below the loudest bin


def _short_frames(padded: Float[Array, "n_padded"]) -> Float[Array, "F 400"]:
    # Frame i begins at sample 160 i of the padded window, so it is centred there in the window; the reference drops the last one.
    n_blocks, n_frames = math.ceil(padded.size / HOP), (padded.size - N_FFT) // HOP
    blocks = jnp.pad(padded, (0, n_blocks * HOP - padded.size)).reshape(n_blocks, HOP)
    shifted = [blocks[i : i + n_frames] for i in range(n_blocks - n_frames)]
    return jnp.concatenate(shifted, axis=1)[:, :N_FFT]
