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

# A decoded recording, block by block: the sample rate in Hz and mono float32 samples.
Blocks = Iterator[tuple[int, np.ndarray]]

RATE_LIMITS = (1_000, 1_000_000)  # Hz; a rate outside comes from a damaged header
MAX_CHANNELS = 256  # a larger number comes from a damaged header
_BLOCK_SAMPLES = 1 << 20  # samples per block, all channels together
_UNKNOWN_LENGTH = 1 << 62  # libsndfile reports at least this many frames for an unknown length
_COMPRESSED_FORMATS = ("FLAC", "MP3", "OGG")  # libsndfile may stop before their end
_MAX_TAG_BYTES = 1024  # size of tags, such as ID3v1, after the audio of a compressed file


class DecodingError(Exception):
    """A decoder cannot decode a file to its end. The message gives the reason."""


class ImplausibleError(Exception):
    """The header of a file has a sample rate or a number of channels that no recording has."""


class _UnseekableSoundFile(soundfile.SoundFile):
    """A sound file whose `read` never seeks, because a seek fails if the length is unknown."""

    def seekable(self) -> bool:
        return False


class _LenientFile(io.FileIO):
    """A file whose `seek` returns -1 for the impossible positions in a damaged header."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (OSError, OverflowError):
            return -1


def decode_libsndfile(path: Path, *, strict: bool = True) -> Blocks:
    """Decodes wav, flac, ogg, mp3, aiff, au, caf and other files with libsndfile.

    Args:
        path: a regular file.
        strict: whether to raise `DecodingError` if a block cannot be decoded, or if the decoded
            length differs from the length in the header. False: yield the blocks before the first
            failure.

    Yields:
        The sample rate in Hz, and mono float32 samples.

    Raises:
        DecodingError: libsndfile does not read the format, decodes no samples, or stops before the
            end of compressed audio. libsndfile decodes only the first of several
            concatenated streams.
        ImplausibleError: see `check_format`.

    Example:
        ```python
        from pathlib import Path

        from jaxasr.audio.decoders import decode_libsndfile

        for rate, samples in decode_libsndfile(Path("experiments/assets/demo.flac")):
            print(rate, samples.shape)
        ```
    """
    with _LenientFile(path) as file:
        with _convert_soundfile_errors(), _UnseekableSoundFile(file) as sound:
            check_format(sound.samplerate, sound.channels)
            if sound.format == "VOC":
                raise DecodingError("it would read headers within a VOC file as samples")
            if sound.format == "OGG":
                sound.seek(0)  # otherwise libsndfile 1.2.2 decodes some Opus files wrongly
            # A failure loses a whole block. So blocks are small if failures are accepted.
            size = (_BLOCK_SAMPLES if strict else _BLOCK_SAMPLES >> 10) // sound.channels
            n_decoded = 0
            try:
                while len(block := sound.read(size, dtype="float32", always_2d=True)):
                    n_decoded += len(block)
                    yield sound.samplerate, block.mean(axis=1)
            except soundfile.LibsndfileError:
                if strict:
                    raise
        n_bytes_left = path.stat().st_size - file.tell()
        if not n_decoded:
            position = f" before the last {n_bytes_left} bytes" if n_bytes_left else ""
            raise DecodingError(f"no samples{position}")
        if strict and n_decoded != sound.frames and sound.frames < _UNKNOWN_LENGTH:
            raise DecodingError(f"decoded {n_decoded} of {sound.frames} samples")
        if sound.format in _COMPRESSED_FORMATS and n_bytes_left > _MAX_TAG_BYTES:
            raise DecodingError(f"stopped {n_bytes_left} bytes before the end")


@contextlib.contextmanager
def _convert_soundfile_errors() -> Iterator[None]:
    try:
        yield
    except soundfile.LibsndfileError as error:
        raise DecodingError(error.error_string.strip(" .")) from error
    except (TypeError, ValueError) as error:  # a format without header, such as .raw
        raise DecodingError(str(error).strip(" .")) from error


def decode_pyav(path: Path) -> Blocks:
    """Decodes the first audio stream of any FFmpeg container with PyAV. Drops damaged packets.

    Args:
        path: a regular file.

    Yields:
        The sample rate in Hz, and mono float32 samples.

    Raises:
        DecodingError: PyAV cannot be imported, or decodes no samples.
        ImplausibleError: see `check_format`.

    Example:
        >>> blocks = decode_pyav(Path("demo.flac"))  # decodes when it is iterated
    """
    try:
        from av.error import FFmpegError
    except ImportError as error:
        raise DecodingError(f"not installed ({error})") from error
    n_decoded, problem = 0, "no samples"
    try:
        with _LenientFile(path) as file, _open_container(file) as container:
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
                    yield frame.sample_rate, _average_channels(frame)
    except FFmpegError as error:
        problem = error.strerror
    # A truncated file yields the samples before the damage and raises no error.
    if not n_decoded:
        raise DecodingError(problem)


def _open_container(file: BinaryIO) -> Any:
    """Opens a file and forbids all protocols, so that a playlist cannot open files or URLs."""
    import av

    # Before PyAV 19, a tag that is not UTF-8 raises an error by default.
    tag_options: dict[str, Any] = (
        {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
    )
    return av.open(file, options={"protocol_whitelist": ""}, **tag_options)


def _average_channels(frame: Any) -> np.ndarray:
    if frame.format.name.startswith("s64"):  # PyAV turns every other type into an array
        import av

        (frame,) = av.AudioResampler(format="dblp").resample(frame)
    samples, channels = frame.to_ndarray(), frame.layout.nb_channels
    # A planar frame is [channels, n]. A packed frame is [1, n * channels], and the channels of a
    # sample are neighbours.
    samples = samples if frame.format.is_planar else samples.reshape(-1, channels).T
    # Integers are scaled to [-1, 1). Bytes are unsigned, with silence at 128.
    if samples.dtype == np.uint8:
        scaled = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        scaled = samples.astype(np.float32) / 2.0 ** (8 * samples.itemsize - 1)
    else:
        scaled = samples.astype(np.float32)
    return scaled.mean(axis=0)


def decode_ffmpeg(path: Path) -> Blocks:
    """Decodes the first audio stream of a file with the program ffmpeg.

    Args:
        path: a regular file.

    Yields:
        The sample rate in Hz, and mono float32 samples.

    Raises:
        DecodingError: the program is not installed, or decodes no samples.
        ImplausibleError: see `check_format`.

    Example:
        >>> blocks = decode_ffmpeg(Path("demo.flac"))  # decodes when it is iterated
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise DecodingError("not found")
    # With "file:", ffmpeg does not read the path as a URL, and a local playlist cannot open URLs.
    source = ["-nostdin", "-i", f"file:{path}"]
    target = ["-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "-"]
    command = [program, "-v", "error", *source, *target]
    n_decoded = 0
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
            assert process.stdout is not None
            try:
                for rate, block in _read_au_stream(process.stdout):
                    n_decoded += len(block)
                    yield rate, block
            finally:  # also runs if the caller stops reading early
                process.kill()
        if not n_decoded:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            first_line = lines[0].removeprefix(f"file:{path}: ") if lines else "no samples"
            # A line may begin with the address of an FFmpeg object, such as "[mov @ 0x55d0] ".
            raise DecodingError(re.sub(r"^\[.* @ 0x[0-9a-f]+\] ", "", first_line).strip(" ."))


def _read_au_stream(stream: IO[bytes]) -> Blocks:
    """Yields blocks of a float32 AU stream."""
    # The header has six numbers of 32 bits: a magic number, the offset, size and encoding of the
    # samples, the sample rate, and the number of channels.
    header = stream.read(24)
    if len(header) < 24:
        return
    _, data_offset, _, _, rate, channels = struct.unpack(">6I", header)
    check_format(rate, channels)
    stream.read(data_offset - 24)
    frame_bytes = 4 * channels
    while data := stream.read(_BLOCK_SAMPLES // channels * frame_bytes):
        whole = data[: len(data) // frame_bytes * frame_bytes]  # the stream may end within a frame
        samples = np.frombuffer(whole, ">f4").reshape(-1, channels)
        yield rate, samples.astype(np.float32).mean(axis=1)


def check_format(rate: int, channels: int) -> None:
    """Checks that a recording can have this sample rate in Hz and this number of channels.

    Raises:
        ImplausibleError: the rate is below 1 kHz or above 1 MHz, or the number of channels is 0 or
            above 256.

    Example:
        >>> check_format(rate=16_000, channels=1)
    """
    low, high = RATE_LIMITS
    if not low <= rate <= high:
        raise ImplausibleError(f"expected a sample rate of {low:,} to {high:,} Hz, got {rate:,} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise ImplausibleError(f"expected 1 to {MAX_CHANNELS} channels, got {channels:,}")


def header_seconds(path: str | os.PathLike) -> float:
    """Returns the length in the header of a recording, in seconds, or 0.0 if the header has none.

    The header may be wrong, so use the length only to plan work.

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
        with _LenientFile(path) as file, _open_container(file) as container:
            return (container.duration or 0) / av.time_base
    except (FFmpegError, OSError, ValueError):
        return 0.0
