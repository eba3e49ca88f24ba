"""Recordings of every container, whole, streamed, truncated and damaged, as samples."""

import contextlib
import os
import shutil
import struct
import sys

import av
import numpy as np
import pytest
import soundfile
import soxr
from attacks.containers import compared, passes, with_pyav_alone
from attacks.written import RATE, speechlike, with_pyav, with_soundfile

from jaxasr.audio import decoders, header_seconds, load_audio
from jaxasr.config import SAMPLE_RATE


def tone(seconds: float, rate: int = SAMPLE_RATE, gain: float = 0.5) -> np.ndarray:
    return (gain * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def write(path, content: bytes):
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return speechlike(2, RATE, 2)


@pytest.fixture
def bare(monkeypatch):
    """Neither PyAV nor the program ffmpeg."""
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", "")


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize(
    ("suffix", "subtype"), [("wav", "PCM_U8"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", "PCM_16"), ("ogg", "VORBIS")]
)
def test_load_audio_any_rate_and_format(tmp_path, rate, suffix, subtype):
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


def test_block_by_block_equals_at_once(tmp_path, monkeypatch):
    stereo = speechlike(2, 44_100, 2)
    soundfile.write(tmp_path / "a.wav", stereo, 44_100, subtype="FLOAT")
    monkeypatch.setattr(decoders, "_BLOCK", 1_009)
    once = soxr.resample(stereo.mean(axis=1), 44_100, SAMPLE_RATE, quality="HQ")
    blocks = load_audio(tmp_path / "a.wav")
    assert abs(len(once) - len(blocks)) <= 1
    np.testing.assert_allclose(blocks[: len(once)], once[: len(blocks)], atol=1e-5)


def test_three_hours_in_the_memory_of_the_result(tmp_path):
    """5 channels at 48 kHz would be 10 GB as float32; 8 kHz bytes keep the test's own file small."""
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
        ("mp3", "libmp3lame", 44_100, 2),
        ("amr", "libopencore_amrnb", 8_000, 1),
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
def test_containers_are_read_as_pyav_reads_them(tmp_path, format, codec, rate, channels):
    path = write(tmp_path / f"a.{format}", with_pyav(speechlike(2, rate, channels), rate, format, codec))
    assert len(load_audio(path)) >= 1.9 * SAMPLE_RATE
    difference, correlation = compared(path)
    assert passes(difference, correlation)


def test_a_video_gives_its_sound(tmp_path, speech):
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=10)
        picture.width = picture.height = 64
        sound = container.add_stream("aac", rate=RATE, layout="stereo")
        frame = av.AudioFrame.from_ndarray(speech.reshape(1, -1), format="flt", layout="stereo")
        frame.sample_rate = RATE
        resampler = av.AudioResampler("fltp", "stereo", RATE, frame_size=1024)
        for number in range(20):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8))))
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux(sound.encode(part))
        container.mux(picture.encode(None))
    assert passes(*compared(path))
    assert header_seconds(path) == pytest.approx(2, abs=0.1)


def _lengths(wav: bytes, of_data: int, of_file: int) -> bytes:
    place = wav.index(b"data") + 4
    return wav[:4] + struct.pack("<I", of_file) + wav[8:place] + struct.pack("<I", of_data) + wav[place + 4 :]


@pytest.mark.parametrize(
    ("of_data", "of_file"), [(0, 0), (0, 500), (0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0), (0x7FFFFFFF, 0x7FFFFFFF)]
)
def test_an_unfinished_header_does_not_hide_the_samples(tmp_path, speech, of_data, of_file):
    wav = with_soundfile(speech, RATE, "WAV", "PCM_16")
    whole = load_audio(write(tmp_path / "whole.wav", wav))
    np.testing.assert_array_equal(load_audio(write(tmp_path / "cut.wav", _lengths(wav, of_data, of_file))), whole)


@pytest.mark.parametrize(("format", "codec"), [("flac", "flac"), ("wav", "pcm_s16le"), ("mp3", "libmp3lame"), ("caf", "pcm_s16be")])
def test_streams_of_unknown_length_are_read_to_the_end(tmp_path, speech, format, codec):
    whole, streamed = (
        load_audio(write(tmp_path / f"a.{format}", with_pyav(speech, RATE, format, codec, streamed=streamed))) for streamed in (False, True)
    )
    # Without a length an mp3 does not tell which samples at its ends are padding: three frames of 1,152.
    assert 0 <= len(streamed) - len(whole) <= (3 * 1152 / 3 if format == "mp3" else 0)
    if format != "mp3":
        np.testing.assert_array_equal(streamed, whole)


