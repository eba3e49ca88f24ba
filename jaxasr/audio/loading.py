"""Loads any audio file as 16 kHz mono samples."""

import functools
import importlib.util
import itertools
import operator
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soxr
from jaxtyping import Float32

from jaxasr.audio import decoders
from jaxasr.audio.features import check_values
from jaxasr.config import SAMPLE_RATE


def load_audio(path: str | os.PathLike) -> Float32[np.ndarray, "n_samples"]:
    """Loads a recording as 16 kHz mono samples.

    Averages the channels and resamples with soxr at high quality. libsndfile decodes wav, flac,
    ogg, mp3, aiff and others. PyAV (`pip install "jaxasr[media]"`) decodes the files that
    libsndfile cannot decode to the end, such as m4a, webm, mp4, amr, wma and concatenated files.
    Without PyAV, the program ffmpeg decodes these files. The length in the header does not matter,
    so a truncated, streamed or unfinished file gives all samples that it contains. An unfinished
    wav needs PyAV or ffmpeg for this.

    Decodes block by block. The peak memory is twice the size of the result at any sample rate and
    number of channels. Three hours take 2 x 691 MB.

    Args:
        path: a regular file. The first audio stream of a video is used.

    Returns:
        Samples in [-1, 1].

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the path is not a regular file; no decoder reads the file; the sample rate is
            not within 1 kHz to 1 MHz; there are more than 256 channels; a sample is NaN, infinite
            or of magnitude above 10,000.

    Example:
        ```python
        import jaxasr

        audio = jaxasr.load_audio("experiments/assets/demo.flac")
        seconds = len(audio) / 16_000
        ```
    """
    path = Path(path)
    name = str(path) if str(path).isprintable() else repr(str(path))
    _check_regular(path, name)
    reasons = {}
    for decoder, decode in _list_decoders():
        try:
            # NumPy's warnings are off, because `check_values` reports NaN and overflow later.
            with np.errstate(invalid="ignore", over="ignore"):
                audio = _resample(decode(path))
        except decoders.DecodingError as error:
            reasons[decoder] = str(error)
        except decoders.ImplausibleError as error:
            raise ValueError(f"{name}: {error}. The header may be damaged.") from error
        else:
            check_values(audio, name)
            return audio
    raise ValueError(_describe_failures(name, reasons))


def _check_regular(path: Path, name: str) -> None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{name}: no such file.") from None
    if stat.S_ISREG(status.st_mode) and status.st_size:
        return
    kinds = {
        stat.S_IFREG: "an empty file",
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
    }
    got = kinds.get(stat.S_IFMT(status.st_mode), "a device")
    raise ValueError(f"{name}: expected an audio file, got {got}.")


def _resample(blocks: decoders.Blocks) -> np.ndarray:
    parts = [np.zeros(0, np.float32)]
    # The parts of a concatenated file may have different sample rates.
    for rate, group in itertools.groupby(blocks, key=operator.itemgetter(0)):
        stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
        for _, block in group:
            parts.append(block if rate == SAMPLE_RATE else stream.resample_chunk(block))
        if rate != SAMPLE_RATE:
            # An empty last block makes the resampler return the samples that it still holds.
            parts.append(stream.resample_chunk(np.zeros(0, np.float32), last=True))
    return np.concatenate(parts)


def _list_decoders() -> Iterator[tuple[str, Callable[[Path], decoders.Blocks]]]:
    """Yields the names and functions of the decoders to try, in order."""
    # libsndfile comes first, so that samples do not depend on the other installed decoders.
    yield "libsndfile", decoders.decode_libsndfile
    # ffmpeg is not tried after PyAV, because an older ffmpeg may misread files that PyAV rejects.
    yield ("PyAV", decoders.decode_pyav) if _has_pyav() else ("ffmpeg", decoders.decode_ffmpeg)
    # Without `strict`, libsndfile yields the part of a damaged file that can be decoded.
    yield "libsndfile", functools.partial(decoders.decode_libsndfile, strict=False)


def _has_pyav() -> bool:
    return importlib.util.find_spec("av") is not None


def _describe_failures(name: str, reasons: dict[str, str]) -> str:
    tried = "; ".join(f"{decoder}: {reason}" for decoder, reason in reasons.items())
    if _has_pyav() or shutil.which("ffmpeg"):
        remedy = "Check that it is complete, unencrypted audio, or convert it to wav."
    else:
        remedy = 'To read every format of FFmpeg: pip install "jaxasr[media]".'
    return f"{name}: expected a recording, but no decoder reads it ({tried}). {remedy}"
