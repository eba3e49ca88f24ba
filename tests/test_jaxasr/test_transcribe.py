import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxasr
from experiments.data import real_speech
from jaxasr.config import SAMPLE_RATE, Config
from jaxasr.options import Options
from jaxasr.rules import rules_for
from jaxasr.segments import DecodedWindow
from jaxasr.transcribe import detect_language, transcribe

load = functools.cache(jaxasr.load)
MIN_LONG_QUERIES = (
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
    """The demo's recording, a pause, and it again: longer than a window."""
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
            for name in MIN_LONG_QUERIES
            for part in (jaxasr.load_audio(folder / "classic" / f"{name}.flac"), pause)
        ]
    )


@functools.cache
def nonsense():
    """A random model with the vocabulary of tiny.en: what it writes means nothing, and comes fast."""
    config = Config(80, 1500, 21, 3, 2, 51_864, 448, 21, 3, 2)
    return jaxasr.Whisper(config, rngs=nnx.Rngs(0)), load("tiny.en").tokenizer


def noise(seconds, seed=0):
    return (np.random.default_rng(seed).normal(size=int(seconds * SAMPLE_RATE)) * 0.1).astype(
        np.float32
    )


ANYTHING = {"logprob_threshold": None, "no_speech_threshold": None, "max_new_tokens": 5}


def babble(audio, edits=None, **options):
    return transcribe(*nonsense(), audio, Options(**(ANYTHING | options)), edits=edits)


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
    """Every segment's text, times and numbers, on the same weights, over 105 s of five speakers."""
    audio = long_recording()
    found, _ = faster_whisper().transcribe(
        audio, beam_size=1, temperature=[0.0], language="en", **theirs
    )
    found = list(found)
    got = load("tiny.en").transcribe(audio, padding="features", **ours)
    assert [(s.text, round(s.start, 2), round(s.end, 2)) for s in got.segments] == [
        (s.text, round(s.start, 2), round(s.end, 2)) for s in found
    ]
    for name, atol in (
        ("avg_logprob", 2e-3),
        ("no_speech_prob", 2e-3),
        ("compression_ratio", 1e-6),
    ):
        np.testing.assert_allclose(
            [getattr(s, name) for s in got.segments], [getattr(s, name) for s in found], atol=atol
        )


def test_the_demo_says_what_generation_says():
    """`transcribe` of one window is `log_mel`, `encode`, `generate` and nothing else."""
    asr = load("tiny.en")
    audio = demo()[: 30 * SAMPLE_RATE]
    memory, _ = asr.model.encode(jaxasr.log_mel(audio, 80)[None])
    prompt, quiet = jnp.array([asr.tokenizer.prompt()]), (0, asr.tokenizer.special.no_speech)
    plain = jaxasr.generate(
        asr.model,
        memory,
        prompt,
        max_new_tokens=224,
        rules=rules_for(asr.tokenizer),
        no_speech=quiet,
    )
    got = asr.transcribe(audio, timestamps=False)
    assert list(got.tokens) == plain.tokens[0, : plain.lengths[0]].tolist()
    assert got.text == asr.tokenizer.decode(got.tokens).strip()
    assert got.segments[0].avg_logprob == pytest.approx(float(plain.avg_logprob[0]), abs=1e-5)
    assert got.segments[0].no_speech_prob == pytest.approx(float(plain.no_speech_prob[0]), abs=1e-5)
    assert len(got.text.split()) > 5


def test_words_lie_in_order_within_a_long_recording_and_change_no_text():
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


def test_result_is_plain_data():
    got = babble(noise(31), word_timestamps=True)
    assert json.loads(json.dumps(got.to_dict()))["segments"][0]["text"] == got.segments[0].text
    assert got.duration == 31
    assert got.language == "en"
    assert got.language_prob is None
    assert hash(got.segments[0])


