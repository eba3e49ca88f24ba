"""Real recordings are transcribed with real weights."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

import jaxasr
from experiments.data import real_speech
from jaxasr.config import SAMPLE_RATE
from jaxasr.rules import rules_for
from jaxasr.transcribe import detect_language

load = functools.cache(jaxasr.load)


# Recordings of the data folder, which are concatenated to 105 s.
LONG_RECORDING = (
    "jfk",
    "libri_3436-172162-0000",
    "libri_5703-47212-0000",
    "mfa_acoustic_corpus",
    "mfa_cold_corpus",
    "sns_0870",
)


@functools.cache
def demo():
    return jaxasr.load_audio(real_speech.DEMO)


@functools.cache
def twice():
    """Returns the demo recording twice, with a pause in between, which is longer than a window."""
    pause = np.zeros(30 * SAMPLE_RATE - len(demo()), np.float32)
    return np.concatenate([demo(), pause, demo()])


@functools.cache
def long_recording():
    folder = real_speech.folder()
    if folder is None:
        pytest.skip("needs the folder of real recordings")
    pause = np.zeros(8_000, np.float32)
    return np.concatenate(
        [
            part
            for name in LONG_RECORDING
            for part in (jaxasr.load_audio(folder / "classic" / f"{name}.flac"), pause)
        ]
    )


def faster_whisper():
    module = pytest.importorskip("faster_whisper", reason="the dev extra brings faster-whisper")
    return module.WhisperModel(
        str(load("tiny.en").checkpoint.source), device="cpu", compute_type="float32", cpu_threads=2
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"condition_on_previous_text": False}),
        (
            {"condition_on_previous_text": True, "initial_prompt": "Scottish names."},
            {"initial_prompt": "Scottish names."},
        ),
        (
            {"timestamps": False, "batch_size": 1},
            {"condition_on_previous_text": False, "without_timestamps": True},
        ),
    ],
    ids=["timestamps", "previous text", "no timestamps"],
)
def test_long_recording_equals_faster_whisper(ours, theirs):
    """Compares the text, times and scores of each segment, on 105 s of speech of five speakers."""
    audio = long_recording()
    expected, _ = faster_whisper().transcribe(
        audio, beam_size=1, temperature=[0.0], language="en", **theirs
    )
    expected = list(expected)
    segments = load("tiny.en").transcribe(audio, padding="features", **ours).segments
    assert [(s.text, round(s.start, 2), round(s.end, 2)) for s in segments] == [
        (s.text, round(s.start, 2), round(s.end, 2)) for s in expected
    ]
    for name, atol in (
        ("avg_logprob", 2e-3),
        ("no_speech_prob", 2e-3),
        ("compression_ratio", 1e-6),
    ):
        np.testing.assert_allclose(
            [getattr(s, name) for s in segments], [getattr(s, name) for s in expected], atol=atol
        )


def test_one_window_is_transcribed_as_generate_does():
    """For one window, `transcribe` equals `log_mel`, `encode` and `generate`."""
    asr = load("tiny.en")
    audio = demo()[: 30 * SAMPLE_RATE]
    memory, _ = asr.model.encode(jaxasr.log_mel(audio, 80)[None])
    prompt, no_speech = jnp.array([asr.tokenizer.prompt()]), (0, asr.tokenizer.special.no_speech)
    generation = jaxasr.generate(
        asr.model,
        memory,
        prompt,
        max_new_tokens=224,
        rules=rules_for(asr.tokenizer),
        no_speech=no_speech,
    )
    transcript = asr.transcribe(audio, timestamps=False)
    assert list(transcript.tokens) == generation.tokens[0, : generation.lengths[0]].tolist()
    assert transcript.text == asr.tokenizer.decode(transcript.tokens).strip()
    assert transcript.segments[0].avg_logprob == pytest.approx(
        float(generation.avg_logprob[0]), abs=1e-5
    )
    assert transcript.segments[0].no_speech_prob == pytest.approx(
        float(generation.no_speech_prob[0]), abs=1e-5
    )
    assert len(transcript.text.split()) > 5


def test_word_times_increase_over_windows_and_do_not_change_the_text():
    asr = load("tiny.en")
    plain, timed = asr.transcribe(twice()), asr.transcribe(twice(), word_timestamps=True)
    assert [dataclasses.replace(s, words=()) for s in timed.segments] == list(plain.segments)
    assert len({s.seek for s in timed.segments}) > 1, "more than one window"
    for segment in timed.segments:
        assert "".join(w.text for w in segment.words) == segment.text
    starts = [w.start for w in timed.words]
    assert starts == sorted(starts)
    assert starts[-1] > len(demo()) / SAMPLE_RATE
    assert timed.words[-1].end <= timed.duration + 0.1


def test_a_silent_window_is_left_out():
    asr = load("tiny.en")
    audio = np.concatenate([np.zeros(30 * SAMPLE_RATE, np.float32), demo()[: 20 * SAMPLE_RATE]])
    transcript = asr.transcribe(
        audio, timestamps=False, batch_size=1, logprob_threshold=None, no_speech_threshold=0.5
    )
    unfiltered = asr.transcribe(audio, timestamps=False, batch_size=1, no_speech_threshold=None)
    assert [s.start for s in transcript.segments] == [30.0]
    assert transcript.segments[0] == unfiltered.segments[-1]


def test_transcribe_detects_the_most_probable_language():
    asr = load("base")
    memory, _ = asr.model.encode(jaxasr.log_mel(demo()[: 30 * SAMPLE_RATE], 80)[None])
    probs = detect_language(asr.model, asr.tokenizer, memory)[0]
    assert list(probs.values()) == sorted(probs.values(), reverse=True)
    assert sum(probs.values()) == pytest.approx(1, abs=1e-5)
    assert len(probs) == 99
    transcript = asr.transcribe(demo()[: 30 * SAMPLE_RATE], timestamps=False)
    assert transcript.language == "en" == next(iter(probs))
    assert transcript.language_prob == pytest.approx(probs["en"], abs=1e-5)


@pytest.mark.parametrize(("name", "language"), [("az_de-DE", "de"), ("az_ja-JP", "ja")])
def test_words_of_other_languages_join_to_the_text(name, language):
    folder = real_speech.folder()
    if folder is None:
        pytest.skip("needs the folder of real recordings")
    transcript = load("base").transcribe(
        folder / "multilingual" / f"{name}.flac", timestamps=False, word_timestamps=True
    )
    assert transcript.language == language
    assert transcript.language_prob > 0.5
    assert "".join(w.text for w in transcript.words) == "".join(s.text for s in transcript.segments)
    assert len(transcript.words) > 3
