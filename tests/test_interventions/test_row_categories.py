"""Missing classes, groups and types raise errors, and so do strings mixed with numbers."""

import numpy as np
import pandas as pd
import pytest

import interventions
from interventions.probes import controls, stream
from interventions.stats.categories import categories
from interventions.stats.roc import auroc_interval

N = 24
X, Y = np.random.default_rng(1).normal(size=(2, N, 5)).astype(np.float32), np.arange(N) % 2
SPEAKERS = [f"speaker {i // 4}" for i in range(N)]


def with_gaps(values, gap, every=4):
    return [gap if i % every == 2 else value for i, value in enumerate(values)]


# Values that count as missing.
GAPS = [None, float("nan"), np.nan, pd.NA, pd.NaT]
# Kinds of containers in which labels may be passed.
CONTAINERS = {
    "list": list,
    "object": lambda x: np.array(x, dtype=object),
    "column": lambda x: pd.Series(x, dtype=object),
    "tuple": tuple,
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("gap", GAPS, ids=str)
def test_missing_entries_are_counted(gap, container):
    entries = CONTAINERS[container](with_gaps(SPEAKERS, gap))
    for name in ("groups", "y"):
        with pytest.raises(
            ValueError, match=f"{name}: 6 of 24 rows have no value, the first is row 2. Leave out"
        ):
            interventions.fit_probes(X, **{"y": Y, name: entries})
    with pytest.raises(ValueError, match="types: 6 of 24 rows have no value"):
        categories(entries, N, "types")


def test_missing_entries_of_any_type_raise():
    for groups in (
        [None] * N,
        np.full(N, np.nan),
        pd.array([1, None] * 12, dtype="Int64"),
        pd.Categorical(with_gaps(SPEAKERS, None)),
    ):
        with pytest.raises(ValueError, match=r"groups: \d+ of 24 rows have no value"):
            interventions.fit_probes(X, Y, groups)
    with pytest.raises(ValueError, match="y: 6 of 24 rows have no value"):
        interventions.fit_probes(X, with_gaps(range(N), None), target="value")
    with pytest.raises(ValueError, match="y: 6 of 24 rows have no value"):
        interventions.fit_probes(X, [Y.tolist(), with_gaps(Y.tolist(), None)], seeds=(0, 1))


@pytest.mark.parametrize(
    "mixed",
    [
        with_gaps(range(N), "2"),
        with_gaps(SPEAKERS, 7),
        np.array(with_gaps(SPEAKERS, 7.5), dtype=object),
    ],
)
def test_words_among_numbers_raise(mixed):
    for name in ("groups", "y"):
        with pytest.raises(
            ValueError, match=f"{name}: expected only strings or only numbers, got numbers and str"
        ):
            interventions.fit_probes(X, **{"y": Y, name: mixed})


def test_complete_entries_keep_their_values():
    words = SPEAKERS, pd.Series(SPEAKERS), pd.Categorical(SPEAKERS)
    numbers = (range(N), "i"), (Y, "i"), (Y / 2, "f")
    for entries, kind in (*((names, "U") for names in words), *numbers):
        checked = categories(entries, N, "groups")
        assert checked.dtype.kind == kind
        assert checked.tolist() == list(entries)


def test_every_function_with_groups_checks_them(monkeypatch):
    gaps = with_gaps(SPEAKERS, None)
    bank = interventions.fit_probes(X, Y, SPEAKERS, folds=2)
    for call in (lambda: bank.summary(gaps), lambda: auroc_interval(X[0, :, 0], Y > 0, gaps)):
        with pytest.raises(ValueError, match="groups: 6 of 24 rows have no value"):
            call()
    with pytest.raises(
        ValueError, match=r"groups: expected one for each of 24 rows, got shape \[23\]"
    ):
        bank.summary(SPEAKERS[:-1])
    with pytest.raises(ValueError, match="expected the same number of rows"):
        auroc_interval(X[0, :, 0], Y[:-1] > 0, SPEAKERS)
    monkeypatch.setattr(controls, "fit_probes", lambda *_, **__: bank)
    with pytest.raises(ValueError, match="types: 6 of 24 rows have no value"):
        controls.fit_controls(bank, X, types=gaps)
    with pytest.raises(ValueError, match="batches: y: 6 of 24 rows have no value"):
        stream.moments(lambda: [(X, gaps)])
    with pytest.raises(ValueError, match="batches: expected either strings or numbers"):
        stream.moments(lambda: [(X, SPEAKERS), (X, Y)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": [SPEAKERS]}, r"groups: expected one for each of 24 rows, got shape \[1, 24\]"),
        ({"groups": "speaker"}, r"groups: expected one for each of 24 rows, got shape \[7\]"),
        ({"groups": 3}, r"groups: expected one for each of 24 rows, got shape \[\]"),
        ({"X": X.astype(str)}, "X: expected real numbers, got <U"),
        ({"X": X + 1j}, "X: expected real numbers, got complex64"),
        (
            {"X": X[None].repeat(2, 0), "names": ["a", "a"]},
            "names: expected a different name per site, got 'a' more than once",
        ),
        ({"folds": [([0, 1, 2], [24])]}, r"folds\[0\]: expected row numbers from 0 to 23"),
        ({"folds": [([0, 1, 2], [-1])]}, r"folds\[0\]: expected row numbers from 0 to 23"),
        ({"folds": [([0.5, 1], [3])]}, r"folds\[0\]: expected row numbers from 0 to 23"),
        (
            {"folds": [(range(12), [])]},
            r"folds\[0\]: expected training rows and test rows, got none",
        ),
        (
            {"folds": [(range(11), range(11, 24))], "groups": SPEAKERS},
            r"folds\[0\]: expected each group in training or in test rows, got 1 in both",
        ),
    ],
)
def test_wrong_arguments_raise(change, message):
    with pytest.raises(ValueError, match=message):
        interventions.fit_probes(**{"X": X, "y": Y, **change})
