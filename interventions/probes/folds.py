"""Folds by scikit-learn's splitters, as masks: a fold never copies an activation."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from interventions.stats.categories import categories

Splits = Sequence[tuple[Any, Any]]


def masks(
    strata: np.ndarray,
    groups: Any,
    folds: int | Splits,
    seeds: Sequence[int],
    names: Sequence[Any] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Training and test rows, bool [seeds, folds, N]. `strata` int [seeds, N] are kept in proportion, `groups` never straddle.

    `folds` may also be pairs of train and test indices, the same for every seed. `names`: of the strata, for messages.
    Raises ValueError when a stratum has fewer rows than there are folds, or its groups cannot be spread over them.
    """
    n = strata.shape[1]
    if not isinstance(folds, int | np.integer):
        pairs = [[_mask(indices, n, i) for indices in pair] for i, pair in enumerate(folds)]
        if groups is not None:
            _check_apart(categories(groups, n, "groups"), pairs)
        both = np.broadcast_to(np.array(pairs)[None], (len(seeds), len(pairs), 2, n))
        return both[:, :, 0], both[:, :, 1]
    if not 2 <= folds <= n:
        raise ValueError(
            f"folds: expected 2 to {n} (the rows), or pairs of train and test indices, got {folds}."
        )
    groups = None if groups is None else _groups(groups, n, int(folds))
    test = np.stack(
        [_one(row, groups, int(folds), seed, names) for row, seed in zip(strata, seeds)]
    )
    return ~test, test


def _check_apart(groups: np.ndarray, pairs: list[list[np.ndarray]]) -> None:
    for fold, (train, test) in enumerate(pairs):
        if (both := np.intersect1d(groups[train], groups[test])).size:
            raise ValueError(
                f"folds[{fold}]: {both.size} groups in both training and test rows, such as {both[0]!r}; split by group."
            )


def _mask(indices: Any, n: int, fold: int) -> np.ndarray:
    """The rows of one side of a fold, given by number or as a mask."""
    rows = np.asarray(indices)
    if rows.dtype == bool and rows.shape == (n,):
        rows = np.flatnonzero(rows)
    if not rows.size:
        raise ValueError(f"folds[{fold}]: expected rows to train and rows to test on, got none.")
    if rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= n:
        raise ValueError(
            f"folds[{fold}]: expected row numbers from 0 to {n - 1}, or a mask of {n} rows, got {rows}."
        )
    return np.bincount(rows, minlength=n) > 0


def _groups(groups: Any, n: int, folds: int) -> np.ndarray:
    groups = categories(groups, n, "groups")
    if (n_groups := len(np.unique(groups))) < folds:
        raise ValueError(
            f"groups: {n_groups} groups cannot be split into {folds} folds; pass folds={n_groups} or fewer, at least 2."
        )
    return groups


def _one(
    strata: np.ndarray, groups: np.ndarray | None, folds: int, seed: int, names: Sequence[Any]
) -> np.ndarray:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    values, counts = np.unique(strata, return_counts=True)
    if counts.min() < folds:
        name, fewest = _name(values[counts.argmin()], names), counts.min()
        raise ValueError(
            f"y: class {name} has {fewest} rows, {folds} folds need {folds} of each; leave it out, or pass fewer folds."
        )
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    test = np.zeros((folds, len(strata)), bool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what it warns of is checked here
        for fold, (_, rows) in enumerate(
            splitter(folds, shuffle=True, random_state=seed).split(strata, strata, groups)
        ):
            test[fold, rows] = True
    _check_each_trains(strata, values, test, names)
    return test


def _check_each_trains(
    strata: np.ndarray, values: np.ndarray, test: np.ndarray, names: Sequence[Any]
) -> None:
    for fold, rows in enumerate(test):
        missing = np.setdiff1d(values, strata[~rows])
        if missing.size or not rows.any():
            what = (
                f"class {_name(missing[0], names)} would be in none of the training rows"
                if missing.size
                else "no rows would be tested"
            )
            raise ValueError(
                f"groups: cannot be split into {len(test)} folds: in fold {fold} {what}. A class needs several groups; "
                "leave it out, pass fewer folds, or other groups."
            )


def _name(value: Any, names: Sequence[Any]) -> str:
    return (
        repr(names[int(value)].item() if hasattr(names[int(value)], "item") else names[int(value)])
        if len(names)
        else str(value)
    )
