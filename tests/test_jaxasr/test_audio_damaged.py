"""Unfinished and truncated recordings are read as far as possible; other files are refused."""

import contextlib
import os
import struct
import sys

import numpy as np
import pytest
import soundfile
from attacks.containers import agrees_with_pyav, compare_with_pyav, decode_with_pyav
from attacks.sample_files import RATE, speechlike, with_mp3, with_pyav, with_soundfile

from jaxasr.audio import header_seconds, load_audio
from jaxasr.config import SAMPLE_RATE


def write(path, content: bytes):
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return speechlike(2, RATE, channels=2)  # 2 s


@pytest.fixture
def libsndfile_alone(monkeypatch):
    """Hides PyAV and the program ffmpeg, so that libsndfile is the only decoder."""
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", "")


def set_header_lengths(wav: bytes, *, of_data: int, of_file: int) -> bytes:
    """Returns a wav file whose header gives other lengths of the samples and of the file."""
    # The length of the samples follows "data". The length of the file is in bytes 4 to 7.
    place = wav.index(b"data") + 4
    return (
        wav[:4]
        + struct.pack("<I", of_file)
        + wav[8:place]
        + struct.pack("<I", of_data)
        + wav[place + 4 :]
    )


@pytest.mark.parametrize(
    ("of_data", "of_file"),
    [(0, 0), (0, 500), (0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0), (0x7FFFFFFF, 0x7FFFFFFF)],
)
def test_an_unfinished_header_does_not_hide_the_samples(tmp_path, speech, of_data, of_file):
    wav = with_soundfile(speech, RATE, "WAV", "PCM_16")
    whole = load_audio(write(tmp_path / "whole.wav", wav))
    unfinished = set_header_lengths(wav, of_data=of_data, of_file=of_file)
    np.testing.assert_array_equal(load_audio(write(tmp_path / "cut.wav", unfinished)), whole)


@pytest.mark.parametrize(
    ("format", "codec"), [("flac", "flac"), ("wav", "pcm_s16le"), ("caf", "pcm_s16be")]
)
def test_streams_of_unknown_length_are_read_to_the_end(tmp_path, speech, format, codec):
    files = [
        with_pyav(speech, RATE, format, codec, streamed=streamed) for streamed in (False, True)
    ]
    whole, streamed = (load_audio(write(tmp_path / f"a.{format}", content)) for content in files)
    np.testing.assert_array_equal(streamed, whole)


def test_an_mp3_without_its_length_is_read_to_the_end(tmp_path, speech):
    path = write(tmp_path / "a.mp3", with_mp3(speech, RATE, streamed=True))
    assert len(load_audio(path)) >= 2 * SAMPLE_RATE
    assert agrees_with_pyav(*compare_with_pyav(path))


def test_a_streamed_flac_needs_nothing_but_libsndfile(tmp_path, speech, libsndfile_alone):
    path = write(tmp_path / "a.flac", with_pyav(speech, RATE, "flac", "flac", streamed=True))
    assert len(load_audio(path)) == 2 * SAMPLE_RATE


@pytest.mark.parametrize(
    "kind", ["wav", "flac", "ogg", "opus", "mp3", "aiff", "caf", "aac", "webm", "mpegts"]
)
def test_truncated_files_give_what_pyav_decodes(tmp_path, speech, kind):
    whole = {
        "wav": lambda: with_soundfile(speech, RATE, "WAV", "PCM_16"),
        "flac": lambda: with_soundfile(speech, RATE, "FLAC", "PCM_16"),
        "ogg": lambda: with_soundfile(speech, RATE, "OGG", "VORBIS"),
        "opus": lambda: with_pyav(speech, RATE, "ogg", "libopus"),
        "mp3": lambda: with_mp3(speech, RATE),
        "aiff": lambda: with_soundfile(speech, RATE, "AIFF", "PCM_16"),
        "caf": lambda: with_pyav(speech, RATE, "caf", "pcm_s16be"),
        "aac": lambda: with_pyav(speech, RATE, "adts", "aac"),
        "webm": lambda: with_pyav(speech, RATE, "webm", "libopus"),
        "mpegts": lambda: with_pyav(speech, RATE, "mpegts", "aac"),
    }[kind]()
    for fraction in (0.5, 0.83):
        path = write(tmp_path / f"{fraction}.{kind}", whole[: int(fraction * len(whole))])
        assert 0 < len(decode_with_pyav(path)) < 2 * SAMPLE_RATE
        assert agrees_with_pyav(*compare_with_pyav(path))


