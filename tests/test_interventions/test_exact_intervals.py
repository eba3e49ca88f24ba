"""Intervals of shares and of means over clusters contain the truth as often as they promise."""

import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats

from interventions import stats

N_SIMULATIONS = 1000
# Three standard errors of a coverage of 95% in this many simulations.
SLACK = 3 * np.sqrt(0.95 * 0.05 / N_SIMULATIONS)


@pytest.mark.parametrize("n", [1, 8, 20, 100])
def test_an_exact_interval_covers_every_share(n):
    intervals = [stats.share_interval(count, n) for count in range(n + 1)]
    for share in np.linspace(0.01, 0.99, 99):
        covers = [interval.low <= share <= interval.high for interval in intervals]
        assert scipy_stats.binom.pmf(np.flatnonzero(covers), n, share).sum() >= 0.95 - 1e-9
    for count, interval in enumerate(intervals):
        expected = scipy_stats.binomtest(count, n).proportion_ci(method="exact")
        np.testing.assert_allclose(interval[1:3], [expected.low, expected.high], atol=1e-9)
        assert interval.high > interval.low


@pytest.mark.parametrize(
    ("n", "first", "second", "correlated"),
    [*itertools.product([8, 20, 100], [0.05, 0.5, 0.95], [0.05, 0.5], [False, True])],
)
def test_the_interval_of_paired_shares_covers(n, first, second, correlated):
    rng, n_covering = np.random.default_rng(0), 0
    for _ in range(N_SIMULATIONS):
        draws = rng.random((2, n))
        if correlated:
            draws[1] = draws[0]
        result = stats.paired_shares(draws[0] < first, draws[1] < second)
        n_covering += result.low <= first - second <= result.high
        assert result.high > result.low
    assert n_covering / N_SIMULATIONS >= 0.95 - SLACK


def test_clusters_of_one_unit_are_independent_and_equal_clusters_count_once():
    outcomes = np.arange(20) < 13
    single = stats.cluster_share(outcomes, np.arange(20), null=0.5)
    assert single.interval == pytest.approx(stats.share_interval(13, 20))
    assert single.p == pytest.approx(scipy_stats.binomtest(13, 20).pvalue)
    triple = stats.cluster_share(outcomes.repeat(3), np.arange(20).repeat(3), null=0.5)
    assert triple.interval == pytest.approx(single.interval)
    assert triple.p == pytest.approx(single.p)
    assert triple.effective == pytest.approx(20)
    with pytest.raises(ValueError, match="one cluster per outcome"):
        stats.cluster_share(outcomes, np.arange(3))
    with pytest.raises(ValueError, match="expected True or False"):
        stats.cluster_share([0.0, 1.0, np.nan], np.arange(3), null=0.5)


def test_the_test_of_paired_shares_is_that_of_mcnemar():
    first, second = np.arange(20) < 14, np.arange(20) < 7
    result = stats.paired_shares(first, second)
    assert result.p == pytest.approx(scipy_stats.binomtest(7, 7).pvalue)
    same = stats.paired_shares(first, first)
    assert (same.value, same.p) == (0, 1)
    assert same.low < 0 < same.high
    opposite = stats.paired_shares(second, first)
    np.testing.assert_allclose([opposite.low, opposite.high], [-result.high, -result.low])


@pytest.mark.parametrize("side", ["above", "below"])
def test_the_power_is_that_of_simulations(side):
    share = 0.76 if side == "above" else 0.24
    counts = np.random.default_rng(0).binomial(40, share, size=4000)
    intervals = [stats.share_interval(int(count), 40) for count in counts]
    beyond = [x.low > 0.5 if side == "above" else x.high < 0.5 for x in intervals]
    assert stats.share_power(share, 40, 0.5, side) == pytest.approx(np.mean(beyond), abs=0.02)
    detectable = stats.detectable_share(40, 0.5, side)
    assert detectable is not None
    assert stats.share_power(detectable, 40, 0.5, side) == pytest.approx(0.8, abs=1e-6)
    assert stats.detectable_share(4, 0.5, side) is None


SAMPLERS = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.0, None),
    "skewed": (lambda rng, n: rng.exponential(size=n), 1.0, None),
    "share of 0.05": (lambda rng, n: rng.random(n) < 0.05, 0.05, (0, 1)),
    "share of 0.5": (lambda rng, n: rng.random(n) < 0.5, 0.5, (0, 1)),
    "share of 0.95": (lambda rng, n: rng.random(n) < 0.95, 0.95, (0, 1)),
}


@pytest.mark.parametrize("n_clusters", [8, 30])
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_interval_of_a_mean_over_clusters_covers(name, n_clusters):
    sample, truth, bounds = SAMPLERS[name]
    rng, n_covering = np.random.default_rng(1), 0
    for seed in range(N_SIMULATIONS):
        clusters = np.repeat(np.arange(n_clusters), rng.integers(1, 6, size=n_clusters))
        values = sample(rng, len(clusters))
        interval = stats.cluster_mean(values, clusters, bounds=bounds, n=400, seed=seed)
        n_covering += interval.low <= truth <= interval.high
        assert interval.high > interval.low
    assert n_covering / N_SIMULATIONS >= 0.93 - SLACK


def test_examples_of_a_cluster_are_not_independent():
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(20), 10)
    values = rng.normal(size=20)[speakers]  # all examples of a speaker have the same value
    by_speaker = stats.cluster_mean(values, speakers)
    as_if_independent = stats.cluster_mean(values, np.arange(200))
    assert by_speaker.high - by_speaker.low > 2.5 * (as_if_independent.high - as_if_independent.low)


def test_a_sample_without_spread_has_no_interval_of_width_zero():
    bounded = stats.cluster_mean(np.ones(10), np.arange(10), bounds=(0, 1))
    np.testing.assert_allclose(bounded, stats.share_interval(10, 10), atol=1e-9)
    unbounded = stats.cluster_mean(np.ones(10), np.arange(10))
    assert (unbounded.low, unbounded.high) == (-np.inf, np.inf)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="expected 0 <= count <= n"):
        stats.share_interval(3, 2)
    with pytest.raises(ValueError, match="two arrays of the same length"):
        stats.paired_shares(np.ones(2, bool), np.ones(3, bool))
    with pytest.raises(ValueError, match="side: expected 'above' or 'below', got 'over'"):
        stats.share_power(0.5, 10, 0.5, "over")
    with pytest.raises(ValueError, match="clusters: expected two or more, got 1"):
        stats.cluster_mean(np.ones(3), [1, 1, 1])
    with pytest.raises(ValueError, match="expected one finite value"):
        stats.cluster_mean(np.array([1.0, np.nan]), [1, 2])


def test_a_test_over_clusters_returns_the_interval_of_the_mean():
    rng = np.random.default_rng(0)
    values, clusters = rng.exponential(size=40), rng.integers(12, size=40)
    for x in (values, np.ones(40)):
        mean = stats.cluster_mean(x, clusters, bounds=(0, 4), seed=3)
        assert stats.cluster_test(x, clusters, bounds=(0, 4), seed=3).interval == mean
