"""The six kinds of lens text, and the repetition rule behind one of them."""
import pytest
from hypothesis import given, strategies as st

from experiments.categories import category, edit_distance, normalised, repeats

FINAL = "The captain read the old letter aloud."


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("... ?", "punctuation"),
        ("the captain, read the old letter aloud", "correct"),
        ("The captain read the letter.", "partial"),
        ("Yes, I need to go to the bathroom.", "ungrounded"),
        ("no " * 20, "loop"),
        ("I'm going to go to now. " * 3, "loop"),
    ],
)
def test_kinds(text, kind):
    assert category(text, FINAL) == kind


def test_token_ids_decide_about_loops_when_given():
    assert category("aaaa", FINAL, ids=[5] * 20) == "loop"
    assert category("aaaa", FINAL, ids=[5] * 17) == "ungrounded"


def test_a_right_text_that_repeats_is_right():
    assert category("no " * 20, "No, " * 20) == "correct"


def test_words():
    assert normalised("It’s “fine”, isn't it?") == ["it’s", "fine", "isn't", "it"]


@given(st.integers(1, 9), st.integers(1, 9), st.lists(st.integers(100, 200), max_size=7))
def test_repetition_rule(n, k, before):
    items = [*before, *list(range(n)) * k, 99]
    assert repeats(items) or not ((k >= 4 and n * k >= 20) or (k >= 3 and n >= 6))
    assert not repeats(list(range(n * k)))


@given(st.text("ab", max_size=6), st.text("ab", max_size=6))
def test_edit_distance_is_a_metric_with_known_bounds(a, b):
    assert edit_distance(a, b) == edit_distance(b, a)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))
    assert (edit_distance(a, b) == 0) == (a == b)


def test_edit_distance_of_the_textbook():
    assert edit_distance("kitten", "sitting") == 3
