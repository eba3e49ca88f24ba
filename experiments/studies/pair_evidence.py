"""Estimates the accuracy of probes on classes of equal size, over clusters of rows."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import xarray as xr

from experiments.studies.evidence import Evidence, interval_evidence, mean_evidence
from experiments.studies.probing_analysis import inflate_variance, probe_auroc
from interventions.stats import Interval

_TAIL = 0.025  # probability on each side of a 95 % interval


def accuracy_evidence(
    rows: xr.Dataset,
    layers: Sequence[str],
    *,
    null: float = 0.0,
    minus: Sequence[str] = (),
    floors: Sequence[str] = (),
    seed: int = 0,
) -> Evidence:
    """Estimates the accuracy of probes, or by how much it exceeds that of other probes.

    Args:
        rows: rows of one question, from `experiments.studies.probing.probe_layers`. The classes
            have equally many rows.
        layers: names of layers whose accuracy is averaged.
        null: value under the null hypothesis.
        minus: names of layers or baselines whose mean accuracy is subtracted.
        floors: names of baselines. The largest of their accuracies is the floor.
        seed: seed of the bootstrap.

    Returns:
        The evidence. The clusters are the groups of the rows. The interval is widened as in
        `experiments.studies.probing_analysis.inflate_variance`. It is not empty, even if all
        predictions are right.
    """
    values = _mean_correct(rows, layers)
    if minus:
        values = values - _mean_correct(rows, minus)
    bounds = (-1.0, 1.0) if minus else (0.0, 1.0)
    evidence = mean_evidence(
        inflate_variance(values), rows.group.values, null=null, bounds=bounds, seed=seed
    )
    floor = max((float(_mean_correct(rows, [name]).mean()) for name in floors), default=None)
    return dataclasses.replace(evidence, floor=floor)


def _mean_correct(rows: xr.Dataset, layers: Sequence[str]) -> np.ndarray:
    return rows.correct.sel(layer=list(layers)).mean("layer").values


def area_evidence(
    rows: xr.Dataset,
    layers: Sequence[str],
    *,
    null: float,
    seed: int,
    against: np.ndarray | None = None,
    floor: float | None = None,
) -> Evidence:
    """Estimates an area under the ROC curve, with the p-value of `null`.

    See `experiments.studies.probing_analysis.probe_auroc` for the other arguments.
    """
    area = probe_auroc(rows, list(layers), seed, against)
    interval = Interval(area.value, area.low, area.high, area.n)
    lowest = 0.0 if against is None else -1.0
    return dataclasses.replace(interval_evidence(with_width(interval, lowest), null), floor=floor)


def with_width(interval: Interval, lowest: float = 0.0, highest: float = 1.0) -> Interval:
    """Widens an empty interval of a bootstrap, which occurs if all resamples agree.

    Args:
        interval: the interval of an estimate over groups.
        lowest: smallest possible value.
        highest: largest possible value.

    Returns:
        An interval that reaches towards both limits, by the largest share of groups that none of
        the sampled groups may show.

    Example:
        >>> round(with_width(Interval(1.0, 1.0, 1.0, n=20)).low, 2)
        0.83
    """
    value, low, high, n = interval
    if low < high:
        return interval
    share = 1 - _TAIL ** (1 / n)
    return Interval(value, value - share * (value - lowest), value + share * (highest - value), n)
