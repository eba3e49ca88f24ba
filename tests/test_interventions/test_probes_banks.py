"""A bank predicts planted classes, is saved and scored, and agrees with streamed probes."""

import json

import numpy as np
import pytest
from probe_rows import N_CLASSES, N_LAYERS, N_ROWS, NAMES, OPTIONS, X, Y

import interventions
from interventions import stats
from interventions.probes import Bank, mdl, scores, stream
from interventions.storage.inert import write_checksums

# The same programs as in test_probes.py, so that the persistent cache has them.
pytestmark = pytest.mark.optimised


@pytest.fixture(scope="module")
def bank():
    return interventions.fit_probes(X, NAMES, **OPTIONS)


def test_planted_classes_are_predicted(bank):
    mean = bank.summary()["mean"].sel(penalty=1.0)
    assert mean[0] < 0.5 < 0.95 < mean[1]
    summary = bank.summary(groups=np.arange(N_ROWS) // 5)
    assert (summary.low <= summary["mean"]).all()
    assert (summary.high - summary.low).min() >= 0
    np.testing.assert_allclose(summary["mean"], bank.summary()["mean"])


def test_every_array_of_a_bank_is_a_property(bank):
    for name, array in bank.data.data_vars.items():
        assert isinstance(getattr(Bank, str(name)), property)
        assert getattr(bank, str(name)).identical(array)
    assert repr(bank).startswith("Bank(class: ")
    assert "layer 2" in repr(bank)
    assert "\n" not in repr(bank)
    with pytest.raises(AttributeError, match="target 'class' has no 'r2'; it has accuracy"):
        _ = bank.r2


def test_a_loaded_bank_equals_the_saved_one(bank, tmp_path):
    bank.save(tmp_path / "bank", model="tiny", seed=3)
    again = Bank.load(tmp_path / "bank")
    assert again.data.drop_attrs().equals(bank.data)
    assert again.data.attrs == {"model": "tiny", "seed": 3}
    np.testing.assert_array_equal(again.predict(X), bank.predict(X))
    with pytest.raises(FileExistsError, match="exists already"):
        bank.save(tmp_path / "bank")
    (tmp_path / "bank" / "bank.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(ValueError, match="damaged"):
        Bank.load(tmp_path / "bank")
    write_checksums(tmp_path / "bank")
    with pytest.raises(ValueError, match="expected a bank of version 1"):
        Bank.load(tmp_path / "bank")
    with pytest.raises(ValueError, match=r"expected bank\.json and arrays\.npz"):
        Bank.load(tmp_path / "nothing")
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


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
