"""What kind of text a lens produced: nothing, punctuation, a loop, fluent but unrelated, partly right, right.

The rule is ours; the six categories follow the encoder-lens experiment of arXiv 2508.15882, section 4.6.
"""
import re
from collections.abc import Sequence

CATEGORIES = ("empty", "punctuation", "loop", "ungrounded", "partial", "correct")
PARTIAL_WER = 0.5  # below this word error rate against the final text, a text counts as partly right


def category(text: str, reference: str, ids: Sequence[int] = ()) -> str:
    """One of `CATEGORIES` for `text` (token ids `ids`), compared with the model's own final text `reference`."""
    words, expected = normalised(text), normalised(reference)
    if not text.strip():
        return "empty"
    if not words:
        return "punctuation"
    if words == expected:
        return "correct"
    if repeats(list(ids) or words):
        return "loop"
    return "partial" if edit_distance(words, expected) < PARTIAL_WER * len(expected) else "ungrounded"


def normalised(text: str) -> list[str]:
    """Words in lower case without punctuation."""
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())


def repeats(items: Sequence) -> bool:
    """Whether some n-gram stands k times back to back with (k ≥ 4 and n·k ≥ 20) or (k ≥ 3 and n ≥ 6)."""
    return any((k >= 4 and n * k >= 20) or (k >= 3 and n >= 6) for n in range(1, len(items) // 3 + 1) for k in _runs(items, n))


def _runs(items: Sequence, n: int) -> list[int]:
    """How often an n-gram stands back to back: a run of r items equal to those n earlier makes r // n + 1."""
    counts, run = [], 0
    for now, before in zip(items[n:], items):
        run = run + 1 if now == before else 0
        counts.append(run // n + 1)
    return counts


def edit_distance(a: Sequence, b: Sequence) -> int:
    """Levenshtein distance: insertions, deletions and substitutions that turn `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
