"""Given texts get word times, and alignment heads are chosen without reference times."""

import dataclasses
import functools
import json
import types

import numpy as np
import pytest

import jaxasr
from experiments.bench import alignment
from experiments.data import real_speech
from jaxasr.alignment import forced
from jaxasr.alignment.forced import align_windows, place_text
from jaxasr.alignment.released_heads import ALIGNMENT_HEADS, all_heads, default_heads
from jaxasr.alignment.spans import Span, comparable_words, cut_points, join_spans, segment_spans
from jaxasr.alignment.words import path_scores
from jaxasr.audio import n_frames
from jaxasr.weights.saving import generation_json

TEXT = (
    "The captain read the old letter aloud, and nobody knew whether to believe a word of it. "
    "By morning, the sea was quiet again."
)
RATE = 16_000  # Hz
load = functools.cache(jaxasr.load)


@functools.cache
def demo():
    return jaxasr.load_audio(real_speech.DEMO)


def silence(seconds):
    return np.zeros(round(seconds * RATE), np.float32)


def without_heads(asr):
    return dataclasses.replace(asr, checkpoint=asr.checkpoint.replace(alignment_heads=None))


@functools.cache
def aligned():
    return load("tiny.en").align(real_speech.DEMO, TEXT)


def test_times_are_those_of_a_transcription_with_the_same_text():
    asr = load("tiny.en")
    transcribed = asr.transcribe(demo(), timestamps=False, word_timestamps=True)
    words = asr.align(demo(), transcribed.text)
    assert [(word.text, word.tokens) for word in words] == [
        (word.text, word.tokens) for word in transcribed.words
    ]
    assert max(abs(a.start - b.start) for a, b in zip(words[1:], transcribed.words[1:])) <= 0.04
    assert all(0 <= word.start <= word.end <= len(demo()) / RATE for word in words)
    assert all(0.3 < word.probability <= 1 for word in words)


def test_line_breaks_count_as_spaces():
    assert load("tiny.en").align(demo(), "\n " + TEXT.replace(" ", "\n") + " \n") == aligned()


def test_the_first_word_starts_after_the_silence_before_it():
    assert 0.15 < aligned()[0].start < 0.4  # the voice starts after 0.2 s
    delayed = load("tiny.en").align(np.concatenate([silence(4), demo()]), TEXT)
    assert delayed[0].start == pytest.approx(4 + aligned()[0].start, abs=0.2)
    assert np.median([abs(a.start - b.start - 4) for a, b in zip(delayed, aligned())]) <= 0.04


def test_a_long_recording_is_aligned_in_windows():
    parts, gaps = [demo()] * 3, [0, 3, 25]
    audio = np.concatenate(
        [piece for gap, part in zip(gaps, parts) for piece in (silence(gap), part)]
    )
    progress = []
    asr, text = load("tiny.en"), " ".join([TEXT] * 3)
    windows = place_text(
        asr.model, asr.tokenizer, audio, text, progress=lambda *seconds: progress.append(seconds)
    )
    assert len(windows) == 2
    assert progress[-1] == pytest.approx((len(audio) / RATE,) * 2, abs=0.01)
    words = align_windows(asr.model, asr.tokenizer, windows, heads=asr.alignment_heads)
    assert "".join(word.text for word in words) == " " + text
    for i, offset in enumerate(np.cumsum(gaps) + np.arange(3) * len(demo()) / RATE):
        delays = [
            a.start - offset - b.start for a, b in zip(words[i * len(aligned()) :], aligned())
        ]
        assert np.median(np.abs(delays)) <= 0.04
        assert np.abs(delays).max() < 0.5


