"""Draws the balanced accuracy of probes by depth, with the control and the baselines."""

from collections.abc import Collection, Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.studies.probing import questions, rows_of
from experiments.studies.probing_analysis import accuracy, inflate_variance
from interventions.figures import plots

_BASELINE_COLOURS = (plots.TEAL, plots.ACCENT, *plots.COLOURS[3:])
# Variable, label in the legend, colour and line style.
_CURVES = (("correct", "probe", plots.BLUE, "-"), ("shuffled", "shuffled labels", plots.GREY, ":"))


def accuracy_figure(arrays: xr.Dataset, titles: Mapping[str, str]) -> dict[str, Figure]:
    """Draws a figure with one panel per question.

    Args:
        arrays: from `experiments.studies.probing.concatenate`.
        titles: titles of the panels by question. A question without rows gets no panel.

    Returns:
        `{"accuracy_by_layer": figure}`; {} if no question has rows.
    """
    panel_titles = {name: title for name, title in titles.items() if name in questions(arrays)}
    if not panel_titles:
        return {}
    # At most four panels per row. -(-a // b) rounds a / b up.
    n_rows = -(-len(panel_titles) // 4)
    n_columns = -(-len(panel_titles) // n_rows)
    figure, axes = plots.panels(n_rows, n_columns, sharey=True, sharex=True)
    for panel, (question, title) in zip(axes, panel_titles.items()):
        draw_panel(panel, rows_of(arrays, question), title)
        panel.tick_params(labelbottom=True)  # the panel below may be empty
    for unused_panel in axes[len(panel_titles) :]:
        unused_panel.set_visible(False)
    axes[0].set_ylabel("balanced accuracy")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    return {"accuracy_by_layer": figure}


def draw_panel(axes: Axes, rows: xr.Dataset, title: str) -> None:
    """Draws one question as curves over the layers, with a dashed line for each baseline."""
    is_layer = np.isfinite(rows.depth.values)  # the depth of baselines is NaN
    layers, baselines = rows.layer.values[is_layer], rows.layer.values[~is_layer]
    for variable, label, colour, style in _CURVES:
        by_layer = np.stack([accuracy(rows, str(layer), variable) for layer in layers], 1)
        depths = rows.depth.values[is_layer]
        plots.draw_curve(axes, depths, inflate_variance(by_layer), label, colour, linestyle=style)
    for baseline, colour in zip(baselines, _BASELINE_COLOURS):
        level, line = accuracy(rows, str(baseline)).mean(), {"linestyle": "--", "linewidth": 1}
        axes.axhline(level, color=colour, label=str(baseline), **line)
    n_rows, n_groups = rows.sizes["example"], len(set(rows.group.values))
    axes.set_title(f"{title}\n{n_rows} rows, {n_groups} groups", fontsize=9)
    axes.set_xlabel("depth (0: embedding)")


def area_figure(
    areas: Mapping[str, Mapping[str, list[float]]],
    titles: Mapping[str, str],
    reported: Collection[str],
) -> Figure:
    """Draws areas under the ROC curve with their intervals, one panel per question.

    Args:
        areas: area, lower and upper end, by question and by layer or reported number.
        titles: titles of the panels by question.
        reported: names of the numbers that a model reports; other names are layers and baselines.
    """
    figure, axes = plots.panels(1, len(areas), width=4.4, height=3.4, sharey=True)
    for panel, (question, intervals) in zip(axes, areas.items()):
        _draw_intervals(panel, intervals, reported)
        panel.set(title=titles[question], xlabel="area under the ROC curve")
    return figure


def _draw_intervals(
    axes: Axes, intervals: Mapping[str, list[float]], reported: Collection[str]
) -> None:
    names = [name for name in intervals if name != "embedding"][::-1]
    value, low, high = np.array([intervals[name] for name in names]).T
    others = [plots.BLUE if name.isdigit() else plots.GREY for name in names]
    colours = [plots.ACCENT if name in reported else other for name, other in zip(names, others)]
    axes.hlines(range(len(names)), low, high, color=colours)
    axes.scatter(value, range(len(names)), color=colours, s=18, zorder=3)
    axes.axvline(0.5, color=plots.GREY, linestyle=":", linewidth=1)
    axes.set_yticks(range(len(names)), [f"layer {n}" if n.isdigit() else n for n in names])
