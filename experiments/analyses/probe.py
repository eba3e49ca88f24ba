"""Fits probes of every layer with their controls, and makes a table and a figure of them."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas
import xarray as xr

from experiments.analyses.probe_question import FRAME_VALUES, ProbeQuestion
from experiments.analyses.probe_rows import ProbeRows, as_target, label_column, select_rows
from experiments.data.corpora import Corpus
from experiments.data.frame_labels import TIERS
from experiments.store import pools
from interventions import Bank, fit_probes
from interventions.figures.plots import ACCENT, BLUE, GREY, TEAL, escape_for_drawing, panels
from interventions.probes import controls, folds, inputs, scores
from interventions.stats.intervals import bootstrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CONTROLS = ("shuffled", "majority", "by_row", "control_task", "selectivity")
# name of a control in the table: colour and style of its line
_LINES = {
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
        controls: their controls (`interventions.probes.controls.fit_controls`).
        table: scores and controls, one row per layer and penalty.
    """

    bank: Bank
    controls: xr.Dataset
    table: pandas.DataFrame


def check(corpus: Corpus, question: ProbeQuestion) -> None:
    """Checks, without any activation, that the corpus can answer the question.

    Raises:
        ValueError: for a column that is not there, labels that are not numbers though they must
            be, one class, groups that cannot be split into folds, or recordings that are not there.
    """
    pools.check_sites([question.site])
    pools.parse(question.pool)
    _check_columns(corpus, question)
    utterances = corpus.utterances
    if not any(utterance.read or utterance.path.exists() for utterance in utterances):
        raise ValueError(
            f"{corpus.name}: none of its {len(corpus)} recordings is there; the first is "
            f"{str(utterances[0].path)!r}."
        )
    if question.frames:  # their labels need the recordings
        return
    column = partial(label_column, utterances)
    keep, _ = select_rows(column, question)
    y = as_target(column(question.label)[keep], question.target)
    if question.target == "class":
        numbers, classes = inputs.labels(y, len(y), len(question.seeds))
        groups = None if question.group is None else column(question.group)[keep].astype(str)
        folds.masks(numbers, groups, question.folds, question.seeds, classes)


def _check_columns(corpus: Corpus, question: ProbeQuestion) -> None:
    tiers = {tier for utterance in corpus.utterances for tier in utterance.tiers}
    columns = [*corpus.label_names(), *(name for name, tier in TIERS.items() if tier in tiers)]
    for option, name in question.columns.items():
        if name is not None and name not in (*columns, *FRAME_VALUES):
            raise ValueError(
                f"{option}: no column {name!r} with values in {corpus.name}; columns: "
                f"{', '.join(columns)}."
            )


def answer(
    rows: ProbeRows, question: ProbeQuestion, progress: Callable[[float, float], None] | None = None
) -> ProbeAnswer:
    """Fits the bank and its controls.

    Args:
        rows: activations and labels (`read_rows`).
        question: the experiment.
        progress: called with probes fitted, and probes in all.

    Raises:
        ValueError: as `interventions.fit_probes`: one class, groups that cannot be split, NaN.
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
        checks = _value_controls(rows, question)
        return ProbeAnswer(bank, checks, _table(bank.r2, _interval_over_folds(bank.r2), checks))
    checks = controls.fit_controls(
        bank, rows.X, rows.groups, folds=question.folds, types=rows.types, baselines=rows.baselines
    )
    table = _table(bank.accuracy, bank.summary(rows.groups), checks)
    balanced = scores.balanced_accuracy(bank).mean("seed").to_series()
    cells = pandas.MultiIndex.from_arrays([table["layer"], table["penalty"]])
    table["balanced"] = balanced.reindex(cells).values
    return ProbeAnswer(bank, checks, table)


def _value_controls(rows: ProbeRows, question: ProbeQuestion) -> xr.Dataset:
    """Scores permuted labels and every baseline, with probes of values."""

    def r2(X: np.ndarray, y: np.ndarray) -> xr.DataArray:
        return fit_probes(
            X,
            y,
            rows.groups,
            penalties=question.penalties,
            folds=question.folds,
            seeds=question.seeds,
            target="value",
        ).r2

    shuffled = r2(rows.X, np.random.default_rng(0).permutation(rows.y))
    fits = [r2(values[None], rows.y).isel(layer=0, drop=True) for values in rows.baselines.values()]
    names = xr.DataArray(list(rows.baselines), dims="baseline", name="baseline")
    return xr.Dataset({"shuffled": shuffled, "baselines": xr.concat(fits, names)})


def _interval_over_folds(score: xr.DataArray) -> xr.Dataset:
    """Mean and interval over folds and seeds."""
    fits = score.stack(example=("fold", "seed")).reset_index("example", drop=True)
    return bootstrap(fits, n=1000)


def _table(score: xr.DataArray, interval: xr.Dataset, checks: xr.Dataset) -> pandas.DataFrame:
    """Makes one row per layer and penalty: the score, its 95 % interval, the mean controls."""
    columns = {score.name: interval["mean"], "low": interval.low, "high": interval.high}
    columns |= {"folds_sd": score.std(("fold", "seed"))}
    for name in _CONTROLS:
        if name in checks:
            columns[name] = checks[name].mean(("fold", "seed"))
    for name in checks.baseline.values:
        baseline = checks.baselines.sel(baseline=name, drop=True)
        columns[str(name)] = baseline.mean(("fold", "seed"))
    cells = score.mean(("fold", "seed"))
    grid = {name: xr.DataArray(value).broadcast_like(cells) for name, value in columns.items()}
    return xr.Dataset(grid).to_dataframe().reset_index()


def figure(tables: dict[str, pandas.DataFrame], title: str) -> "Figure":
    """Draws scores and controls by layer, at the first penalty.

    Args:
        tables: tables of `ProbeAnswer`, one panel each, by the name of the model.
        title: above all panels.
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