@pytest.mark.parametrize(
    ("format", "codec"), [("mp3", ""), ("ogg", "libopus"), ("flac", "flac"), ("adts", "aac")]
)
def test_concatenated_files_are_read_to_the_end(tmp_path, speech, format, codec):
    content = with_pyav(speech, RATE, format, codec) if codec else with_mp3(speech, RATE)
    path = write(tmp_path / f"two.{format}", content + content)
    assert len(load_audio(path)) >= 3.9 * SAMPLE_RATE
    assert agrees_with_pyav(*compare_with_pyav(path))


def test_the_first_of_two_concatenated_files_is_not_taken_for_both(
    tmp_path, speech, libsndfile_alone
):
    content = with_soundfile(speech, RATE, "OGG", "OPUS")
    with pytest.raises(
        ValueError,
        match=r"libsndfile: stopped \d+ bytes before the end; ffmpeg: not found.*jaxasr\[media\]",
    ):
        load_audio(write(tmp_path / "two.opus", content + content))


def test_the_rate_may_change_within_a_file(tmp_path):
    first, second = (
        with_mp3(speechlike(1, rate, 2), rate, streamed=True) for rate in (44_100, 16_000)
    )
    separate = sum(
        len(load_audio(write(tmp_path / "one.mp3", content))) for content in (first, second)
    )
    audio = load_audio(write(tmp_path / "two.mp3", first + second))
    # The frame between the two parts, of at most 1152 samples, may be read at either rate.
    assert abs(len(audio) - separate) <= SAMPLE_RATE * 1152 / 44_100 + 1


def test_a_truncated_mp3_is_read_without_pyav(tmp_path, speech, libsndfile_alone):
    whole = with_mp3(speech, RATE)
    path = write(tmp_path / "cut.mp3", whole[: len(whole) // 2])
    audio = load_audio(path)
    assert 0.8 * SAMPLE_RATE < len(audio) < 1.1 * SAMPLE_RATE
    assert np.abs(audio).max() < 1


@pytest.mark.parametrize("rate", [1, 10, 999, 1_000_001, 0x7FFFFFFF])
def test_absurd_rates_are_refused(tmp_path, speech, rate):
    wav = bytearray(with_soundfile(speech, RATE, "WAV", "PCM_16"))
    wav[24:28] = struct.pack("<I", rate)
    with pytest.raises(
        ValueError,
        match=rf"a\.wav: expected a sample rate of 1,000 to 1,000,000 Hz, got {rate:,} Hz",
    ):
        load_audio(write(tmp_path / "a.wav", bytes(wav)))


def test_absurd_numbers_of_channels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected 1 to 256 channels, got 300"):
        load_audio(
            write(
                tmp_path / "a.wav",
                with_soundfile(np.zeros((10, 300), np.float32), RATE, "WAV", "PCM_16"),
            )
        )


@pytest.mark.parametrize("format", ["WAV", "AIFF"])
def test_absurd_samples_are_refused(tmp_path, format):
    samples = np.array([0, 1e29, 0], np.float32)
    with pytest.raises(
        ValueError, match=r"a: expected samples in \[-1, 1\], got one of magnitude 1e\+29"
    ):
        load_audio(write(tmp_path / "a", with_soundfile(samples, SAMPLE_RATE, format, "FLOAT")))


def test_errors_name_the_file_and_its_kind(tmp_path):
    missing = tmp_path / "nope.wav"
    with pytest.raises(FileNotFoundError, match=r"^/.*nope\.wav: no such file\.$"):
        load_audio(missing)
    with pytest.raises(FileNotFoundError, match=r"/under: no such file\.$"):
        load_audio(write(tmp_path / "file", b"x") / "under")
    os.mkfifo(tmp_path / "pipe")
    named = {
        tmp_path: "a directory",
        tmp_path / "pipe": "a FIFO",
        "/dev/zero": "a device",
        write(tmp_path / "none", b""): "an empty file",
    }
    for path, got in named.items():
        with pytest.raises(ValueError, match=f"^{path}: expected an audio file, got {got}\\.$"):
            load_audio(path)
        assert header_seconds(path) == 0
    with pytest.raises(FileNotFoundError, match=r"\\x1b\[31m\.wav': no such file"):
        load_audio(tmp_path / "\x1b[31m.wav")


def test_errors_list_the_decoders_that_were_tried(tmp_path):
    text = write(tmp_path / "text.wav", b"this is not audio" * 100)
    tried = (
        r"text\.wav: .*\(libsndfile: Format not recognised; PyAV: Invalid data .*\)\. Check that"
    )
    with pytest.raises(ValueError, match=tried):
        load_audio(text)
    with pytest.raises(
        ValueError, match=r"raw\.raw: .*libsndfile: samplerate must be specified; PyAV: "
    ):
        load_audio(write(tmp_path / "raw.raw", bytes(1000)))
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), SAMPLE_RATE)
    with pytest.raises(ValueError, match=r"none\.wav: .*libsndfile: no samples; PyAV: no samples"):
        load_audio(tmp_path / "none.wav")
    soundfile.write(
        tmp_path / "nan.wav", np.array([0, np.nan, np.inf]), SAMPLE_RATE, subtype="FLOAT"
    )
    with pytest.raises(ValueError, match=r"nan\.wav: expected finite samples, got 2 of 3 NaN"):
        load_audio(tmp_path / "nan.wav")


