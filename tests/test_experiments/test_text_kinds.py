"""Texts are classified into six kinds."""

import pytest

from experiments.analyses.text_kinds import category, error_rate

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
    assert category(text, FINAL) == kind


def test_token_ids_decide_about_loops_when_given():
    assert category("aaaa", FINAL, ids=[5] * 20) == "loop"
    assert category("aaaa", FINAL, ids=[5] * 17) == "ungrounded"


def test_a_correct_text_that_repeats_is_correct():
    assert category("no " * 20, "No, " * 20) == "correct"


def test_a_text_that_the_normaliser_removes_still_has_words():
    assert category("(baby crying)", "(Baby crying)") == "correct"
    assert category("(baby crying)", "(mumbling)") == "ungrounded"


def test_without_spaces_characters_are_counted():
    assert category("测试完成后状态", "测试完成后，状态更改", language="zh") == "partial"
    assert category("你好世界", "测试完成后，状态更改", language="zh") == "ungrounded"
    assert error_rate("ab", "ab cd") == 0.5
