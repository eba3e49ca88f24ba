"""Recordings in every container load as mono samples at 16 kHz."""

import shutil
import sys

import av
import numpy as np
import pytest
import soundfile
import soxr
from attacks.containers import agrees_with_pyav, compare_with_pyav
from attacks.sample_files import RATE, amr, speechlike, with_mp3, with_pyav

from jaxasr.audio import decoders, header_seconds, load_audio
from jaxasr.config import SAMPLE_RATE


def tone(seconds: float, rate: int = SAMPLE_RATE, gain: float = 0.5) -> np.ndarray:
    return (gain * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype(
        np.float32
    )


def write(path, content: bytes):
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return speechlike(2, RATE, 2)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [("wav", "PCM_U8"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", "PCM_16"), ("ogg", "VORBIS")],
)
def test_recordings_of_any_rate_and_format_give_the_same_samples(tmp_path, rate, suffix, subtype):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(1.5, rate), rate, subtype=subtype)
    audio = load_audio(path)
    assert audio.dtype == np.float32
    assert abs(len(audio) - 1.5 * SAMPLE_RATE) <= 2
    middle = slice(4_000, 20_000)
    atol = {"PCM_U8": 0.01, "VORBIS": 0.05}.get(subtype, 2e-3)
    np.testing.assert_allclose(audio[middle], tone(1.5)[middle], atol=atol)


def test_channels_are_averaged(tmp_path):
    channels = np.stack([tone(0.5, gain=g) for g in (0.1, 0.2, 0.3, 0.4, 0.5)], axis=1)
    soundfile.write(tmp_path / "five.wav", channels, SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "five.wav"), tone(0.5, gain=0.3), atol=1e-6)


def test_decoding_by_blocks_equals_decoding_at_once(tmp_path, monkeypatch):
    stereo = speechlike(2, 44_100, 2)
    soundfile.write(tmp_path / "a.wav", stereo, 44_100, subtype="FLOAT")
    monkeypatch.setattr(decoders, "_BLOCK_SAMPLES", 1_009)
    once = soxr.resample(stereo.mean(axis=1), 44_100, SAMPLE_RATE, quality="HQ")
    blocks = load_audio(tmp_path / "a.wav")
    assert abs(len(once) - len(blocks)) <= 1
    np.testing.assert_allclose(blocks[: len(once)], once[: len(blocks)], atol=1e-5)


def test_three_hours_need_about_twice_the_memory_of_the_result(tmp_path):
    """The recording has 8-bit samples at 8 kHz, so its file is small."""
    import tracemalloc

    n = 3 * 3600 * 8_000
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 8_000, 1, subtype="PCM_U8") as file:
        block = tone(60.0, 8_000)
        for _ in range(n // len(block)):
            file.write(block)
    tracemalloc.start()
    audio = load_audio(tmp_path / "long.wav")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert abs(len(audio) - 3 * 3600 * SAMPLE_RATE) <= 2
    assert peak < 2.2 * audio.nbytes


@pytest.mark.parametrize(
    ("format", "codec", "rate", "channels"),
    [
        ("ipod", "aac", RATE, 2),
        ("adts", "aac", RATE, 2),
        ("mp4", "aac", RATE, 1),
        ("mpegts", "aac", RATE, 2),
        ("webm", "libopus", RATE, 2),
        ("ogg", "libopus", RATE, 2),
        ("ac3", "ac3", RATE, 2),
        ("caf", "alac", RATE, 2),
        ("mov", "pcm_s24le", RATE, 2),
        ("wav", "pcm_s64le", RATE, 2),
        ("wav", "pcm_mulaw", 8_000, 1),
        ("voc", "pcm_s16le", RATE, 2),
        ("aiff", "pcm_s16be", RATE, 2),
        ("w64", "pcm_s16le", RATE, 1),
        ("tta", "tta", RATE, 2),
        ("wv", "wavpack", RATE, 2),
        ("au", "pcm_mulaw", 8_000, 1),
    ],
)
def test_samples_of_all_containers_equal_those_of_pyav(tmp_path, format, codec, rate, channels):
    path = write(
        tmp_path / f"a.{format}", with_pyav(speechlike(2, rate, channels), rate, format, codec)
    )
    assert len(load_audio(path)) >= 1.9 * SAMPLE_RATE
    difference, correlation = compare_with_pyav(path)
    assert agrees_with_pyav(difference, correlation)


@pytest.mark.parametrize("kind", ["amr", "mp3"])
def test_formats_that_pyav_may_not_write(tmp_path, speech, kind):
    path = write(tmp_path / f"a.{kind}", amr(100) if kind == "amr" else with_mp3(speech, RATE))
    assert len(load_audio(path)) >= 1.9 * SAMPLE_RATE
    assert agrees_with_pyav(*compare_with_pyav(path))


def test_a_video_gives_its_audio_stream(tmp_path, speech):
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=10)
        picture.width = picture.height = 64
        sound = container.add_stream("aac", rate=RATE, layout="stereo")
        frame = av.AudioFrame.from_ndarray(speech.reshape(1, -1), format="flt", layout="stereo")
        frame.sample_rate = RATE
        resampler = av.AudioResampler("fltp", "stereo", RATE, frame_size=1024)
        for number in range(20):
            container.mux(
                picture.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8)))
            )
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux(sound.encode(part))
        container.mux(picture.encode(None))
    assert agrees_with_pyav(*compare_with_pyav(path))
    assert header_seconds(path) == pytest.approx(2, abs=0.1)


def test_the_program_ffmpeg_is_used_without_pyav(tmp_path, speech, monkeypatch):
    """A fake program ffmpeg prints the same output as `ffmpeg … -f au -`."""
    path = write(tmp_path / "a.m4a", with_pyav(speech, RATE, "ipod", "aac"))
    soundfile.write(tmp_path / "output.au", speech, RATE, subtype="FLOAT", endian="BIG")
    script = "import sys\nsys.stdout.buffer.write(open('output.au', 'rb').read())\n"
    program = write(tmp_path / "ffmpeg", f"#!{sys.executable}\n{script}".encode())
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    expected = soxr.resample(speech.mean(axis=1), RATE, SAMPLE_RATE)
    np.testing.assert_allclose(load_audio(path)[:30_000], expected[:30_000], atol=1e-5)
    write(
        program,
        f"#!{sys.executable}\nimport sys\nsys.exit('file:{path}: moov atom not found')\n".encode(),
    )
    with pytest.raises(ValueError, match="ffmpeg: moov atom not found"):
        load_audio(path)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no program ffmpeg")
def test_the_program_ffmpeg_gives_the_samples_of_pyav(tmp_path, speech, monkeypatch):
    path = write(tmp_path / "a.m4a", with_pyav(speech, RATE, "ipod", "aac"))
    by_pyav = load_audio(path)
    monkeypatch.setitem(sys.modules, "av", None)
    by_program = load_audio(path)
    # Some versions of FFmpeg drop the padding at the end, which is shorter than a frame.
    assert abs(len(by_program) - len(by_pyav)) <= 320
    np.testing.assert_allclose(by_program[:30_000], by_pyav[:30_000], atol=1e-5)
