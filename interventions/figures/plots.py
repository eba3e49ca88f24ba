"""Draws heat maps, and curves with intervals, in the colours that all figures share."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interventions.stats.intervals import bootstrap
from interventions.storage.text_files import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

# Colours as hexadecimal RGB.
INK, ACCENT, BLUE, TEAL, GREY = "#1d1f24", "#d9792b", "#265591", "#3d9bb8", "#9a9890"
# Colours of curves, in this order.
COLOURS = (
    BLUE,
    ACCENT,
    TEAL,
    "#7a4f9a",
    "#5d8a3a",
    "#b0486a",
    "#8a6d3b",
    "#4a4e57",
    "#c2a83e",
    "#6fa8a0",
)
DIVERGING = "RdBu_r"  # matplotlib's colour map from blue over white at 0 to red
_NAN_COLOUR = "#d8d5cc"


def escape_for_drawing(text: object) -> str:
    """Escapes a text from data so that matplotlib draws it literally.

    Escapes hidden characters and `$`, because `$` would start a formula.

    Example:
        >>> print(escape_for_drawing("5 $"))
        5 \\$
    """
    return printable(text).replace("$", r"\$")


def panels(
    rows: int, columns: int, *, width: float = 3.6, height: float = 3.0, **options: Any
) -> tuple["Figure", list["Axes"]]:
    """Creates a figure of `rows` × `columns` axes without opening a window.

    Args:
        rows: the number of rows.
        columns: the number of columns.
        width: the width of one panel in inches.
        height: the height of one panel in inches.
        options: those of `Figure.subplots`, such as `sharey=True`.

    Returns:
        The figure, and its axes row by row.

    Example:
        >>> figure, (left, right) = panels(1, 2, sharey=True)
        >>> figure.get_size_inches().tolist()
        [7.2, 3.0]
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    all_axes = list(figure.subplots(rows, columns, squeeze=False, **options).ravel())
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, all_axes


def legend_outside(figure: "Figure", axes: "Axes") -> "Legend":
    """Draws the legend of `axes` at the right of the figure, where it covers no curve.

    Args:
        figure: a figure with constrained layout, as `panels` returns it.
        axes: the axes whose labelled curves the legend lists.

    Returns:
        The legend.

    Example:
        >>> figure, (axes,) = panels(1, 1)
        >>> draw_curve(axes, range(2), [[0.0, 1.0]], "probe")
        >>> [text.get_text() for text in legend_outside(figure, axes).get_texts()]
        ['probe']
    """
    handles, labels = axes.get_legend_handles_labels()
    return figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)


def draw_curve(
    axes: "Axes",
    x: Iterable[float],
    values: Float[np.ndarray, "example x"],
    label: str = "",
    colour: str = BLUE,
    **style: Any,
) -> None:
    """Draws the mean over examples at every x, with its 95 % bootstrap band.

    Args:
        axes: matplotlib axes.
        x: the x coordinate of each column of `values`.
        values: one row per example. Rows with a NaN are left out. If no row remains, nothing is
            drawn.
        label: the curve's entry in the legend.
        colour: the colour of curve and band.
        style: options of `Axes.plot`.

    Example:
        >>> figure, (axes,) = panels(1, 1)
        >>> draw_curve(axes, range(3), [[0.0, 1.0, 2.0], [0.5, 1.0, 2.5]], "two examples")
        >>> axes.lines[0].get_ydata().tolist()
        [0.25, 1.0, 2.25]
    """
    import xarray as xr

    values = np.asarray(values, float)
    finite_rows = values[np.isfinite(values).all(1)]
    if not len(finite_rows):
        return
    x = list(x)
    style = {"marker": "o", "markersize": 3, "linewidth": 1.6, **style}
    axes.plot(x, finite_rows.mean(0), label=label, color=colour, **style)
    if len(finite_rows) > 1:
        examples = xr.DataArray(finite_rows, dims=("example", "x"))
        interval = bootstrap(examples, n=500, method="percentile")
        axes.fill_between(x, interval.low, interval.high, color=colour, alpha=0.15, linewidth=0)


def draw_heat_map(
    axes: "Axes",
    grid: Float[np.ndarray, "down across"],
    title: str,
    limit: float,
    *,
    down: Iterable[Any] = (),
    across: Iterable[Any] = (),
) -> "QuadMesh":
    """Draws a map of values; NaN is grey.

    Args:
        axes: matplotlib axes.
        grid: the values; the first row is drawn at the top.
        title: the title of the axes.
        limit: the end of the colour scale: -limit is blue, 0 is white and limit is red.
        down: names of the rows; by default their indices.
        across: names of the columns; by default their indices.

    Returns:
        The mesh, from which a colour bar can be drawn.

    Example:
        >>> figure, (axes,) = panels(1, 1)
        >>> mesh = draw_heat_map(axes, [[0.5, -1.0]], "change", limit=1.0, down=["layer 0"])
        >>> mesh.get_clim()
        (-1.0, 1.0)
    """
    grid = np.atleast_2d(grid)
    axes.set_facecolor(_NAN_COLOUR)
    edges = (np.arange(n + 1) - 0.5 for n in reversed(grid.shape))
    mesh = axes.pcolormesh(*edges, grid, cmap=DIVERGING, vmin=-limit, vmax=limit)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9)
    for names, n, set_ticks in (
        (list(down), len(grid), axes.set_yticks),
        (list(across), grid.shape[1], axes.set_xticks),
    ):
        # Draws every tick with a text, but at most 12 ticks with numbers. `-(-n // 12)` rounds up.
        step = 1 if names and isinstance(names[0], str) else -(-n // 12)
        set_ticks(range(0, n, step), (names or list(range(n)))[::step])
    return mesh
