"""Draws the figures of study E8, which are curves over the decoder layers."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.studies.candidate_similarity import TOKEN_OFFSETS
from interventions.figures import plots


def selection_figure(arrays: xr.Dataset, top_k: int) -> Figure:
    """Draws four panels: probability, similarity in sound and in meaning, and later tokens.

    Args:
        arrays: results of E8's `run`.
        top_k: number of candidates per layer.
    """
    figure, axes = plots.panels(2, 2, width=4.6)
    _draw_probability(axes[0], arrays)
    _draw_similarity(axes[1], arrays, "sound", "phoneme error rate to the final token")
    _draw_similarity(axes[2], arrays, "meaning", "cosine to the final token")
    _draw_look_ahead(axes[3], arrays, f"among the top {top_k}")
    for panel in axes:
        panel.set_xlabel("depth (share of decoder layers)")
        if panel.lines:  # without espeak-ng, the panel of sounds is empty
            panel.legend(frameon=False, fontsize=8)
    return figure


def language_figure(arrays: xr.Dataset) -> Figure:
    """Draws the probability of the final token by layer, with a curve per language."""
    figure, (axes,) = plots.panels(1, 1, width=6, height=3.6)
    for number, code in enumerate(dict.fromkeys(arrays.language.values)):
        rows = arrays.isel(example=np.flatnonzero(arrays.language.values == code))
        colour = plots.COLOURS[number % len(plots.COLOURS)]
        label, style = f"{code} (n {rows.sizes['example']})", {"markersize": 3, "color": colour}
        axes.plot(rows.depth, rows.prob.mean("example"), "o-", label=label, **style)
        axes.axvline(float(rows.saturation.mean()), color=colour, linestyle="--", linewidth=0.8)
    title = "probability of the final token; dashed: mean saturation layer"
    axes.set(title=title, xlabel="depth (share of decoder layers)")
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return figure


def _draw_probability(axes: Axes, arrays: xr.Dataset) -> None:
    plots.draw_curve(axes, arrays.depth.values, arrays.prob.values, "final token")
    depth, label = float(arrays.saturation.mean()), "mean saturation layer"
    axes.axvline(depth, label=label, color=plots.ACCENT, linestyle="--")
    axes.set_title("probability")


def _draw_similarity(axes: Axes, arrays: xr.Dataset, name: str, title: str) -> None:
    for variable, label, colour, style in (
        (name, "all candidates", plots.TEAL, "-"),
        (f"{name}_others", "other candidates", plots.BLUE, "-"),
        (f"{name}_others_null", "null: to another token", plots.GREY, ":"),
    ):
        values = arrays[variable].values
        plots.draw_curve(axes, arrays.depth.values, values, label, colour, linestyle=style)
    axes.set_title(title)


def _draw_look_ahead(axes: Axes, arrays: xr.Dataset, title: str) -> None:
    depth, labels = arrays.depth.values, ("this token", "the next", "the one after")
    for offset, label, colour in zip(TOKEN_OFFSETS, labels, plots.COLOURS):
        plots.draw_curve(axes, depth, arrays.hit.sel(offset=offset).values, label, colour)
    label, null = "null: tokens further away", arrays.hit_null.values
    plots.draw_curve(axes, depth, null, label, plots.GREY, linestyle=":")
    axes.set_title(title)
