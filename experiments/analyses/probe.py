"""Fits probes of every layer and their controls, and makes a table and a figure of the scores."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas
import xarray as xr

from experiments.analyses.probe_data import check_columns
from experiments.analyses.probe_question import ProbeQuestion
from experiments.analyses.probe_rows import ProbeRows, convert_labels, label_column, select_rows
from experiments.data.corpora import Corpus
from experiments.store import pools
from interventions import Bank, fit_probes
from interventions.figures.plots import ACCENT, BLUE, GREY, TEAL, escape_for_drawing, panels
from interventions.probes import controls, folds, inputs, scores
from interventions.stats.intervals import bootstrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Columns of the table, for those controls that were fitted. "by_row" is the accuracy of the probe
# with folds by row instead of by group.
_CONTROLS = ("shuffled", "majority", "by_row", "control_task", "selectivity")
_LINES = {  # by column of a control: colour and style of its line in the figure
    "majority": (GREY, ":"),
    "shuffled": (GREY, "--"),
    "mel": (TEAL, ":"),
    "embed": (TEAL, "--"),
    "control_task": (GREY, "-."),
}


@dataclasses.dataclass(frozen=True)
class ProbeAnswer:
    """A bank of probes with its controls.

    Attributes:
        bank: probes of every layer, penalty, fold and seed.
        controls: scores of the controls (`interventions.probes.controls.fit_controls`).
        table: scores and controls, one row per layer and penalty.
    """

    bank: Bank
    controls: xr.Dataset
    table: pandas.DataFrame


def check_labels(corpus: Corpus, question: ProbeQuestion) -> None:
    """Checks, before activations are computed, that probes can be fitted on the corpus.

    Raises:
        ValueError: a column is missing, no recording exists, a label is not a number although the
            target is "value", all rows have one class, or the groups cannot be split into folds.

    Example:
        ```python
        check_labels(corpus, ProbeQuestion("gender", group="speaker"))
        ```
    """
    pools.check_sites([question.site])
    pools.parse(question.pool)
    check_columns(corpus, question)
    utterances = corpus.utterances
    if not any(utterance.read or utterance.path.exists() for utterance in utterances):
        raise ValueError(
            f"{corpus.name}: expected recordings, found none of its {len(corpus)}. The first is "
            f"{str(utterances[0].path)!r}."
        )
    if question.frames:  # labels of frames are computed only when the recordings are read
        return
    column = partial(label_column, utterances)
    keep, _ = select_rows(column, question)
    y = convert_labels(column(question.label)[keep], question.target)
    if question.target == "class":
        # `number_classes` refuses a single class, and `fold_masks` groups that cannot be split.
        numbers, classes = inputs.number_classes(y, len(y), len(question.seeds))
        groups = None if question.group is None else column(question.group)[keep].astype(str)
        folds.fold_masks(numbers, groups, question.folds, question.seeds, classes)


def fit_with_controls(
    rows: ProbeRows, question: ProbeQuestion, progress: Callable[[float, float], None] | None = None
) -> ProbeAnswer:
    """Fits the bank and its controls.

    Args:
        rows: activations and labels (`read_rows`).
        question: the experiment.
        progress: called with the number of fitted probes and the number of all probes.

    Raises:
        ValueError: all rows have one class, the groups cannot be split into folds, or an activation
            is NaN.

    Example:
        ```python
        question = ProbeQuestion("gender", group="speaker")
        answer = fit_with_controls(read_rows(activations, corpus, question), question)
        ```
    """
    bank = fit_probes(
        rows.X,
        rows.y,
        rows.groups,
        penalties=question.penalties,
        folds=question.folds,
        seeds=question.seeds,
        target=question.target,
        progress=progress,
    )
    if question.target == "value":
        control_scores = _score_value_controls(rows, question)
        table = _make_table(bank.r2, _interval_over_folds(bank.r2), control_scores)
        return ProbeAnswer(bank, control_scores, table)
    control_scores = controls.fit_controls(
        bank, rows.X, rows.groups, folds=question.folds, types=rows.types, baselines=rows.baselines
    )
    table = _make_table(bank.accuracy, bank.summary(rows.groups), control_scores)
    # Order the balanced accuracies as the rows of the table.
    balanced = scores.balanced_accuracy(bank).mean("seed").to_series()
    cells = pandas.MultiIndex.from_arrays([table["layer"], table["penalty"]])
    table["balanced"] = balanced.reindex(cells).values
    return ProbeAnswer(bank, control_scores, table)


def _score_value_controls(rows: ProbeRows, question: ProbeQuestion) -> xr.Dataset:
    """Fits probes of numeric labels with shuffled labels and with each baseline. Returns scores."""

    def fit_r2(X: np.ndarray, y: np.ndarray) -> xr.DataArray:
        return fit_probes(
            X,
            y,
            rows.groups,
            penalties=question.penalties,
            folds=question.folds,
            seeds=question.seeds,
            target="value",
        ).r2

    shuffled = fit_r2(rows.X, np.random.default_rng(0).permutation(rows.y))
    # A baseline has the same features [N, F] for all layers, so it is fitted as a single layer.
    baseline_scores = [
        fit_r2(values[None], rows.y).isel(layer=0, drop=True) for values in rows.baselines.values()
    ]
    names = xr.DataArray(list(rows.baselines), dims="baseline", name="baseline")
    return xr.Dataset({"shuffled": shuffled, "baselines": xr.concat(baseline_scores, names)})


def _interval_over_folds(score: xr.DataArray) -> xr.Dataset:
    """Returns the mean of a score and its 95 % bootstrap interval over folds and seeds."""
    fold_scores = score.stack(example=("fold", "seed")).reset_index("example", drop=True)
    return bootstrap(fold_scores, n=1000)


def _make_table(
    score: xr.DataArray, interval: xr.Dataset, control_scores: xr.Dataset
) -> pandas.DataFrame:
    """Makes a table with one row per layer and penalty.

    Its columns are the score with its 95 % interval, and the mean score of each control.
    """
    columns = {score.name: interval["mean"], "low": interval.low, "high": interval.high}
    columns |= {"folds_sd": score.std(("fold", "seed"))}
    for name in _CONTROLS:
        if name in control_scores:
            columns[name] = control_scores[name].mean(("fold", "seed"))
    for name in control_scores.baseline.values:
        baseline = control_scores.baselines.sel(baseline=name, drop=True)
        columns[str(name)] = baseline.mean(("fold", "seed"))
    cells = score.mean(("fold", "seed"))
    # The score of a baseline has no layer. It is repeated in the row of every layer.
    grid = {name: xr.DataArray(value).broadcast_like(cells) for name, value in columns.items()}
    return xr.Dataset(grid).to_dataframe().reset_index()


def draw_scores(tables: dict[str, pandas.DataFrame], title: str) -> "Figure":
    """Draws scores and controls by layer, for the first penalty, with one panel per model.

    Args:
        tables: the table of a `ProbeAnswer` by the name of its model.
        title: title above all panels.

    Example:
        ```python
        figure = draw_scores({"tiny.en": answer.table}, "gender")
        ```
    """
    fig, axes = panels(1, len(tables), sharey=True)
    score = "accuracy"
    for ax, (name, table) in zip(axes, tables.items()):
        rows = table.loc[table.penalty == table.penalty.iloc[0]]
        score = "r2" if "r2" in rows else "accuracy"
        _draw_panel(ax, rows, score)
        ax.set(title=escape_for_drawing(name), xlabel="layer", xticks=list(rows.layer))
    axes[0].set_ylabel("R²" if score == "r2" else "accuracy")
    axes[-1].legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.02, 1))
    fig.suptitle(escape_for_drawing(title), fontsize=10)
    return fig


def _draw_panel(ax: "Axes", rows: pandas.DataFrame, score: str) -> None:
    ax.fill_between(rows.layer, rows.low, rows.high, color=BLUE, alpha=0.15, linewidth=0)
    ax.plot(
        rows.layer,
        rows[score],
        color=BLUE,
        marker="o",
        markersize=3,
        linewidth=1.6,
        label="probe, 95 % interval",
    )
    for control, (colour, line) in _LINES.items():
        if control in rows:
            label = control.replace("_", " ")
            ax.plot(
                rows.layer, rows[control], color=colour, linestyle=line, linewidth=1.2, label=label
            )
    best = rows.loc[rows[score].idxmax()]
    ax.plot(
        [best.layer],
        [best[score]],
        marker="o",
        markersize=6,
        markerfacecolor="none",
        color=ACCENT,
        linestyle="none",
        label="best layer",
    )
