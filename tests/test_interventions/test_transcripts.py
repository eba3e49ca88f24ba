"""Measures of repetition equal counts by hand, and error rates equal those of jiwer."""

import jiwer
import numpy as np
import pytest
from hypothesis import given, strategies as st

from experiments.data import real_speech
from interventions.generation import transcripts
from interventions.generation.transcripts import Repeat, longest_repeat


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([], Repeat()),
        ([1], Repeat()),
        ([1, 2, 3], Repeat()),
        ([1, 1], Repeat(1, 2)),
        ([9, 1, 2, 1, 2, 1, 2, 8], Repeat(2, 3)),
        ([1, 2, 3, 1, 2, 3, 1], Repeat(3, 2)),
        ([5] * 7, Repeat(1, 7)),
        ([1, 2, 1, 2, 3, 3, 3], Repeat(2, 2)),
    ],
)
def test_longest_repeat(ids, expected):
    assert longest_repeat(ids) == expected
    assert longest_repeat(np.array(ids, np.int32)) == expected


def count_repetitions(ids: list, i: int, n: int) -> int:
    """Returns how often the n-gram at `i` occurs in direct succession, starting at `i`."""
    k = 1
    while ids[i + k * n : i + (k + 1) * n] == ids[i : i + n]:
        k += 1
    return k


@given(st.lists(st.integers(0, 2), max_size=30))
def test_repeats_are_the_longest_of_each_n(ids):
    def count(n, start):
        gram, k = ids[start : start + n], 1
        while ids[start + k * n : start + (k + 1) * n] == gram:
            k += 1
        return k

    by_hand = [
        (n, count(n, start)) for n in range(1, len(ids) + 1) for start in range(len(ids) - n + 1)
    ]
    best = {n: max(k for m, k in by_hand if m == n) for n, _ in by_hand}
    assert list(transcripts.repeats(ids)) == [Repeat(n, k) for n, k in best.items() if k > 1]


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 8), st.integers(1, 12))
def test_is_loop_equals_the_criterion_counted_by_hand(ids, n, k):
    ids = ids + ids[:n] * k
    runs = [
        (m, count_repetitions(ids, i, m))
        for m in range(1, len(ids) // 2 + 1)
        for i in range(len(ids) - m)
    ]
    assert transcripts.is_loop(ids) == any(c >= 4 or (c >= 3 and m >= 6) for m, c in runs)


@pytest.mark.parametrize(
    ("n", "k", "loop"),
    [(1, 4, True), (1, 3, False), (5, 4, True), (5, 3, False), (6, 3, True), (6, 2, False)],
)
def test_loops_begin_at_the_documented_bounds(n, k, loop):
    assert transcripts.is_loop([99, *list(range(n)) * k, 98]) is loop


def test_a_text_that_compresses_well_is_a_loop():
    assert transcripts.is_loop([1, 2, 3], "the same " * 40)
    assert not transcripts.is_loop([1, 2, 3], "a b a b a b")
    assert transcripts.repetition([1, 2, 3], "the same " * 40)["loop"] == 1


def test_errors_equal_jiwer_on_normalised_texts():
    text, reference = "Uh, the cat sat sat on a mat!", "The cat's sat on the mat."
    ours = transcripts.errors(text, reference)
    normal = [transcripts.normalise(t) for t in (reference, text)]
    assert ours["wer"] == pytest.approx(jiwer.wer(*normal))
    assert ours["cer"] == pytest.approx(jiwer.cer(*normal))
    assert (ours["deletions"] + ours["insertions"] + ours["substitutions"]) / ours[
        "reference_words"
    ] == pytest.approx(ours["wer"])
    assert transcripts.errors(reference, reference)["wer"] == 0
    assert transcripts.errors("", "two words")["deletions"] == 2


def test_a_reference_without_words_has_no_rates():
    ours = transcripts.errors("Thank you.", "...")
    assert np.isnan(ours["wer"])
    assert ours["insertions"] == 2


def test_real_loops_are_detected_and_fluent_texts_are_not(asr, data_dir):
    rows = [row for row in real_speech.rows("recipes") if row["split"] == "dev"]
    for row in rows:
        result = row["tiny_en_openai_pad"]
        ids = asr.tokenizer.encode(" " + result["text"].strip())
        if result["loop"] and not row["audio_periodic"]:
            assert transcripts.is_loop(ids[:48]), row["id"]
        if row["group"] == "fluent_nonspeech":
            assert not transcripts.is_loop(ids, result["text"]), row["id"]
