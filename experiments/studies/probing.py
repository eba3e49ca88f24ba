"""Fits probes of every layer, and collects their out-of-fold predictions.

A row is one recording or one word. A question is one classification task, such as "gender".
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Shaped

import interventions
from experiments.studies.study import Settings, choice
from interventions.probes import Bank, scores
from interventions.stats.categories import categories

Text = Shaped[np.ndarray, "N"]  # one string per row


@dataclasses.dataclass(frozen=True)
class ProbingSettings(Settings):
    """Settings that all probing studies share."""

    penalty: float = choice(
        10.0, "λ of λ/2 ‖W‖² on standardised features; fixed in advance, not tuned on test rows"
    )
    folds: int = choice(
        5, "instead of one 70/30 split: every row is tested once, and no group is in two folds"
    )
    splits: int = choice(3, "random assignments to folds, over which predictions are averaged")


class Untestable(ValueError):
    """Signals that the recordings cannot answer a question; the message gives the reason."""


def probe_layers(
    question: str,
    layers: Float[np.ndarray, "L+1 N D"],
    labels: Text,
    groups: Text,
    config: ProbingSettings,
    baselines: Mapping[str, Float[np.ndarray, "N F"]] | None = None,
    examples: Sequence[str] | None = None,
    blocks: Text | None = None,
) -> xr.Dataset:
    """Fits cross-validated probes of every layer and of baseline features.

    Args:
        question: name of the classification task.
        layers: activations of the embedding, then of each layer.
        labels: class of each row.
        groups: cross-validation group of each row; no group is in two folds.
        config: settings of the probes.
        baselines: other features of the same rows, by name.
        examples: name of each row; None for row numbers.
        blocks: block of each row; the control permutes labels within blocks. None for one block.

    Returns:
        A dataset with dims (example, layer), where the baselines are the first entries of `layer`.
        `correct`: share of splits whose out-of-fold prediction is right.
        `shuffled`: the same share for the control, whose labels are permuted.
        `probability`: mean predicted probability of the last class.
        The coordinate `depth` is 0 for the embedding, 1 for the top layer, and NaN for baselines.
        `question`, `label` and `group` are coordinates of the examples.

    Raises:
        Untestable: there is only one class, or a class has fewer than two groups.
    """
    labels = categories(labels, len(labels), "labels").astype(str)
    groups = categories(groups, len(labels), "groups").astype(str)
    baselines = baselines or {}
    X = _stack_features(baselines, layers)
    seeds = [config.seed + n for n in range(config.splits)]
    options = {
        "penalties": (config.penalty,),
        "folds": _n_folds(question, labels, groups, config),
        "seeds": seeds,
    }
    # Row s holds the permuted labels of the control for seeds[s].
    permuted = np.stack([_permute(labels, blocks, seed) for seed in seeds])
    try:
        bank = interventions.fit_probes(X, labels, groups, **options)
        control = interventions.fit_probes(X, permuted, groups, **options)
    except ValueError as error:
        raise Untestable(f"{question}: {error}") from error
    predictions = {
        "correct": _share_correct(bank),
        "shuffled": _share_correct(control),
        "probability": _last_class_probability(bank, X),
    }
    names = examples if examples is not None else range(len(labels))
    return xr.Dataset(
        {name: (("example", "layer"), values) for name, values in predictions.items()},
        {
            "example": [f"{question} {name}" for name in names],
            **_layer_coordinates(baselines, len(layers) - 1),
            "question": ("example", [question] * len(labels)),
            "label": ("example", labels),
            "group": ("example", groups),
        },
    )


def permuted_accuracies(
    layers: Float[np.ndarray, "L N D"], labels: Text, groups: Text, config: ProbingSettings, n: int
) -> Float[np.ndarray, "n"]:
    """Computes balanced accuracies under the null hypothesis that groups have random labels.

    Permutes the labels of whole groups, and fits probes to each permutation. Use it for more than
    two classes, whose accuracy is not distributed symmetrically around chance.

    Args:
        layers: activations of the layers whose accuracy is averaged.
        labels: class of each row. All rows of a group have the same class.
        groups: cross-validation group of each row.
        config: settings of the probes.
        n: number of permutations.

    Returns:
        One mean balanced accuracy per permutation.
    """
    rng = np.random.default_rng(config.seed)
    _, first, group_of_row = np.unique(groups, return_index=True, return_inverse=True)
    permuted = np.stack([rng.permutation(labels[first])[group_of_row] for _ in range(n)])
    bank = interventions.fit_probes(
        np.asarray(layers, np.float32),
        permuted,
        groups,
        penalties=(config.penalty,),
        folds=_n_folds("permutations", labels, groups, config),
        seeds=range(n),
    )
    return scores.balanced_accuracy(bank).mean(("layer", "penalty")).values


def _layer_coordinates(baselines: Mapping[str, Any], n_layers: int) -> dict[str, Any]:
    depths = [*[np.nan] * len(baselines), 0.0, *((i + 1) / n_layers for i in range(n_layers))]
    names = [*baselines, "embedding", *(str(i) for i in range(n_layers))]
    return {"layer": names, "depth": ("layer", depths)}


def _permute(labels: Text, blocks: Text | None, seed: int) -> Text:
    rng, permuted = np.random.default_rng(seed), labels.copy()
    blocks = np.zeros(len(labels), int) if blocks is None else blocks
    for block in np.unique(blocks):
        rows = np.flatnonzero(blocks == block)
        permuted[rows] = rng.permutation(labels[rows])
    return permuted


def _n_folds(question: str, labels: Text, groups: Text, config: ProbingSettings) -> int:
    """Limits the number of folds to the number of groups of the rarest class."""
    n_groups = {str(kind): len(set(groups[labels == kind])) for kind in dict.fromkeys(labels)}
    if len(n_groups) < 2:
        raise Untestable(f"{question}: recordings of one class only ({', '.join(n_groups)})")
    if min(n_groups.values()) < 2:
        raise Untestable(
            f"{question}: at least two speakers (or recordings, or words) per class are needed, "
            f"got {n_groups}"
        )
    # With more folds than groups of a class, a fold would have no test rows of the class.
    return min(config.folds, *n_groups.values())


def _stack_features(baselines: Mapping[str, np.ndarray], layers: np.ndarray) -> np.ndarray:
    """Pads all features with zeros to the same width and stacks them for one compiled program."""
    features = [np.asarray(x, np.float32) for x in (*baselines.values(), *layers)]
    width = max(x.shape[1] for x in features)
    return np.stack([np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in features])


def _share_correct(bank: Bank) -> np.ndarray:
    """Returns the share of splits with a right prediction, [row, layer]."""
    correct = (bank.out_of_fold == bank.y).isel(penalty=0)
    return correct.mean("seed").transpose("row", "layer").values


def _last_class_probability(bank: Bank, X: np.ndarray) -> np.ndarray:
    # There is one penalty, and classes are sorted by name.
    last = bank.out_of_fold_proba(X).isel({"penalty": 0, "class": -1}).mean("seed")
    return last.transpose("row", "layer").values


def concatenate(questions: Mapping[str, Callable[[], xr.Dataset]]) -> xr.Dataset:
    """Fits the probes of several questions and joins their rows.

    Args:
        questions: functions that call `probe_layers`, by question.

    Returns:
        The rows of all questions. `attrs["untestable"]` maps each question that raised
        `Untestable` to the reason.
    """
    datasets, reasons = [], {}
    for name, probe in questions.items():
        try:
            datasets.append(probe())
        except Untestable as reason:
            reasons[name] = str(reason)
    # All questions have the same layers and depths, so those of the first are kept.
    joined = (
        xr.concat(datasets, "example", coords="minimal", compat="override", join="override")
        if datasets
        else xr.Dataset()
    )
    return joined.assign_attrs(untestable=reasons)


def questions(arrays: xr.Dataset) -> list[str]:
    """Lists the questions with rows in `arrays`.

    Example:
        >>> questions(xr.Dataset(coords={"question": ("example", ["gender", "gender"])}))
        ['gender']
    """
    if "question" not in arrays.coords:
        return []
    return list(dict.fromkeys(map(str, arrays.question.values)))


def rows_of(arrays: xr.Dataset, question: str) -> xr.Dataset:
    """Selects the rows of one question.

    Raises:
        KeyError: the question has no rows.
    """
    rows = np.flatnonzero(arrays.question.values == question) if questions(arrays) else []
    if not len(rows):
        raise KeyError(question)
    return arrays.isel(example=rows)


def reason_untestable(arrays: xr.Dataset, question: str) -> str:
    """Returns the reason why a question has no rows."""
    reasons = arrays.attrs.get("untestable", {})
    return str(reasons.get(question, "these recordings do not allow the question"))
