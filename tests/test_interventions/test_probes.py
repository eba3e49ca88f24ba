"""Probe banks equal scikit-learn, find planted classes, and save, score and stream."""

import json
import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import interventions
from interventions import stats
from interventions.probes import Bank, mdl, scores, stream
from interventions.probes.solve import solve_layers
from interventions.storage.untrusted_files import write_checksums
from jaxasr import compiled

# Programs compiled without optimisation add in one chain, whose rounding misses the tolerance.
pytestmark = pytest.mark.optimised

L, N, D, K = 2, 97, 7, 3
PENALTIES, SEEDS = (1.0, 0.01, 30.0), (0, 5)
RIDGE = {"penalties": (2.0, 50.0), "folds": 3}
SAME = {"penalties": PENALTIES, "seeds": SEEDS}  # fits of X and Y with these share a program


def planted(layers: int, n: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Layer 0 is noise; classes separate with depth. Features differ in scale and offset."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    centres = (
        rng.normal(size=(classes, width))[y] * (3 * np.arange(layers) / (layers - 1))[:, None, None]
    )
    return (
        (rng.normal(size=(layers, n, width)) + centres) * np.linspace(0.1, 5, width) + 3
    ).astype(np.float32), y


X, Y = planted(L, N, D, K)


@pytest.fixture(scope="module")
def bank():
    return interventions.fit_probes(X, np.array(["ant", "bee", "cat"])[Y], **SAME)


def reference(x, y, test, penalty, standardize=True):
    scaler = StandardScaler(with_mean=standardize, with_std=standardize).fit(
        x[~test].astype(np.float64)
    )
    x = scaler.transform(x.astype(np.float64))
    # BLAS threads would wait for each other on matrices this small.
    with warnings.catch_warnings(), threadpool_limits(1):
        # The line search fails at the last digits of so strict a tolerance.
        warnings.simplefilter("ignore")
        model = LogisticRegression(
            C=1 / penalty, tol=1e-9, max_iter=10_000, solver="newton-cg"
        ).fit(x[~test], y[~test])
    cross_entropy = -model.predict_log_proba(x[~test])[np.arange((~test).sum()), y[~test]].sum()
    return cross_entropy + penalty / 2 * (model.coef_**2).sum(), model.predict(x[test]), model


def share_equal_to_sklearn(bank, x, y, standardize=True):
    """Checks every objective to 1e-4, and returns the share of test rows predicted the same."""
    predicted, is_same = bank.predict(x), []
    for layer, penalty, fold, seed in np.ndindex(*bank.objective.shape):
        where = dict(fold=fold, seed=seed)
        test = bank.test.isel(where).values
        objective, guesses, _ = reference(
            x[layer], y, test, float(bank.data.penalty[penalty]), standardize
        )
        ours = bank.data.isel(layer=layer, penalty=penalty, **where)
        assert ours.objective.item() == pytest.approx(objective, rel=1e-4)
        predictions = predicted.isel(layer=layer, penalty=penalty, **where).values[test]
        is_same.append(predictions == bank.classes[guesses])
        assert ours.accuracy.item() == pytest.approx((predictions == bank.classes[y[test]]).mean())
    return np.concatenate(is_same).mean()


def test_every_fit_equals_scikit_learn(bank):
    assert bank.accuracy.dims == ("layer", "penalty", "fold", "seed")
    assert bank.accuracy.shape == (L, 3, 5, 2)
    assert share_equal_to_sklearn(bank, X, Y) >= 0.995
    assert bank.gap.max() < 1e-6
    assert bank.gradient_norm.max() < 1e-3


@pytest.mark.parametrize(("classes", "standardize"), [(2, True), (3, False)])
def test_two_classes_and_raw_features_equal_scikit_learn(classes, standardize):
    x, y = X, np.arange(N) % classes
    bank = interventions.fit_probes(x, y, standardize=standardize, **SAME).sel(seed=5)
    assert share_equal_to_sklearn(bank, x, y, standardize) >= 0.995


