"""Accuracies of probes have intervals over clusters, which are never empty."""

import numpy as np
import pytest
import xarray as xr

from experiments.studies.pair_evidence import accuracy_evidence, area_evidence, with_width
from interventions.stats import Interval


def make_rows(accuracy: dict[str, float], n: int = 200, seed: int = 0) -> xr.Dataset:
    """Makes right and wrong predictions of probes. Each group has two rows of each class."""
    rng = np.random.default_rng(seed)
    correct = np.stack([rng.random(n) < share for share in accuracy.values()], 1).astype(float)
    label = np.array(["bad", "right"])[np.arange(n) % 2]
    is_right = (label == "right")[:, None]
    return xr.Dataset(
        {
            "correct": (("example", "layer"), correct),
            "probability": (("example", "layer"), np.where(is_right, correct, 1 - correct)),
        },
        {
            "layer": list(accuracy),
            "label": ("example", label),
            "group": ("example", np.arange(n) // 4),
        },
    )


def test_the_estimate_is_the_mean_accuracy_and_its_units_are_groups():
    rows = make_rows({"a": 0.9, "b": 0.7, "floor": 0.6})
    evidence = accuracy_evidence(rows, ["a", "b"], null=0.5, floors=["floor", "b"])
    assert evidence.value == pytest.approx(float(rows.correct[:, :2].mean()))
    assert (evidence.n, evidence.counts) == (50, None)
    assert evidence.floor == pytest.approx(float(rows.correct[:, 1].mean()))
    assert evidence.low < evidence.value < evidence.high
    assert evidence.p is not None
    assert evidence.p < 0.01


def test_a_difference_of_equal_probes_holds_zero():
    rows = make_rows({"a": 0.8, "b": 0.8})
    evidence = accuracy_evidence(rows, ["a"], minus=["b"])
    assert evidence.low < 0 < evidence.high


def test_right_predictions_alone_leave_an_interval():
    rows = make_rows({"a": 1.1})
    accuracy = accuracy_evidence(rows, ["a"], null=0.5)
    area = area_evidence(rows, ["a"], null=0.5, seed=0)
    for evidence in (accuracy, area):
        assert (evidence.value, evidence.high) == (1, 1)
        assert 0.85 < evidence.low < 1


def test_an_interval_with_width_is_kept():
    kept = Interval(0.8, 0.7, 0.9, 20)
    assert with_width(kept) == kept
    empty = with_width(Interval(0.0, 0.0, 0.0, 20), lowest=-1.0)
    assert empty.low == pytest.approx(-empty.high)


def test_the_interval_covers_the_accuracy():
    """Of 200 intervals of independent predictions, at least 93 % hold the true accuracy."""
    held = 0
    for seed in range(200):
        evidence = accuracy_evidence(make_rows({"a": 0.9}, 100, seed), ["a"], null=0.5, seed=seed)
        held += evidence.low <= 0.9 <= evidence.high
    assert held >= 186