def test_without_other_decoders_errors_name_the_extra_or_the_unread_bytes(
    tmp_path, speech, libsndfile_alone
):
    with pytest.raises(
        ValueError,
        match=r"ffmpeg: not found\)\. To read every format of FFmpeg: "
        r'pip install "jaxasr\[media\]"',
    ):
        load_audio(write(tmp_path / "a.m4a", with_pyav(speech, RATE, "ipod", "aac")))
    wav = with_soundfile(speech, RATE, "WAV", "PCM_16")
    unfinished = set_header_lengths(wav, of_data=0, of_file=0)
    n_bytes = 2 * RATE * 4  # 2 s of two channels with 16 bits
    with pytest.raises(
        ValueError, match=rf"libsndfile: no samples before the last {n_bytes} bytes"
    ):
        load_audio(write(tmp_path / "unfinished.wav", unfinished))


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {}\n",
    ],
)
def test_a_playlist_does_not_open_other_files(tmp_path, speech, playlist):
    write(tmp_path / "other.mp3", with_mp3(speech, RATE))
    with pytest.raises(ValueError, match="no decoder reads it"):
        load_audio(write(tmp_path / "list.m3u8", playlist.format("other.mp3").encode()))


@pytest.mark.parametrize("kind", ["wav", "mp3", "m4a", "text"])
def test_header_seconds_is_the_length_in_the_header(tmp_path, speech, kind):
    content = {
        "wav": lambda: with_soundfile(speech, RATE, "WAV", "PCM_16"),
        "mp3": lambda: with_mp3(speech, RATE),
        "m4a": lambda: with_pyav(speech, RATE, "ipod", "aac"),
        "text": lambda: b"text" * 100,
    }[kind]()
    expected = 0 if kind == "text" else 2
    assert header_seconds(write(tmp_path / "a", content)) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_truncated_files_never_crash(tmp_path, suffix):
    soundfile.write(tmp_path / f"whole.{suffix}", speechlike(1, SAMPLE_RATE), SAMPLE_RATE)
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    for keep in np.linspace(1, len(whole) - 1, 13).astype(int):
        cut = write(tmp_path / f"cut.{suffix}", whole[:keep])
        with contextlib.suppress(ValueError):
            assert 0 < len(load_audio(cut)) <= 16_000


def test_tags_of_any_encoding_are_accepted(tmp_path, speech):
    tags = b"LIST" + struct.pack("<I", 16) + b"INFOIART" + struct.pack("<I", 4) + b"\xe9\xff\xfe\0"
    wav = with_soundfile(speech, RATE, "WAV", "PCM_16")
    wav = set_header_lengths(wav, of_data=0, of_file=0)
    start = wav.index(b"data")
    path = write(tmp_path / "a.wav", wav[:start] + tags + wav[start:])
    assert len(load_audio(path)) == 2 * SAMPLE_RATE
