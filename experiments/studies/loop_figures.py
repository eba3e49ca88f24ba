"""Draws the results of E6."""

from collections.abc import Iterator

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.studies.ablation import (
    COMPONENT_SITES,
    HEAD_SITES,
    PART_NAMES,
    layer_grid,
    wer_change,
)
from experiments.studies.evidence import mean_evidence
from experiments.studies.loop_outcomes import FULL_KINDS, RANDOM, Outcomes, mark_resolved
from interventions.figures import plots

KIND_TITLES = {
    "noise": "white noise",
    "zero": "zero",
    "mean": "mean over clean speech",
    RANDOM: "random directions",
}


def draw_parts(outcomes: Outcomes, seed: int) -> Figure:
    """Draws the shares of loops that each part resolves, with intervals, per kind of patch."""
    figure, axes = plots.panels(1, 2, width=5.2, height=3.2)
    shares = {
        "resolved by a layer, mean over layers": outcomes.mean_share,
        "resolved by any layer": outcomes.any_share,
    }
    kinds = [kind for kind in KIND_TITLES if outcomes.kinds(kind)]
    colours = dict(zip(KIND_TITLES, (plots.ACCENT, plots.BLUE, "#6b8e23", "0.6")))
    for panel, (title, share) in zip(axes, shares.items()):
        for offset, kind in enumerate(kinds):
            values = [share(kind, (site,)) for site in COMPONENT_SITES]
            at = np.arange(len(values)) + (offset - (len(kinds) - 1) / 2) * 0.17
            _draw_points(panel, at, values, outcomes.sources, seed, colours[kind], kind)
        panel.set_xticks(range(len(COMPONENT_SITES)), [PART_NAMES[s] for s in COMPONENT_SITES])
        panel.set(title=title, ylim=(-0.03, 1.03), ylabel="share of loops")
    axes[0].legend(frameon=False, fontsize=7)
    return figure


def _draw_points(
    axes: Axes,
    at: np.ndarray,
    values: list[np.ndarray],
    sources: np.ndarray,
    seed: int,
    colour: str,
    kind: str,
) -> None:
    rows = [mean_evidence(x, sources, bounds=(0.0, 1.0), seed=seed) for x in values]
    points = np.array([row.value for row in rows])
    ends = np.array([[row.value - row.low, row.high - row.value] for row in rows]).T
    style = {"fmt": "o", "markersize": 4, "capsize": 2, "color": colour}
    axes.errorbar(at, points, np.nan_to_num(ends), label=KIND_TITLES[kind], **style)


def draw_maps(arrays: xr.Dataset) -> Figure:
    """Draws maps of resolved loops and of the cost on clean speech, one row per kind of patch."""
    quantities = {
        "loops resolved": ("loop", mark_resolved(arrays)),
        "ΔWER, clean": ("clean", wer_change(arrays)),
    }
    kinds = [kind for kind in FULL_KINDS if kind in arrays.kind.values]
    means = {
        title: values.isel(example=arrays.recording.values == recording).mean("example")
        for title, (recording, values) in quantities.items()
        if recording in arrays.recording.values
    }
    grids = [list(_grids(means, kind)) for kind in kinds]
    figure, axes = plots.panels(len(kinds), max(map(len, grids)), width=2.7, height=2.3)
    image = None
    for row, kind in enumerate(kinds):
        for panel, (title, grid, names) in zip(axes[row * len(grids[0]) :], grids[row]):
            heading = f"{title}, {KIND_TITLES[kind]}"
            image = plots.draw_heat_map(panel, grid, heading, 1.0, **names)
            panel.title.set_fontsize(7)
    if image is not None:
        axes[0].set_ylabel("layer")
        legend = "share of loops;\nchange of the word error rate"
        figure.colorbar(image, ax=axes, shrink=0.7, label=legend)
    return figure


def _grids(means: dict[str, xr.DataArray], kind: str) -> Iterator[tuple[str, np.ndarray, dict]]:
    """Yields a title, a grid of layers and parts or heads, and the names of its columns."""
    for title, mean in means.items():
        values = mean.sel(kind=kind)
        components = np.stack([layer_grid(values, site)[:, 0] for site in COMPONENT_SITES], 1)
        yield f"{title}\ncomponents", components, {"across": ["cross", "self", "MLP"]}
        for site in HEAD_SITES if title == "loops resolved" else ():
            if site in mean.site.values:
                yield f"{title}\n{PART_NAMES[site]}s", layer_grid(values, site), {}
