"""Computes balanced accuracy, areas under the ROC curve and verdicts from probe predictions.

A question is one classification task. A group is a cross-validation group, such as a speaker.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from experiments.studies.claims import Claim, Finding
from experiments.studies.evidence import Evidence, mean_evidence
from experiments.studies.probing import ProbingSettings, Text, questions, reason_untestable, rows_of
from experiments.studies.study import layers_in_band
from interventions.stats.groups import group_scores, inflate_variance
from interventions.stats.roc import auroc_interval

# Variables of `probe_layers`, by the names of their curves in the results.
_CURVES = {"accuracy": "correct", "shuffled": "shuffled"}


def judge_question(
    claim: Claim,
    arrays: xr.Dataset,
    question: str,
    statistic: Callable[[xr.Dataset], np.ndarray | Evidence],
    config: ProbingSettings,
    *,
    bounds: tuple[float, float] = (-1.0, 1.0),
    floor: str = "",
) -> Finding:
    """Judges a claim by a statistic of the rows of one question.

    Args:
        claim: the claim.
        arrays: from `experiments.studies.probing.concatenate`.
        question: the question.
        statistic: function of the question's rows that returns one number per group, or evidence.
        config: has the seed of the bootstrap.
        bounds: smallest and largest possible number per group.
        floor: name of the baseline, an entry of `layer`, whose accuracy is the claim's floor.

    Returns:
        The finding; not testable if the question has no rows.
    """
    if question not in questions(arrays):
        return claim.judge(None, reason_untestable(arrays, question))
    rows = rows_of(arrays, question)
    result = statistic(rows)
    if not isinstance(result, Evidence):
        result = group_evidence(result, claim.null, bounds, config.seed)
    if floor:
        result = dataclasses.replace(result, floor=float(accuracy(rows, floor).mean()))
    return claim.judge(result)


def judge_groups(
    claim: Claim,
    values: Float[np.ndarray, "G"],
    config: ProbingSettings,
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> Finding:
    """Judges a claim by the mean of one number per group; see `group_evidence`."""
    return claim.judge(group_evidence(values, claim.null, bounds, config.seed))


def group_evidence(
    values: Float[np.ndarray, "G"], null: float, bounds: tuple[float, float], seed: int
) -> Evidence:
    """Estimates the mean of one number per group, with a widened interval.

    Args:
        values: one number per group.
        null: the mean under the null hypothesis.
        bounds: smallest and largest possible mean.
        seed: seed of the bootstrap.

    Returns:
        The evidence. See `inflate_variance` for the width of the interval.
    """
    return mean_evidence(inflate_variance(values), null=null, bounds=bounds, seed=seed)


def _limit_to_unit_range(evidence: Evidence) -> Evidence:
    low, high = float(max(evidence.low, -1.0)), float(min(evidence.high, 1.0))
    return dataclasses.replace(evidence, low=low, high=high)


def layers_between(rows: xr.Dataset, low: float, high: float) -> list[str]:
    """Lists the layers at relative depths from `low` to `high`, by `study.layers_in_band`.

    Baselines and the embedding are excluded.
    """
    is_layer = rows.depth.values > 0  # false for the embedding (0) and for baselines (NaN)
    names, depths = rows.layer.values[is_layer], rows.depth.values[is_layer]
    return [str(name) for name in names[layers_in_band(depths, low, high)]]


def accuracy(
    rows: xr.Dataset, layers: str | Iterable[str], variable: str = "correct"
) -> Float[np.ndarray, "G"]:
    """Computes one number per group, so that their mean is the balanced accuracy over all rows.

    A bootstrap can then resample whole groups, although groups differ in their numbers of rows.

    Args:
        rows: rows of one question.
        layers: name of one layer, or names of several to average over.
        variable: "correct", or "shuffled" for the control.

    Returns:
        One number per group.
    """
    names = [layers] if isinstance(layers, str) else list(layers)
    correct = rows[variable].sel(layer=names).mean("layer").values
    # The weights make all classes count equally, however many rows they have.
    return group_scores(correct * _class_weights(rows.label.values), rows.group.values)


def _class_weights(labels: Text) -> np.ndarray:
    """Returns a weight per row, with mean 1. The weights of every class have the same sum."""
    classes, class_of_row, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return len(labels) / (len(classes) * counts[class_of_row])


def probe_auroc(
    rows: xr.Dataset, layers: list[str], seed: int, against: np.ndarray | None = None
) -> Evidence:
    """Computes the area under the ROC curve of the probes' probability of the last class.

    Args:
        rows: rows of one question.
        layers: names of the layers whose probabilities are averaged.
        seed: seed of the bootstrap.
        against: other scores of the same rows, whose area is subtracted; None to subtract nothing.

    Returns:
        The area or the difference of areas. Its interval is widened as in `inflate_variance`.
    """
    probability = rows.probability.sel(layer=layers).mean("layer").values
    area = score_auroc(rows, probability, seed, against)
    # The ends move away from the value by √2, as the deviations in `inflate_variance` do.
    low, high = (area.value + np.sqrt(2) * (end - area.value) for end in (area.low, area.high))
    return _limit_to_unit_range(dataclasses.replace(area, low=low, high=high))


def score_auroc(
    rows: xr.Dataset, scores: Float[np.ndarray, "N"], seed: int, against: np.ndarray | None = None
) -> Evidence:
    """Computes the area under the ROC curve of scores, with an interval that is not widened.

    Use it for scores that no probe was fitted for, such as log-probabilities.

    Args:
        rows: rows of one question.
        scores: one score per row. Larger scores stand for the class whose name sorts last.
        seed: seed of the bootstrap.
        against: other scores of the same rows, whose area is subtracted; None to subtract nothing.

    Returns:
        The area or the difference of areas, with its 95 % interval.
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


def summarize_probes(arrays: xr.Dataset) -> dict[str, Any]:
    """Returns counts and accuracy by layer per question, and why other questions are untestable."""
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
