"""Pictures of a grid of cells, as a paper would print them: maps, maps over the spectrogram, dose curves. Work without a display."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from interventions.figures.plots import drawable
from interventions.stats.summary import summarize

COLOURS = "RdBu_r"  # diverging, white at 0
_ACROSS = ("time", "position", "head", "layer")  # which dimension runs along x, the first there is
_NAMES = {
    "time": "time (s)",
    "position": "token",
    "head": "head",
    "layer": "layer",
    "alpha": "strength α",
}
_SURPRISING = 0.05
Word = tuple[str, float, float]  # text, start and end in seconds


FORMATS = ("png", "svg", "pdf")


def plot(
    result: xr.Dataset | xr.DataArray,
    variable: str | None = None,
    *,
    mel: Float[np.ndarray, "M F"] | None = None,
    words: Sequence[Word] = (),
    limit: float | None = None,
    label: str | None = None,
) -> Any:
    """Draws the cells of a sweep, as `interventions.sweep`, `sequence_sweep` or `summarize` gives them.

    What is not summarised yet is summarised first, a Dataset of texts with its `variable` ("wer", "resolved", ...). Of a summary
    `variable` names what is drawn, by default the "mean" change.

    Strengths become curves with their interval. Otherwise maps, one for each index of what is more than two dimensions: layers down, then
    heads, tokens (their text, if known) or seconds across; over the spectrogram `mel` (100 frames a second) with the bounds of
    `words`, where there is time. The colour is centred at 0, `limit` its end (default the largest value); a dot marks cells below 0.05
    against the best of all cells (`p_any`).

    Returns a matplotlib Figure. Raises ValueError for a variable that has no cells.
    """
    summary, variable = _summarised(result, variable)
    if variable not in summary or "example" in summary[variable].dims or not summary[variable].dims:
        cells = [
            name for name, values in summary.items() if values.dims and "example" not in values.dims
        ]
        raise ValueError(
            f"variable: expected one of {', '.join(map(str, cells))}, got {variable!r}."
        )
    label = label or _label(summary, variable)
    if "alpha" in summary[variable].dims:
        return _curves(summary, variable, label)
    return _maps(summary, variable, label, mel, words, limit)


def _summarised(result: xr.Dataset | xr.DataArray, variable: str | None) -> tuple[xr.Dataset, str]:
    """A summary, and which of its variables is drawn."""
    if isinstance(result, xr.DataArray):
        return summarize(result), variable or "mean"
    if "mean" in result.data_vars:
        return result, variable or "mean"
    return summarize(result, variable), "mean"


def _label(summary: xr.Dataset, variable: str) -> str:
    metric = summary.attrs.get("metric", "metric")
    return {"mean": f"change of {metric}", "mean_recovery": f"recovery of {metric}"}.get(
        variable, variable
    )


def figure(width: float, height: float) -> Any:
    """An empty figure that no window shows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def _curves(summary: xr.Dataset, variable: str, label: str) -> Any:
    """Mean and interval over strengths; a line for every other cell, coloured by the first other dimension."""
    import matplotlib

    drawn = figure(5.6, 3.6)
    axes, values = drawn.subplots(), summary[variable]
    rest = [dim for dim in values.dims if dim != "alpha"]
    cells = list(itertools.product(*(range(values.sizes[dim]) for dim in rest)))
    for i, cell in enumerate(cells):
        at = dict(zip(rest, cell))
        colour = matplotlib.colormaps["viridis"](i / max(len(cells) - 1, 1) * 0.9)
        name = ", ".join(f"{dim} {values[dim].values[k]}" for dim, k in at.items())
        axes.plot(
            values.alpha,
            values.isel(at),
            color=colour,
            label=name if len(cells) <= 12 else None,
            marker="o",
            markersize=3,
        )
        if variable == "mean" and "low" in summary:
            axes.fill_between(
                values.alpha,
                summary.low.isel(at),
                summary.high.isel(at),
                color=colour,
                alpha=0.15,
                linewidth=0,
            )
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set(xlabel=_NAMES["alpha"], ylabel=label, title=summary.attrs.get("site", ""))
    axes.spines[["top", "right"]].set_visible(False)
    if rest and len(cells) <= 12:
        axes.legend(frameon=False, fontsize=8)
    return drawn


