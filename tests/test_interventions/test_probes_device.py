"""The path of an accelerator, padding, and meshes do not change a bank."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from planted_classes import N_FEATURES, N_ROWS, OPTIONS, X, Y

import interventions
from interventions.probes import chunks, device_path
from interventions.probes.padding import padded_size
from interventions.probes.raw_layers import stack_raw
from interventions.probes.solve import solve_layers, standardise_and_solve_layers
from interventions.probes.targets import FitTargets
from jaxasr import compiled, meshes

# As in `test_probes`.
pytestmark = pytest.mark.optimised

VALUES = X[1] @ np.arange(N_FEATURES) + np.random.default_rng(2).normal(size=N_ROWS)
# Twice the tolerance of the solver, and an estimated gap may be 3.5 times too small.
RTOL = 7e-6


def fit(x=X, y=Y, *, on_device=True, **options):
    if not on_device:
        return interventions.fit_probes(x, y, **(OPTIONS | options))
    with device_path.force():
        return interventions.fit_probes(x, y, **(OPTIONS | options))


def assert_same_optimum(bank, expected):
    np.testing.assert_allclose(bank.objective, expected.objective, rtol=RTOL)
    np.testing.assert_allclose(bank.data["scale"], expected.data["scale"], rtol=1e-5)
    atol = 1e-5 * float(expected.data["scale"].max())
    np.testing.assert_allclose(bank.data["mean"], expected.data["mean"], rtol=1e-6, atol=atol)
    assert bank.optimality_gap.max() <= 1e-6


@pytest.mark.parametrize("standardize", [True, False])
def test_both_paths_reach_the_same_optimum(standardize):
    expected = fit(on_device=False, standardize=standardize)
    bank = fit(standardize=standardize, chunk=2)
    assert_same_optimum(bank, expected)
    assert (bank.out_of_fold.values == expected.out_of_fold.values).mean() > 0.995


def test_both_paths_reach_the_same_ridge_optimum():
    options = {"target": "value", "penalties": (2.0, 50.0)}
    expected = fit(y=VALUES, on_device=False, **options)
    bank = fit(y=VALUES, **options)
    assert_same_optimum(bank, expected)
    np.testing.assert_allclose(bank.weights, expected.weights, rtol=1e-3, atol=1e-4)


def test_large_means_constants_and_wide_types_keep_their_digits():
    """float32 holds 1e6 + x only to a sixteenth, but float64 holds it."""
    x = X.astype(np.float64) + 1e6
    x[:, :, 0] = 0.1  # constant
    test = np.arange(N_ROWS) % 3 == 0
    x[:, :, 1] = np.where(test, X[:, :, 1], 5.3)  # constant in the training rows
    options = {"folds": [(~test, test)], "seeds": (0,)}
    bank = fit(x, **options)
    assert_same_optimum(bank, fit(x, on_device=False, **options))
    assert (bank.data["scale"][..., 0] == 1).all()
    # Its spread over the training rows is 0, so its scale is the spread over all rows.
    np.testing.assert_allclose(bank.data["scale"][:, 0, 0, 1], x[:, :, 1].std(1), rtol=1e-5)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_bank_of_the_same_padded_size_compiles_nothing(on_device):
    program = standardise_and_solve_layers if on_device else solve_layers
    fit(on_device=on_device)
    before = compiled.n_compiled(program)
    for n_more, d in ((5, N_FEATURES), (0, N_FEATURES - 1)):
        n = N_ROWS + n_more
        assert (padded_size(n), padded_size(d)) == (padded_size(N_ROWS), padded_size(N_FEATURES))
        x, y = (np.concatenate([a, a[..., :n_more]], -1) for a in (X.swapaxes(1, 2)[:, :d], Y))
        bank = fit(x.swapaxes(1, 2), y, on_device=on_device)
        assert bank.weights.shape[-1] == d
        assert bank.out_of_fold.shape[-1] == n
    assert compiled.n_compiled(program) == before


@pytest.mark.parametrize("on_device", [False, True])
def test_padding_does_not_change_a_fit(on_device, monkeypatch):
    padded = fit(on_device=on_device)
    monkeypatch.setattr(chunks, "padded_size", lambda n: n)
    assert_same_optimum(padded, fit(on_device=on_device))


def test_weights_of_padded_features_are_zero():
    n, d = N_ROWS + 5, N_FEATURES + 7
    train = np.arange(N_ROWS) % 3 > np.arange(2)[:, None] - 1
    targets = FitTargets(np.stack([Y, Y]).astype(np.int32), train, ~train).pad(n)
    results, moments = compiled.call(
        standardise_and_solve_layers,
        stack_raw(list(X), len(X) + 1, (n, d)),
        np.int32(N_ROWS),
        targets,
        np.float32([10, 1]),
        np.float32(1e-6),
        np.int32(100),
        n_classes=int(Y.max()) + 1,
        standardize=True,
    )
    weights = np.asarray(results.solution.weights)
    assert (weights[..., N_FEATURES:] == 0).all()
    assert (np.abs(weights[: len(X), ..., :N_FEATURES]).max((0, 1, 2, 3)) > 0).all()
    assert (np.asarray(moments.mean)[..., N_FEATURES:] == 0).all()


def test_arrays_of_jax_and_narrow_types_are_fitted():
    expected = fit(chunk=2)
    assert_same_optimum(fit(jnp.asarray(X), chunk=2), expected)
    half = X.astype(np.float16)
    assert_same_optimum(fit(half), fit(half.astype(np.float32)))


def test_activations_that_are_not_finite_are_refused():
    wrong = X.copy()
    wrong[1, 7] = np.nan
    with pytest.raises(ValueError, match=r"layer 1, in 1 rows \(the first is 7\)"):
        fit(wrong)
    with pytest.raises(ValueError, match="in the range of float32"):
        fit(X.astype(np.float64) * 1e300)


def test_blocks_of_fits_do_not_change_a_bank(monkeypatch):
    expected = fit(chunk=1)
    monkeypatch.setattr(chunks, "_CPU_BUDGET_BYTES", 300_000)
    assert_same_optimum(fit(), expected)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_mesh_of_one_device_changes_no_bit(on_device):
    expected = fit(on_device=on_device, chunk=1)
    mesh = meshes.make_mesh(1)
    assert fit(on_device=on_device, chunk=1, mesh=mesh).data.identical(expected.data)
    with jax.set_mesh(mesh):
        assert fit(on_device=on_device, chunk=1).data.identical(expected.data)


def test_wrong_meshes_are_refused():
    other = jax.make_mesh((1,), ("model",), (AxisType.Auto,))
    with pytest.raises(ValueError, match=r"mesh: expected the axes 'data' and 'cells'"):
        interventions.fit_probes(X, Y, mesh=other)
