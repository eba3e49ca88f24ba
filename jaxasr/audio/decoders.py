"""Decoders of audio files: libsndfile, PyAV (FFmpeg's libraries), the ffmpeg program.

Each decodes from the start until nothing comes: lengths in headers are compared, never used.
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
from typing import Any, BinaryIO

import numpy as np
import soundfile

Blocks = Iterator[tuple[int, np.ndarray]]  # the sample rate in Hz, and mono float32 samples

RATES = (1_000, 1_000_000)  # Hz
MAX_CHANNELS = 256
_BLOCK = 1 << 20  # samples of all channels decoded at a time
_UNKNOWN = 1 << 62  # at least this many frames: libsndfile knows no length
_COMPRESSED = ("FLAC", "MP3", "OGG")  # formats in which audio may follow where libsndfile stops
_TAGS = 1024  # bytes after the audio of a compressed file that may be tags, as ID3v1


class DecodingError(Exception):
    """The file cannot be decoded, or not to its end; the message says why."""


class ImplausibleError(Exception):
    """The file has a sample rate or a number of channels that no recording has."""


class _Sequential(soundfile.SoundFile):
    """Never seeks: soundfile does after each block, which fails where the length is unknown."""

    def seekable(self) -> bool:
        return False


class _File(io.FileIO):
    """Answers -1, as C does, when a damaged header asks for an impossible place."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (OSError, OverflowError):
            return -1


def libsndfile(path: Path, *, to_the_end: bool = True) -> Blocks:
    """Decodes with libsndfile: wav, flac, ogg, mp3, aiff, au, caf and others.

    Args:
        path: a regular file.
        to_the_end: raise `DecodingError` when the header claims another length than was decoded,
            or decoding fails at some place. False: yield what can be decoded.

    Raises:
        DecodingError: no format of libsndfile, or compressed audio follows where it stops
            (it decodes only the first of several streams that follow one another).
        ImplausibleError: see `check_format`.
    """
    with _File(path) as file:
        with _soundfile_errors(), _Sequential(file) as sound:
            check_format(sound.samplerate, sound.channels)
            if sound.format == "VOC":
                raise DecodingError("reads headers within VOC files as samples")
            if sound.format == "OGG":
                sound.seek(0)  # else libsndfile 1.2.2 decodes some Opus files wrong from the start
            # A block that fails is lost as a whole.
            size = (_BLOCK if to_the_end else _BLOCK >> 10) // sound.channels
            decoded = 0
            try:
                while len(block := sound.read(size, dtype="float32", always_2d=True)):
                    decoded += len(block)
                    yield sound.samplerate, block.mean(axis=1)
            except soundfile.LibsndfileError:
                if to_the_end:
                    raise
        left = path.stat().st_size - file.tell()
        if not decoded:
            raise DecodingError(
                f"no samples before the last {left} bytes" if left else "no samples"
            )
        if to_the_end and decoded != sound.frames and sound.frames < _UNKNOWN:
            raise DecodingError(f"decoded {decoded} of {sound.frames} samples")
        if sound.format in _COMPRESSED and left > _TAGS:
            raise DecodingError(f"stopped {left} bytes before the end")


@contextlib.contextmanager
def _soundfile_errors() -> Iterator[None]:
    try:
        yield
    except soundfile.LibsndfileError as error:
        raise DecodingError(error.error_string.strip(" .")) from error
    except (TypeError, ValueError) as error:  # a headerless format, as .raw
        raise DecodingError(str(error).strip(" .")) from error


def pyav(path: Path) -> Blocks:
    """Decodes the first audio stream of any container of FFmpeg with PyAV; skips damaged packets.

    Raises:
        DecodingError: PyAV cannot be imported, or decodes no samples.
        ImplausibleError: see `check_format`.
    """
    try:
        from av.error import FFmpegError
    except ImportError as error:
        raise DecodingError(f"not installed ({error})") from error
    decoded, problem = 0, "no samples"
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
                    decoded += frame.samples
                    yield frame.sample_rate, _mono(frame)
    except FFmpegError as error:
        problem = error.strerror
    if not decoded:  # otherwise a truncated file ends where it cannot be read further
        raise DecodingError(problem)


def _container(file: BinaryIO) -> Any:
    """Opens without any protocol: a playlist cannot name other files or addresses."""
    import av

    # Before PyAV 19 a tag that is not UTF-8 is an error unless it is ignored.
    tags: dict[str, Any] = (
        {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
    )
    return av.open(file, options={"protocol_whitelist": ""}, **tags)


def _mono(frame: Any) -> np.ndarray:
    if frame.format.name.startswith("s64"):  # the one type that PyAV does not give as an array
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

    Raises:
        DecodingError: there is no such program, or it decodes no samples.
        ImplausibleError: see `check_format`.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise DecodingError("not found")
    source = ["-nostdin", "-i", f"file:{path}"]  # ffmpeg lets no local file name an address
    target = ["-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "-"]
    command = [program, "-v", "error", *source, *target]
    decoded = 0
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
            try:
                for rate, block in _au(process.stdout):
                    decoded += len(block)
                    yield rate, block
            finally:
                process.kill()
        if not decoded:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            first = lines[0].removeprefix(f"file:{path}: ") if lines else "no samples"
            raise DecodingError(re.sub(r"^\[.* @ 0x[0-9a-f]+\] ", "", first).strip(" ."))


def _au(stream: BinaryIO) -> Blocks:
    """Samples of an AU stream of float32; its header is six numbers of 32 bits."""
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
    """Raises `ImplausibleError` for a sample rate or a number of channels that no recording has."""
    low, high = RATES
    if not low <= rate <= high:
        raise ImplausibleError(f"expected a sample rate of {low:,} to {high:,} Hz, got {rate:,} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise ImplausibleError(f"expected 1 to {MAX_CHANNELS} channels, got {channels:,}")


def header_seconds(path: str | os.PathLike) -> float:
    """Returns the length in seconds that the header of a recording claims, 0.0 if it claims none.

    A header may be wrong: use the value to plan work, not to know a length.
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