def test_words_that_are_not_spoken_get_times_and_low_probabilities():
    words = load("tiny.en").align(demo(), "Nobody ever mentioned the purple elephants of winter.")
    assert [word.text.strip() for word in words][-1] == "winter."
    assert np.median([word.probability for word in words]) < 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": ""}, "text: expected words, got ''"),
        ({"text": " … !? "}, "text: expected words"),
        # A window has 448 positions, of which control tokens take 5.
        ({"text": "word " * 600}, "at most 443 tokens for the 7.5 s .* got 600"),
        (
            {"audio": np.concatenate([silence(31)]), "text": "word " * 900},
            "at most 886 tokens for the 31.0 s",
        ),
        ({"language": "de"}, "language.*English-only"),
        ({"heads": ((7, 0),)}, r"heads.*4 layers.*\(7, 0\)"),
        ({"audio": np.zeros(0, np.float32)}, "at least one sample"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        load("tiny.en").align(**{"audio": demo(), "text": TEXT} | arguments)


def segment(start, end):
    return types.SimpleNamespace(start=start, end=end)


def test_spans_cover_segments_and_the_gaps_that_may_hold_words():
    spans = segment_spans(
        [segment(0.5, 4.0), segment(4.4, 9.0), segment(49.0, 70.0)], [3, 4, 5], 66.0
    )
    bounds = [(round(s.start, 2), round(s.end, 2), s.n_words) for s in spans]
    assert bounds == [
        (0.25, 4.2, 3),
        (4.2, 10.0, 4),
        (10.0, 29.0, 0),
        (29.0, 48.0, 0),
        (48.0, 66.0, 5),
    ]
    assert [(s.start, s.end, s.n_words) for s in segment_spans([], [], 90.0)] == [
        (0.0, 30.0, 0),
        (30.0, 60.0, 0),
        (60.0, 90.0, 0),
    ]


@pytest.mark.parametrize(
    ("given", "transcribed", "spans", "cuts"),
    [
        ("a b c d e", "a b c d e", [2, 3], [0, 2, 5]),
        ("a b x d e", "a b c d e", [2, 3], [0, 2, 5]),  # x was transcribed as c
        ("a b d e", "a b c d e", [3, 2], [0, 2, 4]),  # c was transcribed but is not in the text
        (
            "a b c d e f",
            "a b e f",
            [2, 0, 2],
            [0, 2, 4, 6],
        ),  # c and d were not transcribed, and go to the gap
        (
            "a b c d e f",
            "a f",
            [1, 0, 0, 1],
            [0, 1, 3, 5, 6],
        ),  # two gaps of equal length get equal numbers of words
        ("a b c d", "", [0, 0], [0, 2, 4]),
        ("a b", "x y z a b", [3, 2], [0, 0, 2]),
    ],
)
def test_given_words_go_to_the_spans_of_the_transcribed_words_they_match(
    given, transcribed, spans, cuts
):
    assert (
        cut_points(
            given.split(), transcribed.split(), [Span(i, i + 1.0, n) for i, n in enumerate(spans)]
        )
        == cuts
    )


def test_neighbouring_spans_share_a_window_of_up_to_30_s():
    spans = [Span(0, 10, 1), Span(10, 28, 1), Span(28, 40, 0), Span(40, 60, 1)]
    words = [[("a", [1])], [("b", [2, 3])], [], [("c", [4])]]
    assert join_spans(spans, words) == [(0, 28, [1, 2, 3]), (40, 60, [4])]


def test_a_language_without_spaces_is_matched_by_its_characters():
    tokenizer = load("base").tokenizer
    ids = forced._encode_text(tokenizer, "今天天气很好。", "zh")
    assert tokenizer.decode(ids) == "今天天气很好。"
    words = comparable_words(tokenizer, ids, "zh")
    assert [word for word, _ in words] == list("今天天气很好")
    assert [id_ for _, tokens in words for id_ in tokens] == ids


def test_chosen_heads_follow_the_speech_better_than_others():
    asr = load("tiny.en")
    assert len(chosen()) == asr.config.n_text_head
    assert len(set(chosen()) & set(ALIGNMENT_HEADS["tiny.en"])) >= 3
    memory = asr.model.encode(jaxasr.log_mel(demo(), 80)[None])[0]
    scores = path_scores(
        asr.model,
        asr.tokenizer,
        memory,
        [asr.tokenizer.encode(" " + TEXT)],
        [n_frames(len(demo()))],
        heads=all_heads(asr.config),
    )[0]
    ranked = [all_heads(asr.config)[i] for i in np.argsort(-scores)]
    assert set(ranked[:6]) == set(chosen())


def test_a_checkpoint_without_heads_gets_those_that_follow_the_recording():
    asr = without_heads(load("tiny.en"))
    assert asr.alignment_heads == default_heads(asr.config)
    assert asr.align(demo(), TEXT) == asr.align(demo(), TEXT, heads=chosen())
    with pytest.warns(UserWarning, match="names no alignment heads"):
        asr.transcribe(demo(), word_timestamps=True)


def test_chosen_heads_are_saved_with_the_weights():
    asr = without_heads(load("tiny.en")).with_alignment_heads([[np.int64(3), 2], (1, 5)])
    assert asr.alignment_heads == ((3, 2), (1, 5))
    assert generation_json(asr.config, asr.checkpoint)["alignment_heads"] == [[3, 2], [1, 5]]
    assert json.dumps(generation_json(asr.config, asr.checkpoint))


@pytest.mark.parametrize(
    ("audios", "n", "message"),
    [
        ([silence(3)], None, "at least one window"),
        ([], None, "at least one window"),
        ([], 25, "1 to 24 heads, got 25"),
    ],
)
def test_choosing_heads_without_speech_raises(audios, n, message):
    with pytest.raises(ValueError, match=message):
        load("tiny.en").choose_heads(audios, n=n)


@pytest.mark.skipif(not real_speech.rows("timit_align"), reason="needs TIMIT's word bounds")
def test_chosen_heads_come_within_20_ms_of_the_published_ones():
    """Uses few recordings. `python -m experiments.bench alignment` uses all of them."""
    asr, clips = load("tiny.en"), alignment.read_recordings(3)

    def median(heads):
        """Returns the median error of word bounds in ms."""
        times = [
            [(w.text, w.start, w.end) for w in asr.align(clip["path"], clip["text"], heads=heads)]
            for clip in clips
        ]
        return alignment.summary(
            [alignment.errors(words, clip["words"]) for words, clip in zip(times, clips)]
        )["both"]["median_ms"]

    assert median(chosen()) <= median(asr.alignment_heads) + 20


def test_errors_of_word_bounds_are_listed_by_place():
    reference = [("she", 0.5, 0.7), ("had", 0.7, 1.0), ("it", 1.2, 1.5)]
    words = [(" She", 0.0, 0.8), (" had", 0.8, 1.2), (" it", 1.2, 1.4), (".", 1.4, 1.6)]
    errors = alignment.errors(words, reference)
    assert {place: np.round(values, 3).tolist() for place, values in errors.items()} == {
        "first start": [-0.5],
        "start after a pause": [0.0],
        "end at a word": [0.1],
        "start at a word": [0.1],
        "end before a pause": [0.2],
        "last end": [-0.1],
    }
    assert alignment.errors(words[1:], reference) is None
    summary = alignment.summary([errors, None])
    assert (summary["n_clips"], summary["left_out"], summary["n_words"]) == (1, 1, 3)
    assert summary["both"]["median_ms"] == pytest.approx(100)
    assert summary["start"]["bias_ms"] == pytest.approx(0)
    assert summary["end"]["p90_ms"] == pytest.approx(180)


@functools.cache
def chosen():
    return load("tiny.en").choose_heads([real_speech.DEMO])
