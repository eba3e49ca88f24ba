"""Probe fits equal scikit-learn and depend only on their training rows. Banks can be saved."""

import json
import warnings

import numpy as np
import pytest
from planted_classes import N_FEATURES, N_LAYERS, N_ROWS, NAMES, OPTIONS, SEEDS, X, Y, plant_classes
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import interventions
from interventions.probes import Bank
from interventions.probes.solve import solve_layers
from interventions.storage.untrusted_files import write_checksums
from jaxasr import compiled

# Programs that are compiled without optimisation add in one long chain. Its rounding errors exceed
# the tolerance.
pytestmark = pytest.mark.optimised

RIDGE_OPTIONS = {"penalties": (2.0, 50.0), "folds": 3}


@pytest.fixture(scope="module")
def bank():
    return interventions.fit_probes(X, NAMES, **OPTIONS)


def fit_sklearn(x, y, test, penalty, standardize=True):
    """Returns the objective of scikit-learn's fit, and its predictions for the test rows."""
    scaler = StandardScaler(with_mean=standardize, with_std=standardize).fit(
        x[~test].astype(np.float64)
    )
    x = scaler.transform(x.astype(np.float64))
    # BLAS threads would wait for each other on matrices this small.
    with warnings.catch_warnings(), threadpool_limits(1):
        # With so small a tolerance, the line search of scikit-learn warns that it fails.
        warnings.simplefilter("ignore")
        model = LogisticRegression(
            C=1 / penalty, tol=1e-9, max_iter=10_000, solver="newton-cg"
        ).fit(x[~test], y[~test])
    cross_entropy = -model.predict_log_proba(x[~test])[np.arange((~test).sum()), y[~test]].sum()
    return cross_entropy + penalty / 2 * (model.coef_**2).sum(), model.predict(x[test])


def share_equal_to_sklearn(bank, x, y, standardize=True):
    """Checks every objective to 1e-4, and returns the share of test rows with equal predictions."""
    predicted, is_equal = bank.predict(x), []
    for layer, penalty, fold, seed in np.ndindex(*bank.objective.shape):
        indices = dict(layer=layer, penalty=penalty, fold=fold, seed=seed)
        test = bank.test.isel(fold=fold, seed=seed).values
        objective, sklearn_classes = fit_sklearn(
            x[layer], y, test, float(bank.data.penalty[penalty]), standardize
        )
        fit = bank.data.isel(indices)
        assert fit.objective.item() == pytest.approx(objective, rel=1e-4)
        predictions = predicted.isel(indices).values[test]
        is_equal.append(predictions == bank.classes[sklearn_classes])
        assert fit.accuracy.item() == pytest.approx((predictions == bank.classes[y[test]]).mean())
    return np.concatenate(is_equal).mean()


def test_every_fit_equals_scikit_learn(bank):
    assert bank.accuracy.dims == ("layer", "penalty", "fold", "seed")
    assert bank.accuracy.shape == (N_LAYERS, 3, 5, 2)
    assert share_equal_to_sklearn(bank, X, Y) >= 0.995
    assert bank.optimality_gap.max() < 1e-6
    assert bank.gradient_norm.max() < 1e-3


@pytest.mark.parametrize(("classes", "standardize"), [(2, True), (3, False)])
def test_two_classes_and_raw_features_equal_scikit_learn(classes, standardize):
    x, y = X, np.arange(N_ROWS) % classes
    bank = interventions.fit_probes(x, y, standardize=standardize, **OPTIONS).sel(seed=5)
    assert share_equal_to_sklearn(bank, x, y, standardize) >= 0.995


