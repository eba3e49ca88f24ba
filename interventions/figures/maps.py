"""Draws the cells of a sweep as maps, or as curves if the sweep is over strengths."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from interventions.figures.drawing import Word as Word, draw_map, draw_spectrogram, new_figure
from interventions.figures.plots import legend_outside
from interventions.stats.summary import summarize

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The dimension along an axis of a map is the first of these that the sweep has.
_ALONG_X = ("time", "position", "head", "layer")
_ALONG_Y = ("layer", "head")
_AXIS_LABELS = {
    "time": "time (s)",
    "position": "token",
    "head": "head",
    "layer": "layer",
    "alpha": "strength α",
}
_MAX_LABELLED_CURVES = 12  # more curves are drawn without a legend


def plot(
    result: xr.Dataset | xr.DataArray,
    variable: str | None = None,
    *,
    mel: Float[np.ndarray, "M F"] | None = None,
    words: Sequence[Word] = (),
    limit: float | None = None,
    label: str | None = None,
) -> "Figure":
    """Draws the cells of a sweep.

    A sweep over strengths (`alpha`) is drawn as curves with their intervals. Any other sweep is
    drawn as maps. A map has two dimensions, such as layers down and heads across. Each index of a
    further dimension has a separate map. Positions are labelled with the text of their tokens if
    the result has the coordinate `token`. A dot marks a cell whose `p_any` is below 0.05 (see
    `summarize`).

    Args:
        result: a summary from `summarize`, or the result of `sweep`, `attribution`,
            `sequence_sweep` or `generation_sweep`, which `plot` summarises.
        variable: the variable of the summary to draw. Default: "mean". For the results of
            `sequence_sweep` and `generation_sweep`, the score whose mean change is drawn, such as
            "wer" or "resolved" (whether the edit ends a repetition loop).
        mel: a spectrogram [n_mels, frames] of 100 frames per second, drawn above maps over time.
        words: text, start and end (seconds) of each word to mark in maps over time. Used only with
            `mel`.
        limit: the end of the colour scale, which is centred at 0. Default: the largest magnitude.
        label: the label of the colour bar or of the y axis.

    Returns:
        A matplotlib figure, which `save` writes to a file.

    Raises:
        ValueError: `variable` is unknown or has no value per cell.

    Example:
        >>> import numpy as np, xarray as xr
        >>> cells = xr.DataArray(np.eye(4), dims=("layer", "head"), attrs={"metric": "logit_diff"})
        >>> figure = plot(cells)
        >>> figure.axes[-1].get_ylabel()
        'change of logit_diff'
    """
    summary, variable = _summary_and_variable(result, variable)
    cell_variables = [
        str(name)
        for name, values in summary.items()
        if values.dims and "example" not in values.dims
    ]
    if variable not in cell_variables:
        raise ValueError(
            f"variable: expected one of {', '.join(cell_variables)}, got {variable!r}."
        )
    label = label or _default_label(summary, variable)
    if "alpha" in summary[variable].dims:
        return _draw_curves(summary, variable, label)
    return _draw_maps(summary, variable, label, mel, words, limit)


def _summary_and_variable(
    result: xr.Dataset | xr.DataArray, variable: str | None
) -> tuple[xr.Dataset, str]:
    """Returns the summary of a result and the name of the variable to draw."""
    if isinstance(result, xr.DataArray):
        return summarize(result), variable or "mean"
    if "mean" in result.data_vars:
        return result, variable or "mean"
    return summarize(result, variable), "mean"


def _default_label(summary: xr.Dataset, variable: str) -> str:
    metric = summary.attrs.get("metric", "metric")
    labels = {"mean": f"change of {metric}", "mean_recovery": f"recovery of {metric}"}
    return labels.get(variable, variable)


def _draw_curves(summary: xr.Dataset, variable: str, label: str) -> "Figure":
    """Draws one curve over strengths, with its interval, per cell of the other dimensions."""
    import matplotlib

    figure = new_figure(width=5.6, height=3.6)
    axes, values = figure.subplots(), summary[variable]
    others = [dim for dim in values.dims if dim != "alpha"]
    cells = list(itertools.product(*(range(values.sizes[dim]) for dim in others)))
    has_legend = len(cells) <= _MAX_LABELLED_CURVES
    for i, indices in enumerate(cells):
        cell = dict(zip(others, indices))
        colour = matplotlib.colormaps["viridis"](i / max(len(cells) - 1, 1) * 0.9)
        name = ", ".join(f"{dim} {values[dim].values[index]}" for dim, index in cell.items())
        axes.plot(
            values.alpha,
            values.isel(cell),
            color=colour,
            label=name if has_legend else None,
            marker="o",
            markersize=3,
        )
        if variable == "mean" and "low" in summary:
            low, high = summary.low.isel(cell), summary.high.isel(cell)
            axes.fill_between(values.alpha, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set(xlabel=_AXIS_LABELS["alpha"], ylabel=label, title=summary.attrs.get("site", ""))
    axes.spines[["top", "right"]].set_visible(False)
    if others and has_legend:
        legend_outside(figure, axes)
    return figure


class _Layout(NamedTuple):
    """The arrangement of a sweep's dimensions in a figure.

    Attributes:
        across: the dimension along x.
        down: the dimension along y, if there is one.
        panels: per map, the indices of the other dimensions.
        width: the width of a map in inches.
        height: the height of a map in inches.
    """

    across: str
    down: str | None
    panels: list[dict[str, int]]
    width: float
    height: float


def _layout(values: xr.DataArray) -> _Layout:
    """Chooses the axes and the sizes of the maps. All numbers are inches."""
    dims = [str(dim) for dim in values.dims]
    across = next(dim for dim in (*_ALONG_X, *dims) if dim in dims)
    down = next((dim for dim in (*_ALONG_Y, *dims) if dim in dims and dim != across), None)
    others = [dim for dim in dims if dim not in (across, down)]
    indices = itertools.product(*(range(values.sizes[dim]) for dim in others))
    column_inches = 0.3 if across == "time" else 0.42
    return _Layout(
        across,
        down,
        [dict(zip(others, cell)) for cell in indices],
        width=min(12.0, max(3.6, column_inches * values.sizes[across] + 1.2)),
        height=max(1.2, 0.26 * (values.sizes[down] if down else 1) + 0.5),
    )


def _draw_maps(
    summary: xr.Dataset,
    variable: str,
    label: str,
    mel: Float[np.ndarray, "M F"] | None,
    words: Sequence[Word],
    limit: float | None,
) -> "Figure":
    values = summary[variable]
    layout = _layout(values)
    spectrogram = mel if layout.across == "time" else None
    figure, spectrogram_axes, map_axes = _create_axes(
        layout, has_spectrogram=spectrogram is not None
    )
    if spectrogram is not None and spectrogram_axes is not None:
        draw_spectrogram(spectrogram_axes, spectrogram, words)
    else:
        words = ()
    # Maps without finite values, or of zeros only, need a scale too.
    limit = limit or float(np.nanmax(np.abs(values.values), initial=0)) or 1.0
    for axes, panel in zip(map_axes, layout.panels):
        mesh = draw_map(
            axes, summary.isel(panel), variable, layout.across, layout.down, limit, words
        )
        title = "  ".join(f"{dim} {values[dim].values[index]}" for dim, index in panel.items())
        axes.set_title(title, fontsize=9, loc="left")
    map_axes[-1].set_xlabel(_AXIS_LABELS.get(layout.across, layout.across))
    # The height of the colour bar, as a fraction of the height of all maps.
    shrink = 0.9 if len(map_axes) < 3 else 0.4
    figure.colorbar(mesh, ax=map_axes, label=label, shrink=shrink)
    if site := summary.attrs.get("site"):
        figure.suptitle(site, fontsize=10)
    return figure


def _create_axes(
    layout: _Layout, has_spectrogram: bool
) -> tuple["Figure", "Axes | None", list["Axes"]]:
    """Returns a figure, its axes for the spectrogram (if there is one) and its axes for the maps.

    All numbers are inches.
    """
    width = max(layout.width, 7.5) if has_spectrogram else layout.width  # room for the words
    margin = (1.4 if has_spectrogram else 0.5) + (0.5 if layout.across == "position" else 0)
    figure = new_figure(width + 0.9, layout.height * len(layout.panels) + margin)
    ratios = [*([1.1] if has_spectrogram else []), *[layout.height] * len(layout.panels)]
    axes = figure.subplots(
        len(ratios), 1, squeeze=False, sharex=has_spectrogram, height_ratios=ratios
    )[:, 0]
    axes = list(axes)
    return (figure, axes[0], axes[1:]) if has_spectrogram else (figure, None, axes)
