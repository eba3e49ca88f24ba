"""Scores, code lengths and streamed fits of probes agree with their bank."""

import numpy as np
import pytest
from planted_classes import N_CLASSES, N_LAYERS, N_ROWS, NAMES, OPTIONS, X, Y

import interventions
from interventions import stats
from interventions.probes import mdl, scores, stream

# The same programs as in test_probes.py, so that the persistent cache has them.
pytestmark = pytest.mark.optimised


@pytest.fixture(scope="module")
def bank():
    return interventions.fit_probes(X, NAMES, **OPTIONS)


def test_scores_agree_with_the_summary(bank):
    counts = scores.confusion(bank).sel(penalty=1.0, seed=0)
    np.testing.assert_array_equal(counts.sum("predicted").sel(layer=0), np.bincount(Y))
    accuracy = np.trace(counts.sel(layer=1).values) / N_ROWS
    assert accuracy == pytest.approx(
        bank.summary()["mean"].sel(layer=1, penalty=1.0).item(), abs=0.05
    )
    auc = scores.auroc(bank, X).sel(penalty=1.0).mean("seed")
    assert auc[0] < 0.7 < 0.99 < auc[1]
    calibration = scores.calibration(bank, X, bins=5)
    assert (calibration["count"].sum("bin") == N_ROWS).all()
    assert calibration.ece.sel(penalty=30.0, layer=1).max() < 0.25
    assert scores.balanced_accuracy(bank).sel(layer=1, penalty=1.0).min() > 0.9


def test_auroc_of_a_bank_equals_that_of_its_probabilities():
    y = np.arange(N_ROWS) % 2
    bank = interventions.fit_probes(X, y, **OPTIONS).sel(penalty=1.0, seed=5)
    p = bank.out_of_fold_proba(X).sel({"class": 1}).squeeze(("penalty", "seed"))
    for layer in range(N_LAYERS):
        expected = stats.auroc_interval(
            p.sel(layer=layer).values, y == 1, np.arange(N_ROWS), n=10
        ).value
        area = scores.auroc(bank, X).sel(layer=layer).item()
        assert area == pytest.approx(expected, abs=1e-12)


def test_codelength_is_short_only_for_planted_classes():
    code = mdl.codelength(X, Y, penalties=(1.0,), seeds=(0, 1), fractions=(0.2, 0.5, 1.0))
    assert code.uniform == pytest.approx(N_ROWS * np.log2(N_CLASSES))
    assert code.compression.sel(layer=0).max() < 1.1
    assert code.compression.sel(layer=1).min() > 2


def test_a_stream_has_the_weights_of_a_bank():
    streamed = stream.fit_stream(
        lambda: ((X[:, i : i + 33], NAMES[i : i + 33]) for i in range(0, N_ROWS, 33)),
        epochs=150,
        learning_rate=0.05,
    )
    whole = interventions.fit_probes(
        X, NAMES, folds=[(np.arange(N_ROWS), np.arange(N_ROWS))] * 5, **OPTIONS
    ).sel(penalty=1.0, fold=0, seed=0)
    assert streamed.weights.dims == whole.weights.dims
    np.testing.assert_allclose(streamed.data["mean"], whole.data["mean"], rtol=1e-4)
    assert (streamed.predict(X).values == whole.predict(X).values).mean() > 0.98
    a, b = streamed.weights.values.ravel(), whole.weights.values.ravel()
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.99
