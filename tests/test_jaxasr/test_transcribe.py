"""A random model transcribes noise with the right windows, options, edits and errors."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxasr
from jaxasr.config import SAMPLE_RATE, Config
from jaxasr.options import Options
from jaxasr.segments import DecodedWindow
from jaxasr.transcribe import detect_language, transcribe

load = functools.cache(jaxasr.load)


@functools.cache
def random_model():
    """Returns a small random model with the vocabulary of tiny.en, which generates fast."""
    config = Config(
        n_mels=80,
        n_audio_ctx=1500,
        n_audio_state=21,
        n_audio_head=3,
        n_audio_layer=2,
        n_vocab=51_864,
        n_text_ctx=448,
        n_text_state=21,
        n_text_head=3,
        n_text_layer=2,
    )
    return jaxasr.Whisper(config, rngs=nnx.Rngs(0)), load("tiny.en").tokenizer


def noise(seconds, seed=0):
    """Returns white noise at 16 kHz."""
    return (np.random.default_rng(seed).normal(size=int(seconds * SAMPLE_RATE)) * 0.1).astype(
        np.float32
    )


# Options that accept any generated text, so that no window is decoded again.
ANY_TEXT = {"logprob_threshold": None, "no_speech_threshold": None, "max_new_tokens": 5}


def transcribed(audio, edits=None, **options):
    return transcribe(*random_model(), audio, Options(**(ANY_TEXT | options)), edits=edits)


def test_a_transcript_is_json_and_hashable():
    transcript = transcribed(noise(31), word_timestamps=True)
    assert (
        json.loads(json.dumps(transcript.to_dict()))["segments"][0]["text"]
        == transcript.segments[0].text
    )
    assert transcript.duration == 31
    assert transcript.language == "en"
    assert transcript.language_prob is None
    assert hash(transcript.segments[0])


@pytest.mark.parametrize("seconds", [0.004, 0.5, 30, 61])
@pytest.mark.parametrize(
    ("timestamps", "padding"), [(True, "audio"), (True, "features"), (False, "audio")]
)
def test_recordings_of_any_length_are_transcribed_to_the_end(seconds, timestamps, padding):
    progress_calls = []  # transcribed seconds, and duration in seconds
    audio = noise(seconds)
    transcript = transcribe(
        *random_model(),
        audio,
        Options(**ANY_TEXT, timestamps=timestamps, padding=padding),
        progress=lambda *call: progress_calls.append(call),
    )
    transcribed_s = [position for position, _ in progress_calls]
    assert transcribed_s == sorted(transcribed_s)
    if seconds >= 0.01:
        transcribed_end, duration = progress_calls[-1]
        assert transcribed_end == duration == pytest.approx(seconds, abs=0.01)
    assert all(0 <= s.start < s.end for s in transcript.segments)
    assert [s.start for s in transcript.segments] == sorted(s.start for s in transcript.segments)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_windows_without_timestamps_do_not_depend_on_the_batch(batch_size):
    audio = noise(100)
    batched = transcribed(audio, timestamps=False, batch_size=batch_size)
    separate = [
        transcribed(audio[i : i + 480_000], timestamps=False).segments[0]
        for i in range(0, len(audio), 480_000)
    ]
    assert [s.tokens for s in batched.segments] == [s.tokens for s in separate]
    assert [(s.start, s.end) for s in batched.segments] == [(0, 30), (30, 60), (60, 90), (90, 100)]
    np.testing.assert_allclose(
        [s.avg_logprob for s in batched.segments], [s.avg_logprob for s in separate], atol=1e-5
    )


def test_edits_of_both_stacks_act_in_every_window():
    plain = transcribed(noise(61), timestamps=False)
    inverted = {"encoder.resid_post": lambda x, at: -2 * x}
    swapped = {"decoder.resid_post": lambda x, at: x[..., ::-1]}
    identity = {"encoder.embed": lambda x, at: x, "decoder.logits": lambda x, at: x}
    assert transcribed(noise(61), identity, timestamps=False) == plain
    for edits in (inverted, swapped, inverted | swapped):
        edited = transcribed(noise(61), edits, timestamps=False)
        assert all(
            a.tokens != b.tokens or a.avg_logprob != b.avg_logprob
            for a, b in zip(plain.segments, edited.segments)
        )
    with pytest.raises(ValueError, match="resid_pots"):
        transcribed(noise(1), {"decoder.resid_pots": lambda x, at: x})


def test_previous_text_and_initial_prompt_reach_the_model():
    audio = noise(61)
    plain = transcribed(audio, timestamps=False)
    prompted = transcribed(audio, timestamps=False, initial_prompt="names")
    carried = transcribed(audio, timestamps=False, condition_on_previous_text=True)

    def differs(transcript):
        return [
            a.avg_logprob != pytest.approx(b.avg_logprob, abs=1e-5)
            for a, b in zip(transcript.segments, plain.segments)
        ]

    assert differs(prompted) == [True, False, False]
    assert differs(carried) == [False, True, True]
    assert (
        transcribed(
            audio, initial_prompt=load("tiny.en").tokenizer.encode(" names"), timestamps=False
        )
        == prompted
    )


def test_sampling_repeats_under_its_seed():
    first = transcribed(noise(1), temperature=1.0, seed=3)
    assert transcribed(noise(1), temperature=1.0, seed=3) == first
    assert transcribed(noise(1), temperature=1.0, seed=4).tokens != first.tokens
    assert first.segments[0].temperature == 1.0


def test_a_failed_window_is_decoded_at_higher_temperatures():
    audio = noise(61)
    failing = transcribed(
        audio, temperature=(0.0, 0.4, 0.8), logprob_threshold=0.0, timestamps=False
    )
    assert [s.temperature for s in failing.segments] == [0.8] * 3
    passing = transcribed(
        audio, temperature=(0.0, 0.4, 0.8), logprob_threshold=-1e9, timestamps=False
    )
    assert [s.temperature for s in passing.segments] == [0.0] * 3
    assert Options().temperatures == (0.0,)


@pytest.mark.parametrize(
    ("avg_logprob", "no_speech", "ratio", "failed", "silence"),
    [
        (-0.5, 0.1, 1.0, False, False),
        (-1.5, 0.1, 1.0, True, False),
        (-1.5, 0.9, 1.0, False, True),
        (-0.5, 0.9, 3.0, True, False),
    ],
)
def test_thresholds_decide_on_failure_and_silence(avg_logprob, no_speech, ratio, failed, silence):
    decoded = DecodedWindow((1,), avg_logprob, no_speech, ratio, 0.0)
    assert Options().failed(decoded) == failed
    assert Options().is_silence(decoded) == silence
    never = Options(
        no_speech_threshold=None, logprob_threshold=None, compression_ratio_threshold=None
    )
    assert not never.failed(decoded)
    assert not never.is_silence(decoded)


@pytest.mark.parametrize(
    ("audio", "options", "message"),
    [
        (noise(1), {"language": "de"}, "English-only"),
        (noise(1), {"task": "sing"}, "task.*transcribe"),
        (noise(1), {"padding": "none"}, "padding.*'audio'"),
        (noise(1), {"temperature": ()}, "temperature"),
        (noise(1), {"batch_size": 0}, "batch_size"),
        (np.zeros(0, np.float32), {}, "at least one sample"),
        (np.full(9, np.nan, np.float32), {}, "9 of 9 NaN"),
        (np.zeros((5, 9), np.float32), {}, r"\(5, 9\)"),
        (np.zeros(9, np.int16), {}, "int16"),
    ],
)
def test_errors_name_the_argument(audio, options, message):
    with pytest.raises(ValueError, match=message):
        transcribed(audio, **options)


def test_language_detection_of_an_english_only_model_raises():
    model, tokenizer = random_model()
    with pytest.raises(ValueError, match="English-only"):
        detect_language(
            model, tokenizer, jax.eval_shape(lambda: model.encode(jnp.zeros((1, 80, 3000)))[0])
        )


@pytest.mark.parametrize("timestamps", [True, False])
def test_windows_without_text_are_listed_with_the_reason(timestamps):
    always_silent = {"no_speech_threshold": 0.0, "logprob_threshold": 0.0, "timestamps": timestamps}
    transcript = transcribed(noise(65), **always_silent)
    assert transcript.text == ""
    assert [(silence.start, silence.end, silence.left_out) for silence in transcript.silences] == [
        (0, 30, True),
        (30, 60, True),
        (60, 65, True),
    ]
    assert all(
        silence.text and 0 < silence.no_speech_prob < 1 and silence.avg_logprob < 0
        for silence in transcript.silences
    )
    assert transcript.to_dict()["silences"][2]["end"] == 65
    assert transcribed(noise(20), timestamps=False).silences == ()


def test_a_window_without_generated_text_does_not_count_as_silence():
    """Suppresses all tokens except the end-of-text."""
    tokenizer = random_model()[1]
    everything = [id_ for id_ in range(tokenizer.n_vocab) if id_ != tokenizer.special.eot]
    transcript = transcribed(noise(4), timestamps=False, suppress=everything, suppress_blank=False)
    assert [(silence.end, silence.left_out, silence.text) for silence in transcript.silences] == [
        (4, False, "")
    ]
