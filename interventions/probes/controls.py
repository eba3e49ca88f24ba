"""Fits controls that a probe's accuracy is compared with.

The controls measure chance, memorisation, and the accuracy of simpler features.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from interventions.probes.bank import Bank
from interventions.probes.fit import fit_probes
from interventions.probes.folds import FoldPairs
from interventions.stats.categories import categories


def fit_controls(
    bank: Bank,
    X: Any,
    groups: Any = None,
    *,
    folds: int | FoldPairs | None = None,
    types: Any = None,
    baselines: Mapping[str, Any] | None = None,
    **options: Any,
) -> xr.Dataset:
    """Fits controls with the labels, penalties and seeds of a bank.

    Args:
        bank: a bank of classes, fitted by `fit_probes` on X.
        X: the activations that the bank was fitted on.
        groups: the groups that the bank was fitted with.
        folds: the folds that the bank was fitted with. Default: their number. Required if the bank
            was fitted with pairs of training and test rows.
        types: one type per row for the control task, such as the word, digit or speaker.
        baselines: simpler features to fit, {name: [N, F]}, such as means of the mel spectrogram.
        options: further options of `fit_probes` that the bank was fitted with.

    Returns:
        A Dataset of test accuracies ([site,] layer, penalty, fold, seed):

        - `probe`: accuracy of the bank.
        - `shuffled`: accuracy for labels that each seed permutes over rows. This is chance.
        - `majority` (fold, seed): accuracy of always predicting the most frequent training class.

        With `types`, also:

        - `control_task`: accuracy for one random label per type. It measures how much the probe
          memorises. The folds ignore `groups`, so that a type occurs in training and test rows.
        - `by_row`: accuracy for the true labels, with the same folds as the control task.
        - `selectivity`: by_row - control_task.

        With `baselines`, also:

        - `baselines` (baseline, penalty, fold, seed): accuracy of each set of simpler features.

    Raises:
        ValueError: the bank predicts values, or `fit_probes` rejects the arguments.

    Example:
        ```python
        import numpy as np

        import interventions
        from interventions.probes import controls

        rng = np.random.default_rng(0)
        word = np.arange(120) % 12
        word_class = np.where(word % 2, "noun", "verb")
        X = rng.normal(size=(2, 120, 8)).astype(np.float32)
        X[1, :, 0] += 3 * (word_class == "noun")
        bank = interventions.fit_probes(X, word_class, folds=3)
        checks = controls.fit_controls(bank, X, types=word)
        checks.mean(("penalty", "fold", "seed")).selectivity
        ```

    References:
        Hewitt & Liang, "Designing and interpreting probes with control tasks" (arXiv:1909.03368).
    """
    if bank.target != "class":
        raise ValueError(
            "bank: expected a bank of classes, got a bank of values, which have no chance level."
        )
    fit_options = {
        "penalties": bank.data.penalty.values.tolist(),
        "seeds": bank.data.seed.values.tolist(),
        "folds": bank.data.sizes["fold"] if folds is None else folds,
        **options,
    }
    numbers = bank.y.transpose("seed", "row").values
    accuracies = {
        "probe": bank.accuracy,
        "shuffled": fit_probes(
            X, _permute_rows(numbers, fit_options["seeds"]), groups, **fit_options
        ).accuracy,
        "majority": _majority_accuracy(bank),
    }
    if types is not None:
        types = categories(types, numbers.shape[1], "types")
        labels = _random_labels_per_type(types, numbers, len(bank.classes), fit_options["seeds"])
        # The control task needs folds that ignore groups. Without groups, the bank has such folds.
        by_row = bank if groups is None else fit_probes(X, numbers, **fit_options)
        control = fit_probes(X, labels, **fit_options).accuracy
        accuracies |= {"by_row": by_row.accuracy, "control_task": control}
        accuracies["selectivity"] = by_row.accuracy - control
    if baselines:
        features = {name: _as_layer(values, name) for name, values in baselines.items()}
        fits = [fit_probes(layer, numbers, groups, **fit_options) for layer in features.values()]
        baseline = xr.DataArray(list(features), dims="baseline", name="baseline")
        scores = [fit.accuracy.isel(layer=0, drop=True) for fit in fits]
        accuracies["baselines"] = xr.concat(scores, baseline)
    return xr.Dataset(accuracies)


def _permute_rows(numbers: np.ndarray, seeds: list[int]) -> np.ndarray:
    """Permutes the class numbers [seeds, N] of each seed over rows."""
    rngs = [np.random.default_rng(seed) for seed in seeds]
    return np.stack([labels[rng.permutation(len(labels))] for labels, rng in zip(numbers, rngs)])


def _majority_accuracy(bank: Bank) -> xr.DataArray:
    """Returns the test accuracy (fold, seed) of predicting the most frequent training class."""
    test, y = bank.test, bank.y
    is_class = xr.concat([y == k for k in range(len(bank.classes))], "class")
    # The rows that a fold does not test are its training rows.
    most_frequent = is_class.where(~test, 0).sum("row").argmax("class")
    return ((y == most_frequent) & test).sum("row") / test.sum("row")


def _random_labels_per_type(
    types: np.ndarray, numbers: np.ndarray, n_classes: int, seeds: list[int]
) -> np.ndarray:
    """Draws one label per type and seed, in proportion to the classes: [seeds, N]."""
    names, type_of_row = np.unique(types, return_inverse=True)
    if len(names) < n_classes:
        # With fewer types, some class would have no row.
        raise ValueError(
            f"types: expected at least {n_classes} types, one per class, got {len(names)}."
        )
    counts = np.bincount(numbers[0], minlength=n_classes)
    return np.stack([_draw_labels(len(names), counts, seed)[type_of_row] for seed in seeds])


def _draw_labels(n: int, counts: np.ndarray, seed: int) -> np.ndarray:
    """Draws n class numbers in proportion to `counts`, and each class at least once."""
    rng = np.random.default_rng(seed)
    each_class = np.arange(len(counts))
    drawn = rng.choice(len(counts), size=n - len(counts), p=counts / counts.sum())
    return rng.permutation(np.concatenate([each_class, drawn]))


def _as_layer(values: Any, name: str) -> np.ndarray:
    """Adds a layer axis to baseline features [N, F]."""
    values = np.asarray(values)
    if values.ndim != 2:
        raise ValueError(
            f"baselines[{name!r}]: expected [rows, features], got shape {list(values.shape)}."
        )
    return values[None]