@pytest.mark.parametrize("seconds", [0.004, 0.5, 30, 61])
@pytest.mark.parametrize(
    ("timestamps", "padding"), [(True, "audio"), (True, "features"), (False, "audio")]
)
def test_any_length_comes_to_an_end(seconds, timestamps, padding):
    steps = []
    audio = noise(seconds)
    got = transcribe(
        *nonsense(),
        audio,
        Options(**ANYTHING, timestamps=timestamps, padding=padding),
        progress=lambda *s: steps.append(s),
    )
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    if seconds >= 0.01:
        assert steps[-1][0] == steps[-1][1] == pytest.approx(seconds, abs=0.01)
    assert all(0 <= s.start < s.end for s in got.segments)
    assert [s.start for s in got.segments] == sorted(s.start for s in got.segments)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_windows_without_timestamps_are_the_same_in_any_batch(batch_size):
    audio = noise(100)
    batched = babble(audio, timestamps=False, batch_size=batch_size)
    alone = [
        babble(audio[i : i + 480_000], timestamps=False).segments[0]
        for i in range(0, len(audio), 480_000)
    ]
    assert [s.tokens for s in batched.segments] == [s.tokens for s in alone]
    assert [(s.start, s.end) for s in batched.segments] == [(0, 30), (30, 60), (60, 90), (90, 100)]
    np.testing.assert_allclose(
        [s.avg_logprob for s in batched.segments], [s.avg_logprob for s in alone], atol=1e-5
    )


def test_edits_of_both_stacks_act_in_every_window():
    plain = babble(noise(61), timestamps=False)
    double = {"encoder.resid_post": lambda x, at: -2 * x}
    swapped = {"decoder.resid_post": lambda x, at: x[..., ::-1]}
    same = {"encoder.embed": lambda x, at: x, "decoder.logits": lambda x, at: x}
    assert babble(noise(61), same, timestamps=False) == plain
    for edits in (double, swapped, double | swapped):
        edited = babble(noise(61), edits, timestamps=False)
        assert all(
            a.tokens != b.tokens or a.avg_logprob != b.avg_logprob
            for a, b in zip(plain.segments, edited.segments)
        )
    with pytest.raises(ValueError, match="resid_pots"):
        babble(noise(1), {"decoder.resid_pots": lambda x, at: x})


def test_previous_text_and_initial_prompt_reach_the_model():
    audio = noise(61)
    plain = babble(audio, timestamps=False)
    prompted = babble(audio, timestamps=False, initial_prompt="names")
    carried = babble(audio, timestamps=False, condition_on_previous_text=True)

    def differs(got):
        return [
            a.avg_logprob != pytest.approx(b.avg_logprob, abs=1e-5)
            for a, b in zip(got.segments, plain.segments)
        ]

    assert differs(prompted) == [True, False, False]
    assert differs(carried) == [False, True, True]
    assert (
        babble(audio, initial_prompt=load("tiny.en").tokenizer.encode(" names"), timestamps=False)
        == prompted
    )


def test_sampling_repeats_under_its_seed():
    first = babble(noise(1), temperature=1.0, seed=3)
    assert babble(noise(1), temperature=1.0, seed=3) == first
    assert babble(noise(1), temperature=1.0, seed=4).tokens != first.tokens
    assert first.segments[0].temperature == 1.0


def test_a_failed_window_is_tried_again_hotter_and_only_when_asked():
    audio = noise(61)
    ladder = babble(audio, temperature=(0.0, 0.4, 0.8), logprob_threshold=0.0, timestamps=False)
    assert [s.temperature for s in ladder.segments] == [0.8] * 3
    calm = babble(audio, temperature=(0.0, 0.4, 0.8), logprob_threshold=-1e9, timestamps=False)
    assert [s.temperature for s in calm.segments] == [0.0] * 3
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
def test_what_fails_and_what_is_silence(avg_logprob, no_speech, ratio, failed, silence):
    decoded = DecodedWindow((1,), avg_logprob, no_speech, ratio, 0.0)
    assert Options().failed(decoded) == failed
    assert Options().is_silence(decoded) == silence
    never = Options(
        no_speech_threshold=None, logprob_threshold=None, compression_ratio_threshold=None
    )
    assert not never.failed(decoded)
    assert not never.is_silence(decoded)


