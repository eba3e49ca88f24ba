"""Draws one map of cells, or a spectrogram, on given axes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from jaxtyping import Float

from interventions.figures.plots import DIVERGING, escape_for_drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

Word = tuple[str, float, float]  # text, start and end in seconds
_SIGNIFICANT = 0.05  # cells with a smaller `p_any` get a dot


def new_figure(width: float, height: float) -> "Figure":
    """Returns an empty figure of `width` by `height` inches without opening a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_map(
    axes: "Axes",
    summary: xr.Dataset,
    variable: str,
    across: str,
    down: str | None,
    limit: float,
    words: Sequence[Word] = (),
) -> "QuadMesh":
    """Draws one map of cells on `axes`.

    A dot marks a cell whose corrected p-value (`p_any` of `summarize`) is below 0.05.

    Args:
        axes: matplotlib axes.
        summary: a summary, as `summarize` returns it, with at most two dimensions of cells.
        variable: the variable that gives the colours.
        across: the dimension along x.
        down: the dimension along y, or None.
        limit: the end of the colour scale, which runs from -limit to limit.
        words: words whose starts are marked by vertical lines.

    Returns:
        The mesh, from which a colour bar can be drawn.
    """
    values = summary[variable].transpose(*([down] if down else []), across)
    grid = np.atleast_2d(values.values)
    edges = _column_edges(summary, across)
    mesh = axes.pcolormesh(
        edges, np.arange(len(grid) + 1) - 0.5, grid, cmap=DIVERGING, vmin=-limit, vmax=limit
    )
    axes.invert_yaxis()
    axes.set_yticks(range(len(grid)), values[down].values if down else [""])
    axes.set_ylabel(down or "")
    if across != "time":
        _label_columns(axes, summary, across)
    if "p_any" in summary:
        p = np.atleast_2d(summary.p_any.transpose(*values.dims).values)
        rows, columns = np.nonzero(p < _SIGNIFICANT)
        centres = (edges[1:] + edges[:-1]) / 2
        style = {"color": "black", "markersize": 2.5, "linestyle": "none"}
        axes.plot(centres[columns], rows, "o", **style)
    for _, start, _ in words:
        axes.axvline(start, color="0.35", linewidth=0.5)
    axes.set_xlim(edges[0], edges[-1])
    return mesh


def _column_edges(summary: xr.Dataset, across: str) -> np.ndarray:
    """Returns the n + 1 bounds of n columns: seconds for windows of time, otherwise indices."""
    if across != "time":
        return np.arange(summary.sizes[across] + 1) - 0.5
    starts = summary["time"].values
    return np.append(starts, starts[-1] + summary.attrs["window_s"])


def _label_columns(axes: "Axes", summary: xr.Dataset, across: str) -> None:
    n = summary.sizes[across]
    if across == "position" and "token" in summary.coords and summary.token.dims == ("position",):
        texts = [escape_for_drawing(text).replace(" ", "·") for text in summary.token.values]
        axes.set_xticks(range(n), texts, rotation=60, ha="right", fontsize=7)
        return
    step = max(1, n // 16)
    axes.set_xticks(range(0, n, step), summary[across].values[::step])


def draw_spectrogram(
    axes: "Axes", mel: Float[np.ndarray, "M F"], words: Sequence[Word] = ()
) -> None:
    """Draws a mel spectrogram of 100 frames per second, with the starts and texts of `words`."""
    # In Whisper's log-mel, 1.5 is 60 dB. Bins more than 60 dB below the maximum are white.
    axes.imshow(
        mel,
        origin="lower",
        aspect="auto",
        cmap="Greys",
        extent=(0, mel.shape[1] / 100, 0, len(mel)),
        vmin=mel.max() - 1.5,
    )
    axes.set(yticks=[], ylabel="mel")
    slant = 45 if len(words) > 12 else 0  # degrees; many horizontal words would overlap
    for text, start, end in words:
        axes.axvline(start, color="0.35", linewidth=0.5)
        axes.text(
            (start + end) / 2,
            len(mel) * 1.04,  # just above the spectrogram
            escape_for_drawing(text.strip()),
            ha="center",
            fontsize=6.5,
            rotation=slant,
        )
