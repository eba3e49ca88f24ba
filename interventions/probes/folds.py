"""Folds by scikit-learn's splitters, as masks, so that a fold never copies an activation."""

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
    names: Sequence[Any] | np.ndarray = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows into folds.

    Args:
        strata: int [seeds, N], classes whose proportions every fold keeps.
        groups: one group per row, which is never in both training and test rows; or None.
        folds: number of folds, or pairs of training and test rows, the same for every seed.
        seeds: seeds of the shuffling.
        names: of the strata, for messages.

    Returns:
        Training and test rows, bool [seeds, folds, N].

    Raises:
        ValueError: a stratum has fewer rows than there are folds, or its groups cannot be split.
    """
    n = strata.shape[1]
    if not isinstance(folds, int | np.integer):
        return _given_masks(folds, groups, n, len(seeds))
    if not 2 <= folds <= n:
        raise ValueError(
            f"folds: expected 2 to {n} (the rows), or pairs of train and test indices, got {folds}."
        )
    groups = None if groups is None else _checked_groups(groups, n, int(folds))
    test = np.stack(
        [_test_masks(row, groups, int(folds), seed, names) for row, seed in zip(strata, seeds)]
    )
    return ~test, test


def _given_masks(folds: Splits, groups: Any, n: int, n_seeds: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = [[_mask(indices, n, i) for indices in pair] for i, pair in enumerate(folds)]
    if groups is not None:
        _check_groups_are_separate(categories(groups, n, "groups"), pairs)
    both = np.broadcast_to(np.array(pairs)[None], (n_seeds, len(pairs), 2, n))
    return both[:, :, 0], both[:, :, 1]


def _check_groups_are_separate(groups: np.ndarray, pairs: list[list[np.ndarray]]) -> None:
    for fold, (train, test) in enumerate(pairs):
        if (both := np.intersect1d(groups[train], groups[test])).size:
            raise ValueError(
                f"folds[{fold}]: {both.size} groups in both training and test rows, "
                f"such as {both[0]!r}; split by group."
            )


def _mask(indices: Any, n: int, fold: int) -> np.ndarray:
    """Returns the rows of one side of a fold, given as numbers or as a mask, as bool [N]."""
    rows = np.asarray(indices)
    if rows.dtype == bool and rows.shape == (n,):
        rows = np.flatnonzero(rows)
    if not rows.size:
        raise ValueError(f"folds[{fold}]: expected rows to train and rows to test on, got none.")
    if rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= n:
        raise ValueError(
            f"folds[{fold}]: expected row numbers from 0 to {n - 1}, or a mask of {n} rows, "
            f"got {rows}."
        )
    return np.bincount(rows, minlength=n) > 0


def _checked_groups(groups: Any, n: int, folds: int) -> np.ndarray:
    groups = categories(groups, n, "groups")
    if (n_groups := len(np.unique(groups))) < folds:
        raise ValueError(
            f"groups: {n_groups} groups cannot be split into {folds} folds; "
            f"pass folds={n_groups} or fewer, at least 2."
        )
    return groups


def _test_masks(
    strata: np.ndarray,
    groups: np.ndarray | None,
    folds: int,
    seed: int,
    names: Sequence[Any] | np.ndarray,
) -> np.ndarray:
    """Returns the test rows of every fold for one seed, bool [folds, N]."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    values, counts = np.unique(strata, return_counts=True)
    if counts.min() < folds:
        name = _name(values[counts.argmin()], names)
        raise ValueError(
            f"y: class {name} has {counts.min()} rows, {folds} folds need {folds} of each; "
            "leave it out, or pass fewer folds."
        )
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    test = np.zeros((folds, len(strata)), bool)
    with warnings.catch_warnings():
        # scikit-learn warns where a class is missing from a fold; `_check_trained` raises.
        warnings.simplefilter("ignore", UserWarning)
        splits = splitter(folds, shuffle=True, random_state=seed).split(strata, strata, groups)
        for fold, (_, rows) in enumerate(splits):
            test[fold, rows] = True
    _check_trained(strata, values, test, names)
    return test


def _check_trained(
    strata: np.ndarray, values: np.ndarray, test: np.ndarray, names: Sequence[Any] | np.ndarray
) -> None:
    """Raises ValueError if a fold has no test rows, or no training rows of some class."""
    for fold, rows in enumerate(test):
        missing = np.setdiff1d(values, strata[~rows])
        if not missing.size and rows.any():
            continue
        fault = "no rows would be tested"
        if missing.size:
            fault = f"class {_name(missing[0], names)} would be in none of the training rows"
        raise ValueError(
            f"groups: cannot be split into {len(test)} folds: in fold {fold} {fault}. "
            "A class needs several groups; leave it out, pass fewer folds, or other groups."
        )


def _name(value: Any, names: Sequence[Any] | np.ndarray) -> str:
    if not len(names):
        return str(value)
    name = names[int(value)]
    return repr(name.item() if hasattr(name, "item") else name)
