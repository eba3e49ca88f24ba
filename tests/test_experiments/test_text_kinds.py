"""Texts are classified into six kinds."""

import pytest

from experiments.analyses.text_kinds import error_rate, text_category

# The text of the last layer, with which other texts are compared.
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
        ("(baby crying)", "ungrounded"),
        ("[Music]", "ungrounded"),
        ("Hmm.", "ungrounded"),
        ("(crying) " * 20, "loop"),
        ("no " * 20, "loop"),
        ("I'm going to go to now. " * 3, "loop"),
    ],
)
def test_each_kind_is_recognised(text, kind):
    assert text_category(text, FINAL) == kind


def test_token_ids_decide_about_loops_when_given():
    # A single token that repeats is a loop only from four times on.
    assert text_category("aaaa", FINAL, ids=[5] * 4) == "loop"
    assert text_category("aaaa", FINAL, ids=[5] * 3) == "ungrounded"


def test_a_correct_text_that_repeats_is_correct():
    assert text_category("no " * 20, "No, " * 20) == "correct"


def test_a_text_that_the_normaliser_removes_still_has_words():
    assert text_category("(baby crying)", "(Baby crying)") == "correct"
    assert text_category("(baby crying)", "(mumbling)") == "ungrounded"


def test_without_spaces_characters_are_counted():
    assert text_category("测试完成后状态", "测试完成后，状态更改", language="zh") == "partial"
    assert text_category("你好世界", "测试完成后，状态更改", language="zh") == "ungrounded"
    assert error_rate("ab", "ab cd") == 0.5