def test_correlated_features_equal_scikit_learn():
    """Features correlate over five orders of magnitude and classes are separable."""
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
    x, y = planted(2, 60, 40, 2)
    assert share_equal_to_sklearn(interventions.fit_probes(x, y, folds=2), x, y) >= 0.995


def test_the_order_of_features_does_not_change_a_fit():
    """Another order adds as another processor would; float32 alone leaves some above `tol`."""
    orders = [
        np.random.default_rng(0).permuted(np.tile(np.arange(D), (20, 1)), axis=1)[i]
        for i in range(20)
    ]
    x = np.stack([X[1][:, order] for order in orders])
    bank = interventions.fit_probes(x, np.arange(N) % 3, standardize=False, **SAME)
    assert bank.gap.max() <= 1e-6
    objective = bank.objective.values
    # An estimated gap is up to 3.5 times too small. The rounding of a row's logits changes its
    # loss by the factor |p - label|.
    rounding = np.finfo(np.float32).eps * np.abs(bank.decision(x)).max().item()
    assert (np.ptp(objective, axis=0) / objective.min(0)).max() < 3.5e-6 + 2 * rounding


@pytest.mark.parametrize("target", ["class", "value"])
def test_a_smaller_tolerance_is_reached_in_float64(bank, target):
    y = Y if target == "class" else X[1] @ np.arange(D) + np.random.default_rng(2).normal(size=N)
    options = SAME if target == "class" else RIDGE
    fine = interventions.fit_probes(X, y, target=target, tol=1e-11, **options)
    assert fine.gap.max() <= 1e-11
    assert fine.n_iter.max() < 200
    usual = bank if target == "class" else interventions.fit_probes(X, y, target=target, **options)
    same = (
        fine.out_of_fold.values == usual.out_of_fold.values
        if target == "class"
        else np.isclose(fine.out_of_fold, usual.out_of_fold)
    )
    assert same.mean() > 0.995
    np.testing.assert_allclose(fine.log_loss, usual.log_loss, rtol=1e-2)
    np.testing.assert_allclose(fine.objective, usual.objective, rtol=1e-5)


def test_a_fit_ends_where_float32_holds_no_better_weights():
    with pytest.warns(UserWarning, match=r"because weights are float32"):
        bank = interventions.fit_probes(X, Y, tol=1e-30, max_iter=10**9, **SAME)
    assert bank.gap.max() < 1e-11
    assert bank.n_iter.max() < 200


def test_fits_that_have_not_converged_warn(bank):
    with pytest.warns(
        UserWarning, match=r"fit_probes: \d+ of 60 fits have not converged to tol=1e-06"
    ):
        early = interventions.fit_probes(X, Y, max_iter=1, **SAME)
    assert early.gap.max() > bank.gap.max()


