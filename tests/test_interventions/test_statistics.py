"""Intervals and p-values agree with SciPy, detect planted effects and keep their level."""

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from interventions.stats import intervals


def grid(n=40, effect=1.0, seed=0, layers=4, heads=6):
    """Makes noise of a different size in every head, and an effect in layer 2, head 3."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((layers, n, heads)) * np.linspace(0.1, 3, heads)
    x[2, :, 3] += effect * np.linspace(0.1, 3, heads)[3]
    return xr.DataArray(
        x,
        dims=("layer", "example", "head"),
        coords={"layer": np.arange(layers), "head": np.arange(heads)},
    )


def test_a_planted_effect_is_found_and_keeps_its_labels():
    x = grid()
    for p in (
        intervals.sign_flip(x),
        intervals.max_sign_flip(x),
        intervals.fdr(intervals.sign_flip(x)),
    ):
        assert p.dims == ("layer", "head")
        assert p.sel(layer=2, head=3) < 0.05
        assert (p.values < 0.05).sum() <= 3
    corrected = intervals.max_sign_flip(x)
    assert (corrected.values < 0.05).sum() == 1
    assert (corrected >= intervals.sign_flip(x)).all()


def test_under_the_null_p_values_are_uniform_and_the_best_of_many_is_rarely_significant():
    ps, best = [], []
    for seed in range(60):
        x = grid(n=20, effect=0, seed=seed + 1)
        ps.append(intervals.sign_flip(x, n=400, seed=seed).values)
        best.append(float(intervals.max_sign_flip(x, n=400, seed=seed).min()))
    assert scipy.stats.kstest(np.ravel(ps)[::5], "uniform").pvalue > 0.01
    assert np.mean(np.array(best) <= 0.05) < 0.15
    # Without the correction, the best of 24 cells is often significant.
    assert np.mean(np.min(ps, axis=(1, 2)) <= 0.05) > 0.4


def test_few_examples_try_all_sign_patterns():
    x = xr.DataArray([1.0, 2.0, 3.0, 0.5], dims="example")
    assert float(intervals.sign_flip(x)) == 2 / 16
    ours = intervals.sign_flip(grid(n=9))
    theirs = scipy.stats.permutation_test(
        (grid(n=9).transpose("example", ...).values,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
        axis=0,
    )
    np.testing.assert_allclose(ours, theirs.pvalue, atol=1e-12)


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_intervals_agree_with_scipy(method):
    x = grid(n=30)
    x = x.copy(data=np.exp(x.values / 2))  # skewed, so that the two methods differ
    ours = intervals.bootstrap(x, method=method, n=20_000)
    theirs = scipy.stats.bootstrap(
        (x.transpose("example", ...).values,),
        np.mean,
        axis=0,
        method=method,
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = theirs.high - theirs.low
    np.testing.assert_allclose((ours.low - theirs.low) / width, 0, atol=0.04)
    np.testing.assert_allclose((ours.high - theirs.high) / width, 0, atol=0.04)
    np.testing.assert_allclose(ours["mean"], x.mean("example"))


def test_intervals_cover_the_mean_as_often_as_their_level_promises():
    inside = [
        (interval.low <= 0) & (interval.high >= 0)
        for interval in (
            intervals.bootstrap(grid(n=40, effect=0, seed=s), n=400, level=0.9) for s in range(30)
        )
    ]
    assert np.mean(inside) == pytest.approx(0.9, abs=0.04)


def test_a_cell_without_spread_has_an_interval_of_no_width():
    x = xr.DataArray(np.stack([np.zeros(20), np.full(20, 2.0)], 1), dims=("example", "head"))
    interval = intervals.bootstrap(x)
    np.testing.assert_array_equal(interval.low, [0, 2])
    np.testing.assert_array_equal(interval.high, [0, 2])
    assert intervals.sign_flip(x).values[0] == 1
    assert intervals.sign_flip(x).values[1] < 0.001


def test_equal_seeds_give_equal_results():
    x = grid()
    xr.testing.assert_identical(intervals.bootstrap(x, seed=3), intervals.bootstrap(x, seed=3))
    assert not intervals.bootstrap(x, seed=3).equals(intervals.bootstrap(x, seed=4))
    xr.testing.assert_identical(
        intervals.max_sign_flip(x, seed=3), intervals.max_sign_flip(x, seed=3)
    )


def test_wrong_arguments_are_refused():
    x = grid()
    with pytest.raises(ValueError, match="layer, example, head"):
        intervals.sign_flip(x, dim="utterance")
    with pytest.raises(ValueError, match="at least 2 examples"):
        intervals.bootstrap(x.isel(example=[0]))
    with pytest.raises(ValueError, match="NaN"):
        intervals.max_sign_flip(x.where(x > 0))
    with pytest.raises(ValueError, match="bca"):
        intervals.bootstrap(x, method="basic")
