"""Makes recordings with libsndfile and FFmpeg, in memory."""

import io

import av
import numpy as np
import soundfile

RATE = 48_000  # Hz


def speechlike(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Returns noise with a falling spectrum and a slow envelope, float32 [samples, channels]."""
    n = int(seconds * rate)
    noise = np.cumsum(np.random.default_rng(seed).normal(size=(n, channels)), axis=0)
    noise -= np.linspace(noise[0], noise[-1], n)
    envelope = np.abs(np.sin(np.arange(n) / rate * 5))[:, None]
    return (0.5 * noise * envelope / np.abs(noise).max()).astype(np.float32)


def with_soundfile(samples: np.ndarray, rate: int, format: str, subtype: str) -> bytes:
    """Returns the file that libsndfile writes."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


class Stream(io.RawIOBase):
    """A stream that cannot seek, like a pipe, so an encoder cannot write lengths to its header."""

    def __init__(self) -> None:
        self.written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:
        self.written += data
        return len(data)


def with_pyav(
    samples: np.ndarray, rate: int, format: str, codec: str, *, streamed: bool = False
) -> bytes:
    """Returns the file that FFmpeg writes with `codec`, to a pipe if `streamed`."""
    file = Stream() if streamed else io.BytesIO()
    with av.open(file, "w", format=format) as container:
        layout = "mono" if samples.shape[1] == 1 else "stereo"
        stream = container.add_stream(codec, rate=rate, layout=layout)
        if codec == "vorbis":
            stream.options = {"strict": "experimental"}
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            stream.format, layout, rate, frame_size=stream.frame_size or None
        )
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux(stream.encode(part))
    return bytes(file.written) if streamed else file.getvalue()


def with_mp3(samples: np.ndarray, rate: int, *, streamed: bool = False) -> bytes:
    """Returns an mp3 file. If `streamed`, its header lacks the numbers of frames and bytes."""
    content = with_soundfile(samples, rate, "MP3", "MPEG_LAYER_III")
    return content.replace(b"Xing", bytes(4)).replace(b"Info", bytes(4)) if streamed else content


def amr(frames: int) -> bytes:
    """Returns a narrow-band AMR file of noise with this number of frames of 20 ms."""
    rng = np.random.default_rng(0)
    return b"#!AMR\n" + b"".join(b"\x3c" + rng.bytes(31) for _ in range(frames))


def intact_recordings() -> dict[str, bytes]:
    """Returns an intact recording of 1 s of each kind."""
    mono, stereo = (speechlike(1, RATE, channels) for channels in (1, 2))
    return {
        "wav pcm": with_soundfile(stereo, RATE, "WAV", "PCM_16"),
        "wav float": with_soundfile(mono, RATE, "WAV", "FLOAT"),
        "wav extensible": with_soundfile(stereo, RATE, "WAVEX", "PCM_24"),
        "wav adpcm": with_soundfile(mono, RATE, "WAV", "MS_ADPCM"),
        "wav streamed": with_pyav(stereo, RATE, "wav", "pcm_s16le", streamed=True),
        "rf64": with_soundfile(mono, RATE, "RF64", "PCM_16"),
        "w64": with_soundfile(mono, RATE, "W64", "PCM_16"),
        "flac": with_soundfile(stereo, RATE, "FLAC", "PCM_16"),
        "flac streamed": with_pyav(stereo, RATE, "flac", "flac", streamed=True),
        "ogg vorbis": with_soundfile(stereo, RATE, "OGG", "VORBIS"),
        "ogg opus": with_soundfile(stereo, RATE, "OGG", "OPUS"),
        "mp3": with_mp3(stereo, RATE),
        "mp3 streamed": with_mp3(mono, RATE, streamed=True),
        "aiff": with_soundfile(stereo, RATE, "AIFF", "PCM_16"),
        "aiff float": with_soundfile(mono, RATE, "AIFF", "FLOAT"),
        "au": with_soundfile(mono, RATE, "AU", "PCM_16"),
        "caf": with_soundfile(mono, RATE, "CAF", "PCM_16"),
        "caf alac": with_soundfile(stereo, RATE, "CAF", "ALAC_16"),
        "m4a": with_pyav(stereo, RATE, "ipod", "aac"),
        "mov": with_pyav(stereo, RATE, "mov", "pcm_s24le"),
        "aac": with_pyav(stereo, RATE, "adts", "aac"),
        "webm": with_pyav(stereo, RATE, "webm", "libopus"),
        "mpegts": with_pyav(stereo, RATE, "mpegts", "aac"),
        "ac3": with_pyav(stereo, RATE, "ac3", "ac3"),
        "amr": amr(50),
        "wavpack": with_pyav(stereo, RATE, "wv", "wavpack"),
    }
