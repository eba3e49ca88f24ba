"""From a file or samples to what the encoder sees: 16 kHz mono, a 30 s window, log-mel features; and its clock of 20 ms frames."""
import functools
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import soundfile
from jaxtyping import Array, Float, Float32, Num

from jaxasr.config import FRAMES_PER_S, HOP, N_MEL_FRAMES, N_SAMPLES, SAMPLE_RATE, SAMPLES_PER_FRAME

N_FFT = 400  # samples in a short-time window: 25 ms
MEL_COUNTS = (80, 128)  # what released checkpoints were trained on: 128 from large-v3 on
_BLOCK = 1 << 20  # sample frames read at a time, so that a long file never lies in memory at its own rate and channels


def load_audio(path: str | os.PathLike) -> Float32[np.ndarray, "n_samples"]:
    """Read a recording as 16 kHz mono: channels averaged, resampled with soxr's high quality.

    The file is read and resampled block by block: three hours need 2 x 691 MB, twice the result, whatever their rate and channels.
    Formats are libsndfile's (wav, flac, ogg, mp3, ...), else what librosa's fallback reads (m4a, webm with ffmpeg).

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: not audio, no samples, or samples that are NaN or infinite.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path: expected an audio file, found nothing at {str(path)!r}.")
    if not path.is_file() or path.stat().st_size == 0:
        what = "a folder" if path.is_dir() else "an empty file"
        raise ValueError(f"path: expected an audio file, got {what}: {str(path)!r}.")
    try:
        with soundfile.SoundFile(path) as file:
            audio = _resampled(file)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a headerless format such as .raw
        audio = _fallback(path, error)
    if audio.size == 0:
        raise ValueError(f"path: expected a recording, but {str(path)!r} holds no samples.")
    _check_finite(audio, f"path: {str(path)!r}")
    return audio


def _resampled(file: soundfile.SoundFile) -> np.ndarray:
    blocks = (block.mean(axis=1) for block in file.blocks(_BLOCK, dtype="float32", always_2d=True))
    if file.samplerate != SAMPLE_RATE:
        blocks = _resample(blocks, file.samplerate)
    return np.concatenate([np.zeros(0, np.float32), *blocks])


def _resample(blocks: Iterator[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    import soxr  # librosa's own resampler

    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _fallback(path: Path, error: Exception) -> np.ndarray:
    import librosa

    with warnings.catch_warnings():  # librosa warns that it left soundfile, which is why it is called here, and leaves files open
        warnings.simplefilter("ignore")
        try:
            return librosa.load(path, sr=SAMPLE_RATE, mono=True)[0]
        except Exception as second:  # audioread raises a different type for every backend it has
            reason = f"{type(second).__name__}: {second}"
    raise ValueError(
        f"path: expected audio that soundfile or librosa reads, got {str(path)!r} ({error}; {reason}). "
        "Convert it to wav or flac, or install ffmpeg for other containers."
    ) from error


def _check_finite(audio: Any, what: str) -> None:
    xp = jnp if isinstance(audio, jax.Array) else np
    bad = int(audio.size - xp.isfinite(audio).sum())
    if bad:
        raise ValueError(f"{what}: expected finite samples, got {bad} of {audio.size} NaN or infinite. Repair or drop them first.")


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


def pad_or_trim(audio: Num[Array | np.ndarray, "*batch n"], length: int = N_SAMPLES) -> Num[Array | np.ndarray, "*batch length"]:
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
        raise ValueError(f"n_mels: expected one of {MEL_COUNTS} (a model's `config.n_mels`), got {n_mels!r}.")
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
        ValueError: wrong rank, type, length or `n_mels`; NaN or infinite samples (when the values are known, so not under `jit`).
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
    n_windows = n_frames // N_MEL_FRAMES + 1  # the silence after the end counts: a hard end is a click, and may be the loudest
    padded = pad_or_trim(np.asarray(audio, np.float32), n_windows * N_SAMPLES + N_FFT // 2)
    padded = np.pad(padded, (N_FFT // 2, 0), mode="reflect")
    windows = [padded[i * N_SAMPLES : (i + 1) * N_SAMPLES + N_FFT] for i in range(n_windows)]
    log = np.concatenate([_compiled(_log10_mel)(window, filters) for window in windows], axis=1)
    return _scaled(log, np)[:, :n_frames]


def check_samples(audio: Any, longest: int | None = None) -> None:
    """Raises `ValueError` unless `audio` is one recording of finite float samples, at least one, at most `longest`."""
    shape, dtype = np.shape(audio), getattr(audio, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        got = dtype or type(audio).__name__
        raise ValueError(f"audio: expected floating point samples in [-1, 1], got {got}. Divide 16-bit integers by 2**15.")
    if len(shape) != 1:
        raise ValueError(f"audio: expected one recording [n_samples], got shape {shape}. Average channels; use jax.vmap for a batch.")
    if shape[0] == 0:
        raise ValueError("audio: expected at least one sample, got 0.")
    if longest is not None and shape[0] > longest:
        raise ValueError(
            f"audio: expected at most {longest} samples ({longest / SAMPLE_RATE:g} s), got {shape[0]}. "
            "For a longer recording call `transcribe`, or cut it with `jaxasr.audio.pad_or_trim`."
        )
    if not isinstance(audio, jax.core.Tracer):
        _check_finite(audio, "audio")


@functools.cache
def _compiled(fn: Callable) -> Callable:
    return jax.jit(fn)  # compiled once for each window and number of mels: audio always comes padded


def _log_mel(audio: Float[Array, "n_samples"], filters: Float[Array, "M 201"]) -> Float[Array, "M F"]:
    return _scaled(_log10_mel(jnp.pad(audio, N_FFT // 2, mode="reflect"), filters), jnp)


def _log10_mel(padded: Float[Array, "n_padded"], filters: Float[Array, "M 201"]) -> Float[Array, "M F"]:
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