def test_silence_is_left_out():
    asr = load("tiny.en")
    audio = np.concatenate([np.zeros(30 * SAMPLE_RATE, np.float32), demo()[: 20 * SAMPLE_RATE]])
    got = asr.transcribe(
        audio, timestamps=False, batch_size=1, logprob_threshold=None, no_speech_threshold=0.5
    )
    kept = asr.transcribe(audio, timestamps=False, batch_size=1, no_speech_threshold=None)
    assert [s.start for s in got.segments] == [30.0]
    assert got.segments[0] == kept.segments[-1]


def test_language_of_a_recording_is_detected():
    asr = load("base")
    memory, _ = asr.model.encode(jaxasr.log_mel(demo()[: 30 * SAMPLE_RATE], 80)[None])
    probs = detect_language(asr.model, asr.tokenizer, memory)[0]
    assert list(probs.values()) == sorted(probs.values(), reverse=True)
    assert sum(probs.values()) == pytest.approx(1, abs=1e-5)
    assert len(probs) == 99
    got = asr.transcribe(demo()[: 30 * SAMPLE_RATE], timestamps=False)
    assert got.language == "en" == next(iter(probs))
    assert got.language_prob == pytest.approx(probs["en"], abs=1e-5)


@pytest.mark.parametrize(("name", "language"), [("az_de-DE", "de"), ("az_ja-JP", "ja")])
def test_other_languages_with_their_words(name, language):
    folder = real_speech.folder()
    if folder is None:
        pytest.skip("needs the folder of real recordings")
    got = load("base").transcribe(
        folder / "multilingual" / f"{name}.flac", timestamps=False, word_timestamps=True
    )
    assert got.language == language
    assert got.language_prob > 0.5
    assert "".join(w.text for w in got.words) == "".join(s.text for s in got.segments)
    assert len(got.words) > 3


@pytest.mark.parametrize(
    ("audio", "options", "says"),
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
def test_errors_name_what_is_wrong(audio, options, says):
    with pytest.raises(ValueError, match=says):
        babble(audio, **options)


def test_english_only_models_detect_no_language():
    model, tokenizer = nonsense()
    with pytest.raises(ValueError, match="English-only"):
        detect_language(
            model, tokenizer, jax.eval_shape(lambda: model.encode(jnp.zeros((1, 80, 3000)))[0])
        )


@pytest.mark.parametrize("timestamps", [True, False])
def test_windows_without_text_are_listed_with_the_reason(timestamps):
    loud = {"no_speech_threshold": 0.0, "logprob_threshold": 0.0, "timestamps": timestamps}
    found = babble(noise(65), **loud)
    assert found.text == ""
    assert [(silence.start, silence.end, silence.left_out) for silence in found.silences] == [
        (0, 30, True),
        (30, 60, True),
        (60, 65, True),
    ]
    assert all(
        silence.text and 0 < silence.no_speech_prob < 1 and silence.avg_logprob < 0
        for silence in found.silences
    )
    assert found.to_dict()["silences"][2]["end"] == 65
    assert babble(noise(20), timestamps=False).silences == ()


def test_a_window_in_which_nothing_is_generated_is_no_silence():
    """Everything but the end is suppressed."""
    tokenizer = nonsense()[1]
    everything = [id_ for id_ in range(tokenizer.n_vocab) if id_ != tokenizer.special.eot]
    found = babble(noise(4), timestamps=False, suppress=everything, suppress_blank=False)
    assert [(silence.end, silence.left_out, silence.text) for silence in found.silences] == [
        (4, False, "")
    ]