def test_correlated_features_equal_scikit_learn():
    """Scales of correlated features span five orders of magnitude, and classes are separable."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 4, 300)
    x = (
        (rng.normal(size=(1, 300, 101)) + rng.normal(size=(4, 101))[y] / 3)
        / (1 + np.arange(101)) ** 2.5
        @ rng.normal(size=(101, 101))
    )
    bank = interventions.fit_probes(x.astype(np.float32), y, penalties=(0.1, 10.0), folds=3)
    assert share_equal_to_sklearn(bank, x.astype(np.float32), y) >= 0.99
    assert bank.n_iter.max() < 100


def test_few_fits_of_many_features_equal_scikit_learn():
    x, y = plant_classes(2, 60, 40, 2)
    assert share_equal_to_sklearn(interventions.fit_probes(x, y, folds=2), x, y) >= 0.995


def test_the_order_of_features_does_not_change_a_fit():
    """Another order of features changes the order of additions, as another processor does.

    In float32 alone, some fits would end above `tol`.
    """
    orders = [
        np.random.default_rng(0).permuted(np.tile(np.arange(N_FEATURES), (20, 1)), axis=1)[i]
        for i in range(20)
    ]
    x = np.stack([X[1][:, order] for order in orders])
    bank = interventions.fit_probes(x, np.arange(N_ROWS) % 3, standardize=False, **OPTIONS)
    assert bank.optimality_gap.max() <= 1e-6
    objective = bank.objective.values
    # The bound adds two errors. An estimated gap of 1e-6 may be 3.5 times too small, and float32
    # rounds the logits.
    rounding = np.finfo(np.float32).eps * np.abs(bank.decision(x)).max().item()
    assert (np.ptp(objective, axis=0) / objective.min(0)).max() < 3.5e-6 + 2 * rounding


@pytest.mark.parametrize("target", ["class", "value"])
def test_a_smaller_tolerance_is_reached_in_float64(bank, target):
    noise = np.random.default_rng(2).normal(size=N_ROWS)
    y = Y if target == "class" else X[1] @ np.arange(N_FEATURES) + noise
    options = OPTIONS if target == "class" else RIDGE_OPTIONS
    fine = interventions.fit_probes(X, y, target=target, tol=1e-11, **options)
    assert fine.optimality_gap.max() <= 1e-11
    assert fine.n_iter.max() < 200
    usual = bank if target == "class" else interventions.fit_probes(X, y, target=target, **options)
    is_equal = (
        fine.out_of_fold.values == usual.out_of_fold.values
        if target == "class"
        else np.isclose(fine.out_of_fold, usual.out_of_fold)
    )
    assert is_equal.mean() > 0.995
    np.testing.assert_allclose(fine.log_loss, usual.log_loss, rtol=1e-2)
    np.testing.assert_allclose(fine.objective, usual.objective, rtol=1e-5)


def test_a_fit_ends_where_float32_holds_no_better_weights():
    with pytest.warns(UserWarning, match=r"because weights are float32"):
        bank = interventions.fit_probes(X, Y, tol=1e-30, max_iter=10**9, **OPTIONS)
    assert bank.optimality_gap.max() < 1e-11
    assert bank.n_iter.max() < 200


def test_fits_that_have_not_converged_warn(bank):
    with pytest.warns(
        UserWarning, match=r"fit_probes: \d+ of 60 fits have not converged to tol=1e-06"
    ):
        early = interventions.fit_probes(X, Y, max_iter=1, **OPTIONS)
    assert early.optimality_gap.max() > bank.optimality_gap.max()


def test_test_rows_do_not_enter_a_fit(bank):
    changed = X.copy()
    test = bank.test.sel(fold=2, seed=0).values
    changed[:, test] = changed[:, test] * 7 - 40
    again = interventions.fit_probes(changed, Y, **OPTIONS)
    for name, tol in (("mean", 1e-5), ("scale", 1e-5), ("objective", 1e-4)):
        np.testing.assert_allclose(
            again.data[name].sel(fold=2, seed=0), bank.data[name].sel(fold=2, seed=0), rtol=tol
        )
    weights = bank.weights.sel(fold=2, seed=0)
    np.testing.assert_allclose(
        again.weights.sel(fold=2, seed=0), weights, atol=2e-2 * float(np.abs(weights).max())
    )


def test_no_group_is_in_training_and_test_rows():
    groups = np.arange(N_ROWS) // 4
    bank = interventions.fit_probes(X, Y, groups, **OPTIONS)
    for seed in SEEDS:
        assert (bank.test.sel(seed=seed).sum("fold") == 1).all()  # each row is tested once
        for fold in range(5):
            test = bank.test.sel(seed=seed, fold=fold).values
            assert not set(groups[test]) & set(groups[~test])
    assert not bank.test.sel(seed=0).equals(bank.test.sel(seed=5).drop_vars("seed"))


def test_sites_and_chunks_do_not_change_a_result(bank, monkeypatch):
    two = interventions.fit_probes({"a": X, "b": X[::-1]}, Y, chunk=3, **OPTIONS)
    assert two.accuracy.dims == ("site", "layer", "penalty", "fold", "seed")
    np.testing.assert_allclose(two.objective.sel(site="b").values[::-1], bank.objective, rtol=1e-5)
    before = compiled.n_compiled(solve_layers)
    interventions.fit_probes(
        X + 1, Y[::-1].copy(), penalties=(2.0, 3.0, 4.0), seeds=(7, 8), tol=1e-3
    )
    assert compiled.n_compiled(solve_layers) == before
    # This budget divides the fits of a layer into several calls.
    monkeypatch.setattr("interventions.probes.chunks._CPU_BUDGET_BYTES", 60_000)
    small = interventions.fit_probes(X, Y, **OPTIONS)
    np.testing.assert_allclose(small.objective, bank.objective, rtol=1e-5)
    np.testing.assert_array_equal(small.test, bank.test)


def test_ridge_equals_scikit_learn():
    rng = np.random.default_rng(2)
    y = X[1] @ rng.normal(size=N_FEATURES) + rng.normal(size=N_ROWS)
    bank = interventions.fit_probes(X, y, **RIDGE_OPTIONS, target="value")
    for layer, penalty, fold in np.ndindex(2, 2, 3):
        test = bank.test.isel(fold=fold, seed=0).values
        scaler = StandardScaler().fit(X[layer][~test].astype(np.float64))
        x = scaler.transform(X[layer].astype(np.float64))
        model = Ridge(alpha=float(bank.data.penalty[penalty])).fit(x[~test], y[~test])
        np.testing.assert_allclose(
            bank.weights[layer, penalty, fold, 0, 0], model.coef_, rtol=1e-3, atol=1e-4
        )
        assert bank.r2[layer, penalty, fold, 0].item() == pytest.approx(
            model.score(x[test], y[test]), abs=1e-4
        )
    assert bank.r2.sel(layer=1, penalty=2.0).min() > 0.9
    with pytest.raises(AttributeError, match="target 'value' has no 'accuracy'; it has r2"):
        _ = bank.accuracy


def test_planted_classes_are_predicted(bank):
    mean = bank.summary()["mean"].sel(penalty=1.0)
    assert mean[0] < 0.5 < 0.95 < mean[1]
    summary = bank.summary(groups=np.arange(N_ROWS) // 5)
    assert (summary.low <= summary["mean"]).all()
    assert (summary.high - summary.low).min() > 0
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
