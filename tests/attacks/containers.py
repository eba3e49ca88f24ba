"""Compares `load_audio` with PyAV and prints one line per file.

    python -m tests.attacks.containers [FILE_OR_FOLDER ...]

Without arguments, the command reads every container that PyAV and the program ffmpeg write, each
with its usual codec. A file passes if the lengths differ by at most one encoder frame of 20 ms and
the correlation of the samples is at least 0.999.
"""

import argparse
import contextlib
import io
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import scipy.signal
import soundfile

import jaxasr
from jaxasr.config import SAMPLE_RATE, SAMPLES_PER_FRAME

from .sample_files import RATE, speechlike, with_pyav

MIN_CORRELATION = 0.999
# Formats in which a recording consists of several files.
_SEVERAL_FILES = ("dash", "hls", "segment")


def decode_with_pyav(path: Path) -> np.ndarray:
    """Returns 16 kHz mono samples by PyAV and scipy's resampling.

    Raises `av.FFmpegError` if PyAV reads no samples.
    """
    parts, rate = [], SAMPLE_RATE
    # Without protocols, playlists cannot open other files.
    options = {"protocol_whitelist": ""}
    with open(path, "rb") as file, av.open(file, options=options) as container:
        resampler = av.AudioResampler(format="fltp")
        if not container.streams.audio:
            raise av.InvalidDataError(0, "no audio stream")
        with contextlib.suppress(av.FFmpegError):  # a truncated file may end with an error
            for packet in container.demux(container.streams.audio[0]):
                with contextlib.suppress(av.FFmpegError):
                    for frame in packet.decode():
                        rate = frame.sample_rate
                        parts += [
                            part.to_ndarray().mean(axis=0) for part in resampler.resample(frame)
                        ]
    if not parts:
        raise av.InvalidDataError(0, "no samples")
    samples = np.concatenate(parts).astype(np.float64)
    common = np.gcd(rate, SAMPLE_RATE)
    return scipy.signal.resample_poly(samples, SAMPLE_RATE // common, rate // common)


def compare_with_pyav(path: Path) -> tuple[int, float]:
    """Compares `load_audio` with PyAV.

    Returns:
        The number of samples by `load_audio` minus that by PyAV, and the samples' correlation.
    """
    ours, theirs = jaxasr.load_audio(path), decode_with_pyav(path)
    common = min(len(ours), len(theirs))
    a, b = ours[:common].astype(np.float64), theirs[:common]
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return len(ours) - len(theirs), float(a @ b / scale) if scale else float(np.array_equal(a, b))


def agrees_with_pyav(difference: int, correlation: float) -> bool:
    """Returns whether the lengths are within one encoder frame and the samples agree."""
    return abs(difference) <= SAMPLES_PER_FRAME and correlation >= MIN_CORRELATION


def _suffix(format: str) -> str:
    """Returns the suffix of a format, because FFmpeg recognises some formats only by it."""
    extensions = av.ContainerFormat(format).extensions if format in av.formats_available else ()
    return "".join(f".{extension}" for extension in sorted(extensions)[:1])


def written_by_pyav() -> Iterator[tuple[str, bytes]]:
    """Yields a name and a file for each container that PyAV writes with its usual codec."""
    stereo, telephone = speechlike(2, RATE, channels=2), speechlike(2, 8_000)
    for format in sorted(av.formats_available.difference(_SEVERAL_FILES)):
        try:
            codec = av.open(io.BytesIO(), "w", format=format).default_audio_codec
        except (av.FFmpegError, ValueError):  # PyAV only reads this format
            continue
        for samples, rate in ((stereo, RATE), (telephone, 8_000)):
            try:
                yield f"{format}-{codec}{_suffix(format)}", with_pyav(samples, rate, format, codec)
            except (av.FFmpegError, ValueError, TypeError):
                continue  # the encoder needs another rate, or does not exist
            break


def written_by_ffmpeg(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yields a name and a file for each container that ffmpeg writes with its usual codec."""
    source = folder / "source.wav"
    soundfile.write(source, speechlike(2, RATE, 2), RATE)
    muxers = subprocess.run(
        ["ffmpeg", "-v", "error", "-muxers"], capture_output=True, text=True, check=True
    ).stdout
    formats = [words[1] for line in muxers.splitlines() if (words := line.split())[:1] == ["E"]]
    for format in sorted(set(formats).difference(_SEVERAL_FILES)):
        for rate in ("48000", "16000", "8000"):
            target = folder / f"target-{format}-{rate}"
            mono = [] if rate == "48000" else ["-ac", "1"]
            command = [
                "ffmpeg",
                "-v",
                "quiet",
                "-nostdin",
                "-i",
                source,
                "-ar",
                rate,
                *mono,
                "-strict",
                "-2",
            ]
            process = subprocess.run(
                [*command, "-f", format, target], cwd=folder, stdout=subprocess.DEVNULL, timeout=60
            )
            if process.returncode == 0 and target.is_file():
                yield f"ffmpeg-{format}{_suffix(format)}", target.read_bytes()
                break


def files(arguments: list[Path], folder: Path) -> Iterator[Path]:
    """Yields the files of the arguments. Without arguments, writes files and yields them."""
    for path in arguments:
        yield from (
            sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        )
    if not arguments:
        has_ffmpeg = shutil.which("ffmpeg") is not None
        by_ffmpeg = written_by_ffmpeg(folder) if has_ffmpeg else iter(())
        for name, content in itertools.chain(written_by_pyav(), by_ffmpeg):
            path = folder / name
            path.write_bytes(content)
            yield path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path)
    options = parser.parse_args()
    passed, failed, unread, lowest = 0, 0, 0, 1.0
    with tempfile.TemporaryDirectory() as folder:
        for path in files(options.paths, Path(folder)):
            try:
                theirs = len(decode_with_pyav(path))
            except (av.FFmpegError, OSError, ValueError) as error:
                unread += 1
                try:
                    ours = f"{len(jaxasr.load_audio(path)) / SAMPLE_RATE:.3f} s"
                except (OSError, ValueError):
                    ours = "refused"
                print(f"{path.name:40} PyAV fails ({type(error).__name__}); load_audio: {ours}")
                continue
            try:
                difference, correlation = compare_with_pyav(path)
            except ValueError as error:
                failed += 1
                print(f"{path.name:40} FAILED {error}")
                continue
            agrees = agrees_with_pyav(difference, correlation)
            passed, failed = passed + agrees, failed + (not agrees)
            lowest = min(lowest, correlation)
            numbers = f"{theirs / SAMPLE_RATE:8.3f} s {difference:+5} samples"
            mark = "" if agrees else " FAILED"
            print(f"{path.name:40} {numbers}, correlation {correlation:.6f}{mark}")
    print(
        f"{passed} agree with PyAV, {failed} do not, {unread} are not read by PyAV; "
        f"lowest correlation {lowest:.6f}"
    )


if __name__ == "__main__":
    main()
