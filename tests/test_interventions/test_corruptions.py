"""Corruptions make the documented change to a recording, and no other change."""

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from interventions import corruptions

RATE = 16_000


@pytest.fixture(scope="module")
def audio():
    time = np.arange(RATE) / RATE
    return (0.1 * np.sin(2 * np.pi * 440 * time) + 0.1 * np.sin(2 * np.pi * 1000 * time)).astype(
        np.float32
    )


def rms(x):
    return np.sqrt(np.mean(np.square(x, dtype=np.float64)))


def amplitude(x, hz):
    return np.abs(np.fft.rfft(x))[hz]


@pytest.mark.parametrize("snr_db", [-10, 0, 5, 30])
def test_noise_has_the_given_ratio(audio, snr_db):
    added = corruptions.noise(audio, snr_db, seed=3) - audio
    assert 20 * np.log10(rms(audio) / rms(added)) == pytest.approx(snr_db, abs=1e-3)


def test_noise_is_reproducible_from_its_seed(audio):
    np.testing.assert_array_equal(corruptions.noise(audio, 5, 1), corruptions.noise(audio, 5, 1))
    assert (
        abs(
            np.corrcoef(
                corruptions.white_noise_like(audio, 1), corruptions.white_noise_like(audio, 2)
            )[0, 1]
        )
        < 0.05
    )


def test_white_noise_has_a_flat_spectrum_and_the_same_rms(audio):
    white = corruptions.white_noise_like(audio)
    assert white.shape == audio.shape
    assert rms(white) == pytest.approx(rms(audio), rel=1e-6)
    power = np.abs(np.fft.rfft(white)) ** 2
    assert power[:4000].mean() == pytest.approx(power[4000:].mean(), rel=0.1)


def test_band_stop_removes_only_its_band(audio):
    stopped = corruptions.band_stop(audio, 800, 1200)
    assert amplitude(stopped, 1000) < 1e-2 * amplitude(audio, 1000)
    assert amplitude(stopped, 440) == pytest.approx(amplitude(audio, 440), rel=1e-2)
    assert amplitude(corruptions.band_stop(audio, 0, 700), 440) < 1e-2 * amplitude(audio, 440)
    assert amplitude(corruptions.band_stop(audio, 700, 8000), 1000) < 1e-2 * amplitude(audio, 1000)
    assert corruptions.band_stop(audio[:20], 800, 1200).shape == (20,)


def test_mask_and_splice_change_only_their_span(audio):
    masked = corruptions.time_mask(audio, 0.25, 0.5)
    assert not masked[4000:8000].any()
    other = corruptions.white_noise_like(audio)
    spliced = corruptions.splice(audio, other, 0.25, 0.5)
    np.testing.assert_array_equal(spliced[4000:8000], other[4000:8000])
    for changed in (masked, spliced):
        np.testing.assert_array_equal(changed[:4000], audio[:4000])
        np.testing.assert_array_equal(changed[8000:], audio[8000:])


def test_the_input_stays_unchanged_and_the_output_is_float32(audio):
    before = audio.copy()
    corrupted = [
        corruptions.noise(audio, 0),
        corruptions.silence(audio),
        corruptions.band_stop(audio, 300, 3000),
        corruptions.time_mask(audio, 0, 1),
    ]
    assert all(x.dtype == np.float32 and x.shape == audio.shape for x in corrupted)
    np.testing.assert_array_equal(audio, before)
    np.testing.assert_array_equal(
        corruptions.noise(jnp.asarray(audio), 5), corruptions.noise(audio, 5)
    )


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (lambda a: corruptions.noise(np.zeros(100, np.float32), 5), "silent"),
        (lambda a: corruptions.noise(a, float("nan")), "snr_db"),
        (lambda a: corruptions.noise(a / 0, 5), "infinity"),
        (lambda a: corruptions.band_stop(a, 300, 300), "low_hz"),
        (lambda a: corruptions.band_stop(a, 0, 8000), "whole"),
        (lambda a: corruptions.time_mask(a, 0.5, 1.1), "1.000 s"),
        (lambda a: corruptions.time_mask(a, 0.5, 0.5), "start_s"),
        (lambda a: corruptions.splice(a, a[:100], 0, 0.5), "length of the recording"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*encountered in divide:RuntimeWarning")
def test_impossible_corruptions_raise(audio, corrupt, message):
    with pytest.raises(ValueError, match=message):
        corrupt(audio)


def test_sources_are_parsed_as_on_the_command_line(audio, tmp_path):
    soundfile.write(tmp_path / "other-1.wav", 0.5 * audio[:8000], RATE)
    expected = {
        "noise": corruptions.white_noise_like(audio, 7),
        "snr:-2.5": corruptions.noise(audio, -2.5, 7),
        "silence": np.zeros_like(audio),
        "bandstop:300-3000": corruptions.band_stop(audio, 300, 3000),
        "mask:0.1-0.2": corruptions.time_mask(audio, 0.1, 0.2),
    }
    for text, samples in expected.items():
        source = corruptions.parse_source(text, seed=7)
        assert source.name == text
        np.testing.assert_array_equal(source.make_recording(audio), samples)
    assert corruptions.parse_source("zero").make_recording is None
    np.testing.assert_allclose(
        corruptions.parse_source(tmp_path / "other-1.wav").make_recording(audio),
        0.5 * audio[:8000],
        atol=1e-4,
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nois",
        "snr",
        "snr:",
        "snr:x",
        "bandstop:300",
        "mask:1-2-3",
        "zero:1",
        "/no/such/file.wav",
    ],
)
def test_an_unknown_source_raises_and_lists_the_known_ones(text):
    with pytest.raises(ValueError, match="bandstop:LOW-HIGH"):
        corruptions.parse_source(text)