def test_a_streamed_flac_needs_nothing_but_libsndfile(tmp_path, speech, bare):
    path = write(tmp_path / "a.flac", with_pyav(speech, RATE, "flac", "flac", streamed=True))
    assert len(load_audio(path)) == 2 * SAMPLE_RATE


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "opus", "mp3", "aiff", "caf", "aac", "webm", "mpegts"])
def test_truncated_files_give_what_pyav_decodes(tmp_path, speech, kind):
    whole = {
        "wav": lambda: with_soundfile(speech, RATE, "WAV", "PCM_16"),
        "flac": lambda: with_soundfile(speech, RATE, "FLAC", "PCM_16"),
        "ogg": lambda: with_soundfile(speech, RATE, "OGG", "VORBIS"),
        "opus": lambda: with_pyav(speech, RATE, "ogg", "libopus"),
        "mp3": lambda: with_pyav(speech, RATE, "mp3", "libmp3lame"),
        "aiff": lambda: with_soundfile(speech, RATE, "AIFF", "PCM_16"),
        "caf": lambda: with_pyav(speech, RATE, "caf", "pcm_s16be"),
        "aac": lambda: with_pyav(speech, RATE, "adts", "aac"),
        "webm": lambda: with_pyav(speech, RATE, "webm", "libopus"),
        "mpegts": lambda: with_pyav(speech, RATE, "mpegts", "aac"),
    }[kind]()
    for part in (0.5, 0.83):
        path = write(tmp_path / f"{part}.{kind}", whole[: int(part * len(whole))])
        assert 0 < len(with_pyav_alone(path)) < 2 * SAMPLE_RATE
        assert passes(*compared(path))


@pytest.mark.parametrize(
    ("format", "codec"), [("mp3", "libmp3lame"), ("ogg", "libopus"), ("flac", "flac"), ("adts", "aac")]
)
def test_files_that_follow_one_another_are_read_all(tmp_path, speech, format, codec):
    one = with_pyav(speech, RATE, format, codec)
    path = write(tmp_path / f"two.{format}", one + one)
    assert len(load_audio(path)) >= 3.9 * SAMPLE_RATE
    assert passes(*compared(path))


def test_half_of_two_files_is_not_taken_for_the_whole(tmp_path, speech, bare):
    one = with_soundfile(speech, RATE, "OGG", "OPUS")
    with pytest.raises(ValueError, match=r"libsndfile: stopped \d+ bytes before the end; ffmpeg: not found.*jaxasr\[media\]"):
        load_audio(write(tmp_path / "two.opus", one + one))


def test_the_rate_may_change_within_a_file(tmp_path):
    first, second = (with_pyav(speechlike(1, rate, 2), rate, "mp3", "libmp3lame", streamed=True) for rate in (44_100, 16_000))
    audio = load_audio(write(tmp_path / "two.mp3", first + second))
    assert abs(len(audio) - 2 * SAMPLE_RATE) <= 0.15 * SAMPLE_RATE