def test_planted_classes_are_predicted(bank):
    mean = bank.summary()["mean"].sel(penalty=1.0)
    assert mean[0] < 0.5 < 0.95 < mean[1]
    summary = bank.summary(groups=np.arange(N) // 5)
    assert (summary.low <= summary["mean"]).all()
    assert (summary.high - summary.low).min() >= 0
    np.testing.assert_allclose(summary["mean"], bank.summary()["mean"])


def test_test_rows_do_not_enter_a_fit(bank):
    changed = X.copy()
    test = bank.test.sel(fold=2, seed=0).values
    changed[:, test] = changed[:, test] * 7 - 40
    again = interventions.fit_probes(changed, Y, **SAME)
    for name, tol in (("mean", 1e-5), ("scale", 1e-5), ("objective", 1e-4)):
        np.testing.assert_allclose(
            again.data[name].sel(fold=2, seed=0), bank.data[name].sel(fold=2, seed=0), rtol=tol
        )
    weights = bank.weights.sel(fold=2, seed=0)
    np.testing.assert_allclose(
        again.weights.sel(fold=2, seed=0), weights, atol=2e-2 * float(np.abs(weights).max())
    )


def test_no_group_is_in_training_and_test_rows():
    groups = np.arange(N) // 4
    bank = interventions.fit_probes(X, Y, groups, **SAME)
    for seed in SEEDS:
        assert (
            bank.test.sel(seed=seed).sum("fold").min()
            == bank.test.sel(seed=seed).sum("fold").max()
            == 1
        )
        for fold in range(5):
            test = bank.test.sel(seed=seed, fold=fold).values
            assert not set(groups[test]) & set(groups[~test])
    assert not bank.test.sel(seed=0).equals(bank.test.sel(seed=5).drop_vars("seed"))


def test_sites_and_chunks_do_not_change_a_result(bank, monkeypatch):
    two = interventions.fit_probes({"a": X, "b": X[::-1]}, Y, chunk=3, **SAME)
    assert two.accuracy.dims == ("site", "layer", "penalty", "fold", "seed")
    np.testing.assert_allclose(two.objective.sel(site="b").values[::-1], bank.objective, rtol=1e-5)
    before = compiled.n_compiled(solve_layers)
    interventions.fit_probes(
        X + 1, Y[::-1].copy(), penalties=(2.0, 3.0, 4.0), seeds=(7, 8), tol=1e-3
    )
    assert compiled.n_compiled(solve_layers) == before
    monkeypatch.setattr("interventions.probes.chunks._CPU_BUDGET_BYTES", 60_000)
    small = interventions.fit_probes(X, Y, **SAME)
    np.testing.assert_allclose(small.objective, bank.objective, rtol=1e-5)
    np.testing.assert_array_equal(small.test, bank.test)


def test_ridge_equals_scikit_learn():
    rng = np.random.default_rng(2)
    y = X[1] @ rng.normal(size=D) + rng.normal(size=N)
    bank = interventions.fit_probes(X, y, **RIDGE, target="value")
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
    right = np.trace(counts.sel(layer=1).values) / N
    assert right == pytest.approx(bank.summary()["mean"].sel(layer=1, penalty=1.0).item(), abs=0.05)
    auc = scores.auroc(bank, X).sel(penalty=1.0).mean("seed")
    assert auc[0] < 0.7 < 0.99 < auc[1]
    sure = scores.calibration(bank, X, bins=5)
    assert (sure["count"].sum("bin") == N).all()
    assert sure.ece.sel(penalty=30.0, layer=1).max() < 0.25
    assert scores.balanced_accuracy(bank).sel(layer=1, penalty=1.0).min() > 0.9


def test_auroc_of_a_bank_equals_that_of_its_probabilities():
    y = np.arange(N) % 2
    bank = interventions.fit_probes(X, y, **SAME).sel(penalty=1.0, seed=5)
    p = bank.out_of_fold_proba(X).sel({"class": 1}).squeeze(("penalty", "seed"))
    for layer in range(L):
        expected = stats.auroc_interval(p.sel(layer=layer).values, y == 1, np.arange(N), n=10).value
        area = scores.auroc(bank, X).sel(layer=layer).item()
        assert area == pytest.approx(expected, abs=1e-12)


def test_codelength_is_short_only_for_planted_classes():
    code = mdl.codelength(X, Y, penalties=(1.0,), seeds=(0, 1), fractions=(0.2, 0.5, 1.0))
    assert code.uniform == pytest.approx(N * np.log2(K))
    assert code.compression.sel(layer=0).max() < 1.1
    assert code.compression.sel(layer=1).min() > 2


def test_a_stream_has_the_weights_of_a_bank():
    y = np.array(["ant", "bee", "cat"])[Y]
    streamed = stream.fit_stream(
        lambda: ((X[:, i : i + 33], y[i : i + 33]) for i in range(0, N, 33)),
        epochs=150,
        learning_rate=0.05,
    )
    whole = interventions.fit_probes(X, y, folds=[(np.arange(N), np.arange(N))] * 5, **SAME).sel(
        penalty=1.0, fold=0, seed=0
    )
    assert streamed.weights.dims == whole.weights.dims
    np.testing.assert_allclose(streamed.data["mean"], whole.data["mean"], rtol=1e-4)
    assert (streamed.predict(X).values == whole.predict(X).values).mean() > 0.98
    a, b = streamed.weights.values.ravel(), whole.weights.values.ravel()
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.99