def _maps(
    summary: xr.Dataset,
    variable: str,
    label: str,
    mel: Any,
    words: Sequence[Word],
    limit: float | None,
) -> Any:
    values = summary[variable]
    across = next(dim for dim in (*_ACROSS, *values.dims) if dim in values.dims)
    down = next(
        (dim for dim in ("layer", "head", *values.dims) if dim in values.dims and dim != across),
        None,
    )
    others = [dim for dim in values.dims if dim not in (across, down)]
    panels = [
        dict(zip(others, cell))
        for cell in itertools.product(*(range(values.sizes[dim]) for dim in others))
    ]
    over_sound = across == "time" and mel is not None
    n_rows, n_columns = values.sizes[down] if down else 1, values.sizes[across]
    height, width = (
        max(1.2, 0.26 * n_rows + 0.5),
        min(12.0, max(3.6, (0.42 if across != "time" else 0.3) * n_columns + 1.2)),
    )
    width = max(width, 7.5) if over_sound else width  # room for the words
    drawn = figure(
        width + 0.9,
        height * len(panels) + (1.4 if over_sound else 0.5) + (0.5 if across == "position" else 0),
    )
    ratios = [1.1, *[height] * len(panels)] if over_sound else [height] * len(panels)
    rows = drawn.subplots(len(ratios), 1, squeeze=False, sharex=over_sound, height_ratios=ratios)[
        :, 0
    ]
    if over_sound:
        _spectrogram(rows[0], mel, words)
    limit = limit or float(np.nanmax(np.abs(values.values), initial=0)) or 1.0
    for axes, panel in zip(rows[over_sound:], panels):
        image = draw_map(
            axes, summary.isel(panel), variable, across, down, limit, words if over_sound else ()
        )
        axes.set_title(
            "  ".join(f"{dim} {values[dim].values[k]}" for dim, k in panel.items()),
            fontsize=9,
            loc="left",
        )
    rows[-1].set_xlabel(_NAMES.get(str(across), across))
    drawn.colorbar(
        image, ax=list(rows[over_sound:]), label=label, shrink=0.9 if len(panels) < 3 else 0.4
    )
    if site := summary.attrs.get("site"):
        drawn.suptitle(site, fontsize=10)
    return drawn


def draw_map(
    axes: Any,
    summary: xr.Dataset,
    variable: str,
    across: str,
    down: str | None,
    limit: float,
    words: Sequence[Word] = (),
) -> Any:
    """One map on `axes`, dimension `down` by dimension `across`, coloured from -limit to limit; returns the mappable."""
    values = summary[variable].transpose(*([down] if down else []), across)
    grid = np.atleast_2d(values.values)
    edges = _edges(summary, across)
    image = axes.pcolormesh(
        edges, np.arange(len(grid) + 1) - 0.5, grid, cmap=COLOURS, vmin=-limit, vmax=limit
    )
    axes.invert_yaxis()
    axes.set_yticks(range(len(grid)), values[down].values if down else [""])
    axes.set_ylabel(down or "")
    if across != "time":
        _ticks(axes, summary, across)
    if "p_any" in summary:
        marked = np.argwhere(
            np.atleast_2d(summary.p_any.transpose(*values.dims).values) < _SURPRISING
        )
        centres = (edges[1:] + edges[:-1]) / 2
        axes.plot(
            centres[marked[:, 1]],
            marked[:, 0],
            "o",
            color="black",
            markersize=2.5,
            linestyle="none",
        )
    for _, start, _ in words:
        axes.axvline(start, color="0.35", linewidth=0.5)
    axes.set_xlim(edges[0], edges[-1])
    return image


def _edges(summary: xr.Dataset, across: str) -> np.ndarray:
    """Bounds of the columns: windows in seconds; everything else one column an index."""
    if across != "time":
        return np.arange(summary.sizes[across] + 1) - 0.5
    starts = summary["time"].values
    return np.append(starts, starts[-1] + summary.attrs["window_s"])


def _ticks(axes: Any, summary: xr.Dataset, across: str) -> None:
    n = summary.sizes[across]
    if across == "position" and "token" in summary.coords and summary.token.dims == ("position",):
        texts = [drawable(text).replace(" ", "·") for text in summary.token.values]
        axes.set_xticks(range(n), texts, rotation=60, ha="right", fontsize=7)
        return
    step = max(1, n // 16)
    axes.set_xticks(range(0, n, step), summary[across].values[::step])


def _spectrogram(axes: Any, mel: Float[np.ndarray, "M F"], words: Sequence[Word]) -> None:
    axes.imshow(
        mel,
        origin="lower",
        aspect="auto",
        cmap="Greys",
        extent=(0, mel.shape[1] / 100, 0, len(mel)),
        vmin=mel.max() - 1.5,
    )
    axes.set(yticks=[], ylabel="mel")
    for text, start, end in words:
        axes.axvline(start, color="0.35", linewidth=0.5)
        slanted = 45 if len(words) > 12 else 0
        axes.text(
            (start + end) / 2,
            len(mel) * 1.04,
            drawable(text.strip()),
            ha="center",
            fontsize=6.5,
            rotation=slanted,
        )


def save(drawn: Any, path: str | os.PathLike) -> Path:
    """Saves the figure as png, svg or pdf, whole under its name, and returns the path.

    Text of an svg stays text; the bytes of a png or svg do not change from run to run.
    Raises ValueError for another suffix.
    """
    import matplotlib

    from interventions.storage.text_files import replacing

    path = Path(path)
    kind = path.suffix[1:].lower()
    if kind not in FORMATS:
        raise ValueError(
            f"path: expected a name that ends in .{', .'.join(FORMATS)}, got {path.name!r}."
        )
    with (
        replacing(path) as temporary,
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxasr"}),
    ):
        drawn.savefig(
            temporary, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None
        )
    return path
