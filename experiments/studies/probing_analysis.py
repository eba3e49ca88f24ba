"""Statistics of out-of-fold predictions: balanced accuracy, AUROC and verdicts."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from experiments.studies.probing import Probing, Text, questions, reason_untestable, rows_of
from experiments.studies.study import Claim, Evidence, Finding, band, mean_evidence
from interventions.stats.groups import group_scores
from interventions.stats.roc import auroc_interval

_CURVES = {"accuracy": "correct", "shuffled": "shuffled"}


def verdict(
    claim: Claim,
    arrays: xr.Dataset,
    question: str,
    statistic: Callable[[xr.Dataset], np.ndarray | Evidence],
    config: Probing,
) -> Finding:
    """Judges a claim by a statistic of the rows of one question.

    Args:
        claim: the claim.
        arrays: from `experiments.studies.probing.concatenate`.
        question: the question.
        statistic: maps the question's rows to one number per group, or to evidence.
        config: its `seed` is that of the bootstrap.

    Returns:
        The finding; not testable if the question has no rows.
    """
    if question not in questions(arrays):
        return claim.judge(None, reason_untestable(arrays, question))
    result = statistic(rows_of(arrays, question))
    if isinstance(result, Evidence):
        return claim.judge(result)
    return judge_groups(claim, result, config)


def judge_groups(claim: Claim, values: Float[np.ndarray, "G"], config: Probing) -> Finding:
    """Judges a claim by the mean of one number per group, with a widened interval.

    Args:
        claim: the claim.
        values: one number per group, in [-1, 1].
        config: its `seed` is that of the bootstrap.

    Returns:
        The finding. See `inflate_variance` for the width of the interval.
    """
    evidence = mean_evidence(inflate_variance(values), null=claim.null, seed=config.seed)
    return claim.judge(_clip(evidence))


def inflate_variance(values: Float[np.ndarray, "G ..."]) -> Float[np.ndarray, "G ..."]:
    """Multiplies deviations from the mean by √2, because out-of-fold predictions are correlated.

    Suppose that labels cannot be predicted. Then a row is correct because it happens to resemble
    rows of its class in other folds, and by the same resemblance those rows are correct. Each pair
    of rows counts twice, which doubles the variance of the mean compared with independent rows. No
    unbiased estimate of that variance exists (Bengio and Grandvalet 2004). Where labels can be
    predicted, the factor is conservative.

    Example:
        >>> inflate_variance(np.array([-1.0, 1.0])).round(3)
        array([-1.414,  1.414])
    """
    centre = np.mean(values, 0)
    return centre + np.sqrt(2) * (values - centre)


def _clip(evidence: Evidence) -> Evidence:
    low, high = float(max(evidence.low, -1.0)), float(min(evidence.high, 1.0))
    return dataclasses.replace(evidence, low=low, high=high)


def layers_between(rows: xr.Dataset, low: float, high: float) -> list[str]:
    """Lists the layers at relative depths from `low` to `high` (see `study.band`).

    Excludes baselines and the embedding.
    """
    is_layer = rows.depth.values > 0
    names, depths = rows.layer.values[is_layer], rows.depth.values[is_layer]
    return [str(name) for name in names[band(depths, low, high)]]


def accuracy(
    rows: xr.Dataset, layers: str | Iterable[str], variable: str = "correct"
) -> Float[np.ndarray, "G"]:
    """Computes one number per group; their mean is the balanced accuracy over all rows.

    A bootstrap can therefore resample whole groups, although they differ in their numbers of rows.

    Args:
        rows: of one question.
        layers: one name or several, which are averaged.
        variable: "correct", or "shuffled" for the control.

    Returns:
        One number per group.
    """
    names = [layers] if isinstance(layers, str) else list(layers)
    correct = rows[variable].sel(layer=names).mean("layer").values
    return group_scores(correct * _class_weights(rows.label.values), rows.group.values)


def _class_weights(labels: Text) -> np.ndarray:
    """Returns weights of rows, so that all classes have the same sum; their mean is 1."""
    classes, class_of_row, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return len(labels) / (len(classes) * counts[class_of_row])


def probe_auroc(
    rows: xr.Dataset, layers: list[str], seed: int, against: np.ndarray | None = None
) -> Evidence:
    """Computes the area under the ROC curve of the probes' probability of the last class.

    Args:
        rows: of one question.
        layers: probabilities are averaged over these layers.
        seed: of the bootstrap.
        against: other scores of the same rows; their area is subtracted.

    Returns:
        The area or difference, with an interval widened as in `inflate_variance`.
    """
    probability = rows.probability.sel(layer=layers).mean("layer").values
    area = score_auroc(rows, probability, seed, against)
    low, high = (area.value + np.sqrt(2) * (end - area.value) for end in (area.low, area.high))
    return _clip(dataclasses.replace(area, low=low, high=high))


def score_auroc(
    rows: xr.Dataset, scores: Float[np.ndarray, "N"], seed: int, against: np.ndarray | None = None
) -> Evidence:
    """Computes the area under the ROC curve of scores, with an interval that is not widened.

    Use it for scores that no probe was fitted for, such as log-probabilities.

    Args:
        rows: of one question.
        scores: one per row. Larger scores stand for the class whose name sorts last.
        seed: of the bootstrap.
        against: other scores of the same rows; their area is subtracted.

    Returns:
        The area or difference, with its 95 % interval.
    """
    positive, groups = rows.label.values == max(rows.label.values), rows.group.values
    return Evidence(*auroc_interval(scores, positive, groups, against=against, seed=seed))


def accuracy_curves(rows: xr.Dataset) -> dict[str, list[float]]:
    """Computes balanced accuracy by layer, for the labels and for shuffled labels."""
    return {
        name: [
            round(float(accuracy(rows, str(layer), variable).mean()), 4)
            for layer in rows.layer.values
        ]
        for name, variable in _CURVES.items()
    }


def numbers(arrays: xr.Dataset) -> dict[str, Any]:
    """Returns rows, groups and accuracy by layer per question, and why others are untestable."""
    summary: dict[str, Any] = {"layers": arrays.layer.values.tolist()} if questions(arrays) else {}
    for question in questions(arrays):
        rows = rows_of(arrays, question)
        classes, counts = np.unique(rows.label.values, return_counts=True)
        summary[question] = {
            "rows": dict(zip(map(str, classes), counts.tolist())),
            "groups": len(set(rows.group.values)),
            **accuracy_curves(rows),
        }
    if reasons := arrays.attrs.get("untestable"):
        summary["untestable"] = reasons
    return summary
