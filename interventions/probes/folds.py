"""Splits rows into folds with scikit-learn, and returns masks of rows.

Masks need no copy of the activations per fold.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from interventions.stats.categories import categories

# The training rows and the test rows of every fold, as row numbers or as masks.
FoldPairs = Sequence[tuple[Any, Any]]


def fold_masks(
    strata: np.ndarray,
    groups: Any,
    folds: int | FoldPairs,
    seeds: Sequence[int],
    class_names: Sequence[Any] | np.ndarray = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows into folds.

    Args:
        strata: int [seeds, N], class of each row. Every fold keeps the proportions of the classes.
        groups: one group per row, or None. A fold never has rows of the same group in both
            training and test rows.
        folds: number of folds, or pairs of training and test rows that all seeds use.
        seeds: seeds of the random assignment of rows to folds.
        class_names: names of the classes in error messages.

    Returns:
        Masks of training rows and of test rows, each bool [seeds, folds, N].

    Raises:
        ValueError: a class has fewer rows than there are folds, or groups cannot be split.
    """
    n = strata.shape[1]
    if not isinstance(folds, int | np.integer):
        return _masks_of_pairs(folds, groups, n, len(seeds))
    if not 2 <= folds <= n:
        raise ValueError(
            f"folds: expected a number from 2 to {n} (the number of rows), "
            f"or pairs of training and test rows, got {folds}."
        )
    groups = None if groups is None else _checked_groups(groups, n, int(folds))
    test = np.stack(
        [
            _test_masks(strata_of_seed, groups, int(folds), seed, class_names)
            for strata_of_seed, seed in zip(strata, seeds)
        ]
    )
    return ~test, test


def _masks_of_pairs(
    folds: FoldPairs, groups: Any, n: int, n_seeds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the masks of `fold_masks` for given pairs of training and test rows."""
    pairs = [[_row_mask(indices, n, i) for indices in pair] for i, pair in enumerate(folds)]
    if groups is not None:
        _check_groups_are_separate(categories(groups, n, "groups"), pairs)
    # [seeds, folds, 2, N]: the third axis is training rows, then test rows.
    masks = np.broadcast_to(np.array(pairs)[None], (n_seeds, len(pairs), 2, n))
    return masks[:, :, 0], masks[:, :, 1]


def _check_groups_are_separate(groups: np.ndarray, pairs: list[list[np.ndarray]]) -> None:
    """Raises ValueError if a fold has a group in both its training and its test rows."""
    for fold, (train, test) in enumerate(pairs):
        if (in_both := np.intersect1d(groups[train], groups[test])).size:
            raise ValueError(
                f"folds[{fold}]: expected each group in training or in test rows, got "
                f"{in_both.size} in both, such as {in_both[0]!r}. Split by group."
            )


def _row_mask(indices: Any, n: int, fold: int) -> np.ndarray:
    """Makes a mask [N] of the training or test rows of a fold, given as row numbers or a mask."""
    rows = np.asarray(indices)
    if rows.dtype == bool and rows.shape == (n,):
        rows = np.flatnonzero(rows)
    if not rows.size:
        raise ValueError(f"folds[{fold}]: expected training rows and test rows, got none.")
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
            f"groups: {n_groups} groups cannot be split into {folds} folds. "
            f"Pass folds={n_groups} or fewer, at least 2."
        )
    return groups


def _test_masks(
    strata: np.ndarray,
    groups: np.ndarray | None,
    folds: int,
    seed: int,
    class_names: Sequence[Any] | np.ndarray,
) -> np.ndarray:
    """Returns the mask of the test rows of every fold, bool [folds, N], for one seed."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    classes, counts = np.unique(strata, return_counts=True)
    if counts.min() < folds:
        name = _class_name(classes[counts.argmin()], class_names)
        raise ValueError(
            f"y: expected at least {folds} rows per class for {folds} folds, got {counts.min()} "
            f"of class {name}. Leave the class out, or pass fewer folds."
        )
    # StratifiedGroupKFold keeps groups together first, and proportions of classes only roughly.
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    test = np.zeros((folds, len(strata)), bool)
    with warnings.catch_warnings():
        # scikit-learn only warns if a class is missing from a fold. The check below raises.
        warnings.simplefilter("ignore", UserWarning)
        splits = splitter(folds, shuffle=True, random_state=seed).split(strata, strata, groups)
        for fold, (_, rows) in enumerate(splits):
            test[fold, rows] = True
    _check_classes_are_trained(strata, classes, test, class_names)
    return test


def _check_classes_are_trained(
    strata: np.ndarray,
    classes: np.ndarray,
    test: np.ndarray,
    class_names: Sequence[Any] | np.ndarray,
) -> None:
    """Raises ValueError if a fold has no test rows, or no training rows of some class."""
    for fold, rows in enumerate(test):
        missing = np.setdiff1d(classes, strata[~rows])
        if not missing.size and rows.any():
            continue
        problem = "no rows would be tested"
        if missing.size:
            name = _class_name(missing[0], class_names)
            problem = f"class {name} would be in none of the training rows"
        raise ValueError(
            f"groups: cannot be split into {len(test)} folds, because in fold {fold} {problem}. "
            "Each class needs rows of several groups. Leave the class out, or pass fewer folds."
        )


def _class_name(number: Any, class_names: Sequence[Any] | np.ndarray) -> str:
    """Formats the name of a class; its number if classes have no names."""
    if not len(class_names):
        return str(number)
    name = class_names[int(number)]
    return repr(name.item() if hasattr(name, "item") else name)
