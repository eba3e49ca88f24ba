"""How figures of studies are drawn: curves with their intervals, quiet axes, one palette."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

from interventions.stats.intervals import bootstrap
from interventions.storage.text_files import printable

INK, ACCENT, BLUE, TEAL, GREY = "#1d1f24", "#d9792b", "#265591", "#3d9bb8", "#9a9890"
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


def drawable(text: Any) -> str:
    """A text from data as matplotlib can draw it: no formula in it, and its hidden characters as escapes."""
    return printable(text).replace("$", r"\$")


def panels(
    rows: int, columns: int, *, width: float = 3.6, height: float = 3.0, **shared: Any
) -> tuple[Any, list[Any]]:
    """A figure of `rows` × `columns` axes (inches each), and the axes in reading order. Opens no window and keeps no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).ravel())
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def curve(
    axes: Any,
    x: Iterable[float],
    values: Float[np.ndarray, "example x"],
    label: str = "",
    colour: str = BLUE,
    **style: Any,
) -> None:
    """The mean over examples at every x with its 95 % bootstrap band; examples with NaN anywhere are left out."""
    import xarray as xr

    values = np.asarray(values, float)
    whole = values[np.isfinite(values).all(1)]
    if not len(whole):
        return
    x = list(x)
    axes.plot(
        x,
        whole.mean(0),
        label=label,
        color=colour,
        **{"marker": "o", "markersize": 3, "linewidth": 1.6, **style},
    )
    if len(whole) > 1:
        interval = bootstrap(xr.DataArray(whole, dims=("example", "x")), n=500, method="percentile")
        axes.fill_between(x, interval.low, interval.high, color=colour, alpha=0.15, linewidth=0)


def heat(
    axes: Any,
    grid: Float[np.ndarray, "down across"],
    title: str,
    limit: float,
    *,
    down: Iterable[Any] = (),
    across: Iterable[Any] = (),
) -> Any:
    """A map from -limit (blue) to limit (red), 0 white, NaN grey; `down` and `across` name its rows and columns. Returns the mappable."""
    grid = np.atleast_2d(grid)
    axes.set_facecolor("#d8d5cc")
    edges = (np.arange(n + 1) - 0.5 for n in reversed(grid.shape))
    image = axes.pcolormesh(*edges, grid, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9)
    for names, n, ticks in (
        (list(down), len(grid), axes.set_yticks),
        (list(across), grid.shape[1], axes.set_xticks),
    ):
        step = 1 if names and isinstance(names[0], str) else -(-n // 12)
        ticks(range(0, n, step), (names or list(range(n)))[::step])
    return image
