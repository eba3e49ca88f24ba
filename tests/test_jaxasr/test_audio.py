"""Log-mel features equal those of transformers, and times of frames are exact."""

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from transformers import WhisperFeatureExtractor

from jaxasr import audio
from jaxasr.config import N_SAMPLES, SAMPLE_RATE


def tone(
    seconds: float, rate: int = SAMPLE_RATE, hz: float = 440.0, gain: float = 0.5
) -> np.ndarray:
    return (gain * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(
        np.float32
    )


def speechlike(n: int, seed: int = 0) -> np.ndarray:
    """Returns noise with a falling spectrum and a slow envelope.

    As in speech, a frame has quiet and loud bins.
    """
    rng = np.random.default_rng(seed)
    noise = np.cumsum(rng.normal(size=n)) * 0.01 + rng.normal(size=n) * 1e-3
    noise -= np.convolve(noise, np.ones(801) / 801, mode="same")
    return (noise * np.abs(np.sin(np.arange(n) / 3001)) / np.abs(noise).max()).astype(np.float32)


# Samples at 16 kHz by name.
SIGNALS = {
    "speechlike 3 s": speechlike(48_000),
    "speechlike 30 s": speechlike(N_SAMPLES, 1),
    "tone": tone(7.3),
    "low tone, full scale": tone(12.0, hz=100.0, gain=1.0),
    "square": np.sign(tone(2.0)),
    "quiet": 1e-4 * speechlike(16_000, 2),
    "silence": np.zeros(1_000, np.float32),
    "one sample": np.ones(1, np.float32),
}


@pytest.mark.parametrize("n_mels", audio.MEL_COUNTS)
@pytest.mark.parametrize("name", SIGNALS)
def test_log_mel_equals_the_reference_extractor(name, n_mels):
    reference = WhisperFeatureExtractor(feature_size=n_mels)(
        SIGNALS[name], sampling_rate=SAMPLE_RATE, return_tensors="np"
    )
    mel = audio.log_mel(SIGNALS[name], n_mels)
    assert mel.shape == (n_mels, 3000)
    assert mel.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(mel), reference["input_features"][0], atol=1e-4, rtol=0)


def test_log_mel_is_the_same_under_jit_and_vmap_and_in_float64():
    batch = np.stack([audio.pad_or_trim(s) for s in list(SIGNALS.values())[:3]])
    separate = np.stack([audio.log_mel(a, 80) for a in batch])
    np.testing.assert_allclose(
        jax.vmap(lambda a: audio.log_mel(a, 80))(jnp.asarray(batch)), separate, atol=1e-5
    )
    np.testing.assert_allclose(
        jax.jit(audio.log_mel, static_argnums=1)(jnp.asarray(batch[0]), 80), separate[0], atol=1e-5
    )
    np.testing.assert_array_equal(audio.log_mel(batch[0].astype(np.float64), 80), separate[0])


@pytest.mark.parametrize("seconds", [0.5, 30, 71.3])
def test_features_of_a_long_recording_equal_the_reference_extractor(seconds):
    samples = speechlike(int(seconds * SAMPLE_RATE), 5)
    # The first window is quiet, because features are scaled by the maximum of the whole recording.
    samples[: SAMPLE_RATE // 4] *= 0.01
    extractor = WhisperFeatureExtractor()
    # The extractor would otherwise pad the end with a reflection instead of silence.
    padded = np.pad(samples, (0, 1600))
    reference = extractor(
        padded, sampling_rate=SAMPLE_RATE, truncation=False, padding=False, return_tensors="np"
    )["input_features"][0]
    mel = audio.long_log_mel(samples, 80)
    assert mel.shape == (80, len(samples) // 160)
    np.testing.assert_allclose(mel, reference[:, : mel.shape[1]], atol=1e-4, rtol=0)


def test_a_recording_shorter_than_a_frame_has_no_features_and_an_empty_one_raises():
    assert audio.long_log_mel(np.ones(159, np.float32), 80).shape == (80, 0)
    with pytest.raises(ValueError, match="at least one sample"):
        audio.long_log_mel(np.zeros(0, np.float32), 80)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.array([0.0, np.nan], np.float32), "1 of 2 NaN"),
        (jnp.array([jnp.inf, 0.0]), "NaN or infinite"),
        (
            np.array([0.0, -1e29], np.float32),
            r"audio: expected samples in \[-1, 1\], got one of magnitude 1e\+29",
        ),
        (jnp.array([0.0, 32_767.0]), r"magnitude 3.28e\+04\. Divide integers"),
        (np.array([1e300]), "1e[+]300"),
        (np.zeros(0, np.float32), "got 0."),
        (np.zeros((2, 100), np.float32), r"shape \(2, 100\)"),
        (np.zeros(100, np.int16), "int16"),
        (np.zeros(N_SAMPLES + 1, np.float32), "pad_or_trim"),
    ],
)
def test_log_mel_names_what_is_wrong_with_the_samples(samples, message):
    with pytest.raises(ValueError, match=message):
        audio.log_mel(samples, 80)


@pytest.mark.parametrize("gain", [1e4, -1e4])
def test_features_of_the_loudest_samples_are_finite(gain):
    loud = (gain * np.sign(tone(30.0))).astype(np.float32)
    assert np.isfinite(audio.log_mel(loud, 80)).all()


@pytest.mark.parametrize("n_mels", [0, 64, 81])
def test_a_number_of_mels_without_checkpoints_raises(n_mels):
    with pytest.raises(ValueError, match=r"n_mels.*\(80, 128\)"):
        audio.log_mel(tone(1.0), n_mels)


@settings(deadline=None)
@given(st.integers(0, 10 * N_SAMPLES))
def test_frames_cover_every_sample_and_no_more(n):
    frames = audio.n_frames(n)
    assert (frames - 1) * 320 < n <= frames * 320 or n == frames == 0


@given(st.integers(0, 5 * 1500))
def test_a_frame_starts_with_its_first_sample(frame):
    assert audio.frame_to_seconds(frame) == frame * 320 / SAMPLE_RATE


def test_frame_times_take_arrays_and_lengths_must_not_be_negative():
    np.testing.assert_array_equal(audio.frame_to_seconds(np.array([0, 50, 75])), [0.0, 1.0, 1.5])
    assert audio.n_frames(N_SAMPLES) == 1500
    with pytest.raises(ValueError, match="n_samples"):
        audio.n_frames(-1)


def test_a_click_is_loudest_in_its_frame():
    """The hop is 160 samples, and an encoder frame covers two mel frames."""
    samples = np.zeros(N_SAMPLES, np.float32)
    click = 320 * 700 + 160
    samples[click] = 1.0
    loudest = int(np.asarray(audio.log_mel(samples, 80)).sum(0).argmax())
    assert loudest // 2 == 700
    assert audio.frame_to_seconds(700) <= click / SAMPLE_RATE < audio.frame_to_seconds(701)


def test_pad_or_trim_pads_and_trims_numpy_and_jax_arrays():
    assert audio.pad_or_trim(np.ones((2, 5)), 7).tolist() == [[1] * 5 + [0] * 2] * 2
    assert audio.pad_or_trim(jnp.ones(5), 3).tolist() == [1] * 3
    assert audio.pad_or_trim(tone(1.0)).shape == (N_SAMPLES,)


@pytest.mark.parametrize("n_mels", audio.MEL_COUNTS)
def test_mel_filters_are_bitwise_those_of_librosa(n_mels):
    theirs = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=audio.N_FFT, n_mels=n_mels)
    np.testing.assert_array_equal(audio.mel_filters(n_mels), theirs, strict=True)
