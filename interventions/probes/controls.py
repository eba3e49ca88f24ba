"""What a probe's accuracy must be held against before it means anything."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from interventions.probes import folds as _folds, inputs
from interventions.probes.fit import fit_probes
from interventions.stats.categories import categories


def run(
    X: Any,
    y: Any,
    groups: Any = None,
    penalties: Sequence[float] = (1.0,),
    folds: int | _folds.Splits = 5,
    seeds: Sequence[int] = (0,),
    *,
    types: Any = None,
    baselines: Mapping[str, Any] | None = None,
    **options: Any,
) -> xr.Dataset:
    """Test accuracy of the probe and of its controls, each (..., layer, penalty, fold, seed).

    probe: as `fit_probes`. shuffled: the same with labels permuted over rows, each seed another permutation: chance.
    majority (fold, seed): always the commonest class of the training rows.
    control_task, with `types` [N] (word, digit, speaker): each type gets one random label, the same in training and test rows
        (Hewitt & Liang 2019): what the probe can learn by heart. Folds are by row for it, since a type must be on both sides, and
        for `by_row`, the probe under the same folds; selectivity is by_row - control_task.
    baselines, of `baselines` {name: [N, F]}, such as mel means or layer 0: (baseline, penalty, fold, seed).

    Raises ValueError as `fit_probes`.
    """
    shared = {"penalties": penalties, "folds": folds, "seeds": seeds, **options}
    n = inputs.sites(X, options.get("names")).shape[1]
    numbers, classes = inputs.labels(y, n, len(seeds))
    probe = fit_probes(X, y, groups, **shared)
    found = {
        "probe": probe.accuracy,
        "shuffled": _shuffled(X, numbers, groups, shared),
        "majority": _majority(probe),
    }
    if types is not None:
        found |= _control_task(X, y, numbers, categories(types, n, "types"), classes, shared)
    if baselines:
        fits = [
            fit_probes(_one_layer(values, name), y, groups, **shared).accuracy
            for name, values in baselines.items()
        ]
        named = xr.DataArray(list(baselines), dims="baseline", name="baseline")
        found["baselines"] = xr.concat([one.isel(layer=0, drop=True) for one in fits], named)
    return xr.Dataset(found)


def _shuffled(X: Any, numbers: np.ndarray, groups: Any, shared: dict[str, Any]) -> xr.DataArray:
    permuted = np.stack(
        [
            row[np.random.default_rng(seed).permutation(len(row))]
            for row, seed in zip(numbers, shared["seeds"])
        ]
    )
    return fit_probes(X, permuted, groups, **shared).accuracy


def _majority(probe: Any) -> xr.DataArray:
    test, y = probe.data.test, probe.data.y
    right = xr.concat([(y == k) for k in range(len(probe.classes))], "class")
    commonest = right.where(~test, 0).sum("row").argmax("class")
    return ((y == commonest) & test).sum("row") / test.sum("row")


def _control_task(
    X: Any,
    y: Any,
    numbers: np.ndarray,
    types: np.ndarray,
    classes: np.ndarray,
    shared: dict[str, Any],
) -> dict[str, xr.DataArray]:
    kinds, of_row = np.unique(types, return_inverse=True)
    if len(kinds) < len(classes):
        raise ValueError(
            f"types: expected at least as many as the {len(classes)} classes, got {len(kinds)}."
        )
    share = np.bincount(numbers[0], minlength=len(classes))
    random = np.stack([_random_labels(len(kinds), share, seed)[of_row] for seed in shared["seeds"]])
    by_row, control = fit_probes(X, y, **shared).accuracy, fit_probes(X, random, **shared).accuracy
    return {"by_row": by_row, "control_task": control, "selectivity": by_row - control}


def _random_labels(n: int, share: np.ndarray, seed: int) -> np.ndarray:
    """[n] class numbers, as frequent as in the task; every class at least once."""
    rng = np.random.default_rng(seed)
    drawn = np.concatenate(
        [np.arange(len(share)), rng.choice(len(share), size=n - len(share), p=share / share.sum())]
    )
    return rng.permutation(drawn)


def _one_layer(values: Any, name: str) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 2:
        raise ValueError(
            f"baselines[{name!r}]: expected [rows, features], got shape {list(values.shape)}."
        )
    return values[None]
