"""Decodes audio files with libsndfile, PyAV (FFmpeg's libraries) or the ffmpeg program.

Each decoder reads until the file ends, because lengths in headers may be wrong.
"""

import contextlib
import io
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import soundfile

Blocks = Iterator[tuple[int, np.ndarray]]  # the sample rate in Hz, and mono float32 samples

RATES = (1_000, 1_000_000)  # Hz
MAX_CHANNELS = 256
_BLOCK = 1 << 20  # samples of all channels decoded at a time
_UNKNOWN = 1 << 62  # libsndfile reports at least this many frames for an unknown length
_COMPRESSED = ("FLAC", "MP3", "OGG")  # formats in which audio may follow where libsndfile stops
_MAX_TAGS = 1024  # bytes after the audio of a compressed file that may be tags, such as ID3v1


class DecodingError(Exception):
    """A file cannot be decoded, or not to its end. The message gives the reason."""


class ImplausibleError(Exception):
    """A file claims a sample rate or a number of channels that no recording has."""


class _Sequential(soundfile.SoundFile):
    """A sound file without the seek after each block, which fails if the length is unknown."""

    def seekable(self) -> bool:
        return False


class _File(io.FileIO):
    """A file whose `seek` returns -1, as in C, for impossible positions in damaged headers."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (OSError, OverflowError):
            return -1


def libsndfile(path: Path, *, to_the_end: bool = True) -> Blocks:
    """Decodes with libsndfile: wav, flac, ogg, mp3, aiff, au, caf and others.

    Args:
        path: a regular file.
        to_the_end: raise `DecodingError` if the header claims another length than was decoded, or
            if a block cannot be decoded. False: yield the blocks that can be decoded.

    Yields:
        The sample rate in Hz, and mono float32 samples.

    Raises:
        DecodingError: libsndfile does not read the format, or stops before the end of compressed
            audio (it decodes only the first of several concatenated streams).
        ImplausibleError: see `check_format`.
    """
    with _File(path) as file:
        with _soundfile_errors(), _Sequential(file) as sound:
            check_format(sound.samplerate, sound.channels)
            if sound.format == "VOC":
                raise DecodingError("reads headers within VOC files as samples")
            if sound.format == "OGG":
                sound.seek(0)  # otherwise libsndfile 1.2.2 decodes some Opus files wrongly
            # libsndfile loses the whole block that fails, so a retry uses small blocks.
            size = (_BLOCK if to_the_end else _BLOCK >> 10) // sound.channels
            n_decoded = 0
            try:
                while len(block := sound.read(size, dtype="float32", always_2d=True)):
                    n_decoded += len(block)
                    yield sound.samplerate, block.mean(axis=1)
            except soundfile.LibsndfileError:
                if to_the_end:
                    raise
        n_left = path.stat().st_size - file.tell()
        if not n_decoded:
            before = f" before the last {n_left} bytes" if n_left else ""
            raise DecodingError(f"no samples{before}")
        if to_the_end and n_decoded != sound.frames and sound.frames < _UNKNOWN:
            raise DecodingError(f"decoded {n_decoded} of {sound.frames} samples")
        if sound.format in _COMPRESSED and n_left > _MAX_TAGS:
            raise DecodingError(f"stopped {n_left} bytes before the end")


@contextlib.contextmanager
def _soundfile_errors() -> Iterator[None]:
    try:
        yield
    except soundfile.LibsndfileError as error:
        raise DecodingError(error.error_string.strip(" .")) from error
    except (TypeError, ValueError) as error:  # a format without header, such as .raw
        raise DecodingError(str(error).strip(" .")) from error


def pyav(path: Path) -> Blocks:
    """Decodes the first audio stream of any FFmpeg container with PyAV; skips damaged packets.

    Yields:
        The sample rate in Hz, and mono float32 samples.

    Raises:
        DecodingError: PyAV cannot be imported, or decodes no samples.
        ImplausibleError: see `check_format`.
    """
    try:
        from av.error import FFmpegError
    except ImportError as error:
        raise DecodingError(f"not installed ({error})") from error
    n_decoded, problem = 0, "no samples"
    try:
        with _File(path) as file, _container(file) as container:
            if not container.streams.audio:
                raise DecodingError("no audio stream")
            for packet in container.demux(container.streams.audio[0]):
                try:
                    frames = packet.decode()
                except FFmpegError as error:
                    problem = error.strerror
                    continue
                for frame in frames:
                    check_format(frame.sample_rate, frame.layout.nb_channels)
                    n_decoded += frame.samples
                    yield frame.sample_rate, _mono(frame)
    except FFmpegError as error:
        problem = error.strerror
    # A truncated file gives the samples up to the damage, without an error.
    if not n_decoded:
        raise DecodingError(problem)


def _container(file: BinaryIO) -> Any:
    """Opens a file without any protocol, so that a playlist cannot open other files or URLs."""
    import av

    # Before PyAV 19, a tag that is not UTF-8 raises unless errors are ignored.
    tags: dict[str, Any] = (
        {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
    )
    return av.open(file, options={"protocol_whitelist": ""}, **tags)


def _mono(frame: Any) -> np.ndarray:
    if frame.format.name.startswith("s64"):  # the only type that PyAV cannot turn into an array
        import av

        (frame,) = av.AudioResampler(format="dblp").resample(frame)
    samples, channels = frame.to_ndarray(), frame.layout.nb_channels
    samples = samples if frame.format.is_planar else samples.reshape(-1, channels).T
    if samples.dtype == np.uint8:
        scaled = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        scaled = samples.astype(np.float32) / 2.0 ** (8 * samples.itemsize - 1)
    else:
        scaled = samples.astype(np.float32)
    return scaled.mean(axis=0)


def ffmpeg(path: Path) -> Blocks:
    """Decodes the first audio stream of a file with the program ffmpeg.

    Yields:
        The sample rate in Hz, and mono float32 samples.

    Raises:
        DecodingError: the program is not installed, or decodes no samples.
        ImplausibleError: see `check_format`.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise DecodingError("not found")
    # With "file:" no path is taken for a URL, and ffmpeg opens no URLs from local files.
    source = ["-nostdin", "-i", f"file:{path}"]
    target = ["-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "-"]
    command = [program, "-v", "error", *source, *target]
    n_decoded = 0
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
            assert process.stdout is not None
            try:
                for rate, block in _au(process.stdout):
                    n_decoded += len(block)
                    yield rate, block
            finally:
                process.kill()
        if not n_decoded:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            first = lines[0].removeprefix(f"file:{path}: ") if lines else "no samples"
            raise DecodingError(re.sub(r"^\[.* @ 0x[0-9a-f]+\] ", "", first).strip(" ."))


def _au(stream: IO[bytes]) -> Blocks:
    """Yields blocks of a float32 AU stream, whose header is six numbers of 32 bits."""
    header = stream.read(24)
    if len(header) < 24:
        return
    _, start, _, _, rate, channels = struct.unpack(">6I", header)
    check_format(rate, channels)
    stream.read(start - 24)
    frame = 4 * channels
    while data := stream.read(_BLOCK // channels * frame):
        samples = np.frombuffer(data[: len(data) // frame * frame], ">f4").reshape(-1, channels)
        yield rate, samples.astype(np.float32).mean(axis=1)


def check_format(rate: int, channels: int) -> None:
    """Checks that a recording can have this sample rate in Hz and this number of channels.

    Raises:
        ImplausibleError: the rate is not within 1 kHz to 1 MHz, or there are not 1 to 256 channels.
    """
    low, high = RATES
    if not low <= rate <= high:
        raise ImplausibleError(f"expected a sample rate of {low:,} to {high:,} Hz, got {rate:,} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise ImplausibleError(f"expected 1 to {MAX_CHANNELS} channels, got {channels:,}")


def header_seconds(path: str | os.PathLike) -> float:
    """Returns the length in seconds in the header of a recording, or 0.0 if it has none.

    The header may be wrong, so use the value only to plan work.

    Args:
        path: an audio file.

    Example:
        >>> header_seconds("missing.wav")
        0.0
    """
    if not os.path.isfile(path):
        return 0.0
    try:
        return soundfile.info(path).duration
    except (soundfile.LibsndfileError, OSError, TypeError, ValueError):
        pass
    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        return 0.0
    try:
        with _File(path) as file, _container(file) as container:
            return (container.duration or 0) / av.time_base
    except (FFmpegError, OSError, ValueError):
        return 0.0
