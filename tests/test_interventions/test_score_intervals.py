"""Intervals of probes cover the true accuracy, also if labels cannot be predicted."""

import numpy as np
import pytest

import interventions


def fit(X: np.ndarray, y: np.ndarray, seed: int = 0) -> interventions.Bank:
    return interventions.fit_probes(X, y, penalties=(10.0,), folds=5, seeds=(seed,))


def test_the_default_interval_is_wider_by_the_root_of_two():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(1, 60, 4)), np.arange(60) % 2
    X[0, :, 0] += y
    bank = fit(X, y)
    default, independent = bank.summary(), bank.summary(variance="independent")
    assert default["mean"].equals(independent["mean"])
    for end in ("low", "high"):
        widened = (default[end] - default["mean"]) / (independent[end] - independent["mean"])
        assert widened.item() == pytest.approx(np.sqrt(2))
    with pytest.raises(ValueError, match="variance: expected 'dependent' or 'independent'"):
        bank.summary(variance="x")


def test_the_interval_of_a_perfect_probe_is_that_of_an_exact_share():
    y = np.arange(40) % 2
    bank = fit(np.stack([y * 10.0, -y], 1)[None], y)
    summary = bank.summary()
    assert summary["mean"].item() == summary.high.item() == 1
    assert summary.low.item() == pytest.approx(0.025 ** (1 / 40))
    of_groups = bank.summary(groups=np.arange(40) // 4)
    assert of_groups.low.item() == pytest.approx(0.025 ** (1 / 10))


def test_labels_that_cannot_be_predicted_are_rarely_found_above_chance():
    rng, y = np.random.default_rng(1), np.arange(40) % 2
    # Each layer has other noise, so one bank has many samples without an effect.
    bank = fit(rng.normal(size=(300, 40, 6)), y)
    found = {
        variance: (bank.summary(variance=variance).low > 0.5).mean().item()
        for variance in ("dependent", "independent")
    }
    assert found["dependent"] <= 0.04 < found["independent"]