def test_a_shortened_mp3_is_read_without_pyav(tmp_path, speech, bare):
    whole = with_pyav(speech, RATE, "mp3", "libmp3lame")
    path = write(tmp_path / "cut.mp3", whole[: len(whole) // 2])
    audio = load_audio(path)
    assert 0.8 * SAMPLE_RATE < len(audio) < 1.1 * SAMPLE_RATE
    assert np.abs(audio).max() < 1


def test_the_program_ffmpeg_is_used_where_pyav_is_not(tmp_path, speech, monkeypatch):
    """A program in its place answers as `ffmpeg … -f au -` does."""
    path = write(tmp_path / "a.m4a", with_pyav(speech, RATE, "ipod", "aac"))
    soundfile.write(tmp_path / "answer.au", speech, RATE, subtype="FLOAT", endian="BIG")
    answers = "import sys\nsys.stdout.buffer.write(open('answer.au', 'rb').read())\n"
    program = write(tmp_path / "ffmpeg", f"#!{sys.executable}\n{answers}".encode())
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    expected = soxr.resample(speech.mean(axis=1), RATE, SAMPLE_RATE)
    np.testing.assert_allclose(load_audio(path)[:30_000], expected[:30_000], atol=1e-5)
    write(program, f"#!{sys.executable}\nimport sys\nsys.exit('file:{path}: moov atom not found')\n".encode())
    with pytest.raises(ValueError, match="ffmpeg: moov atom not found"):
        load_audio(path)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no program ffmpeg")
def test_the_program_ffmpeg_gives_what_pyav_gives(tmp_path, speech, monkeypatch):
    path = write(tmp_path / "a.m4a", with_pyav(speech, RATE, "ipod", "aac"))
    by_pyav = load_audio(path)
    monkeypatch.setitem(sys.modules, "av", None)
    np.testing.assert_allclose(load_audio(path), by_pyav, atol=1e-5)


@pytest.mark.parametrize("rate", [1, 10, 999, 1_000_001, 0x7FFFFFFF])
def test_absurd_rates_are_refused(tmp_path, speech, rate):
    wav = bytearray(with_soundfile(speech, RATE, "WAV", "PCM_16"))
    wav[24:28] = struct.pack("<I", rate)
    with pytest.raises(ValueError, match=rf"a\.wav: expected a sample rate of 1,000 to 1,000,000 Hz, got {rate:,} Hz"):
        load_audio(write(tmp_path / "a.wav", bytes(wav)))


def test_absurd_numbers_of_channels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected 1 to 256 channels, got 300"):
        load_audio(write(tmp_path / "a.wav", with_soundfile(np.zeros((10, 300), np.float32), RATE, "WAV", "PCM_16")))


@pytest.mark.parametrize("format", ["WAV", "AIFF"])
def test_absurd_samples_are_refused(tmp_path, format):
    samples = np.array([0, 1e29, 0], np.float32)
    with pytest.raises(ValueError, match=r"a: expected samples in \[-1, 1\], got one of magnitude 1e\+29"):
        load_audio(write(tmp_path / "a", with_soundfile(samples, SAMPLE_RATE, format, "FLOAT")))


def test_errors_name_the_file_and_what_it_is(tmp_path):
    missing = tmp_path / "nope.wav"
    with pytest.raises(FileNotFoundError, match=r"^/.*nope\.wav: no such file\.$"):
        load_audio(missing)
    with pytest.raises(FileNotFoundError, match=r"/under: no such file\.$"):
        load_audio(write(tmp_path / "file", b"x") / "under")
    os.mkfifo(tmp_path / "pipe")
    named = {tmp_path: "a directory", tmp_path / "pipe": "a FIFO", "/dev/zero": "a device", write(tmp_path / "none", b""): "an empty file"}
    for path, got in named.items():
        with pytest.raises(ValueError, match=f"^{path}: expected an audio file, got {got}\\.$"):
            load_audio(path)
        assert header_seconds(path) == 0
    with pytest.raises(FileNotFoundError, match=r"\\x1b\[31m\.wav': no such file"):
        load_audio(tmp_path / "\x1b[31m.wav")


def test_errors_list_the_decoders_that_were_tried(tmp_path):
    text = write(tmp_path / "text.wav", b"this is not audio" * 100)
    tried = r"text\.wav: .*\(libsndfile: Format not recognised; PyAV: Invalid data found when processing input\)\. Check that it is audio"
    with pytest.raises(ValueError, match=tried):
        load_audio(text)
    with pytest.raises(ValueError, match=r"raw\.raw: .*libsndfile: samplerate must be specified; PyAV: "):
        load_audio(write(tmp_path / "raw.raw", bytes(1000)))
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), SAMPLE_RATE)
    with pytest.raises(ValueError, match=r"none\.wav: .*libsndfile: no samples; PyAV: no samples"):
        load_audio(tmp_path / "none.wav")
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan, np.inf]), SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"nan\.wav: expected finite samples, got 2 of 3 NaN"):
        load_audio(tmp_path / "nan.wav")


def test_the_remedy_is_what_is_missing(tmp_path, speech, bare):
    with pytest.raises(ValueError, match=r'ffmpeg: not found\)\. To read every format of FFmpeg: pip install "jaxasr\[media\]"'):
        load_audio(write(tmp_path / "a.m4a", with_pyav(speech, RATE, "ipod", "aac")))
    unfinished = _lengths(with_soundfile(speech, RATE, "WAV", "PCM_16"), 0, 0)
    with pytest.raises(ValueError, match=rf"libsndfile: no samples before the last {2 * RATE * 4} bytes"):
        load_audio(write(tmp_path / "unfinished.wav", unfinished))


@pytest.mark.parametrize(
    "playlist", ["#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n"]
)
def test_a_playlist_cannot_name_other_files(tmp_path, speech, playlist):
    write(tmp_path / "other.mp3", with_pyav(speech, RATE, "mp3", "libmp3lame"))
    with pytest.raises(ValueError, match="no decoder reads it"):
        load_audio(write(tmp_path / "list.m3u8", playlist.format("other.mp3").encode()))


@pytest.mark.parametrize("kind", ["wav", "mp3", "m4a", "text"])
def test_lengths_of_headers(tmp_path, speech, kind):
    content = {
        "wav": lambda: with_soundfile(speech, RATE, "WAV", "PCM_16"),
        "mp3": lambda: with_pyav(speech, RATE, "mp3", "libmp3lame"),
        "m4a": lambda: with_pyav(speech, RATE, "ipod", "aac"),
        "text": lambda: b"text" * 100,
    }[kind]()
    expected = 0 if kind == "text" else 2
    assert header_seconds(write(tmp_path / "a", content)) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_cut_short_files_never_crash(tmp_path, suffix):
    soundfile.write(tmp_path / f"whole.{suffix}", speechlike(1, SAMPLE_RATE), SAMPLE_RATE)
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    for keep in np.linspace(1, len(whole) - 1, 13).astype(int):
        cut = write(tmp_path / f"cut.{suffix}", whole[:keep])
        with contextlib.suppress(ValueError):
            assert 0 < len(load_audio(cut)) <= 16_000


