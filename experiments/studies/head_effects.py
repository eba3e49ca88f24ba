"""Computes and draws the effects of ablating single decoder heads, for B1."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.studies.ablation import HEAD_SITES, layer_grid, wer_change
from experiments.studies.loop_outcomes import mark_resolved
from interventions.figures import plots

# Titles of the figure's panels, by the names of the arrays that `effects` returns.
EFFECT_TITLES = {"silenced": "words without speech: silenced", "unlooped": "loops stopped"}
PANEL_TITLES = EFFECT_TITLES | {"cost": "ΔWER, clean speech"}
_ATTENTION_NAMES = {"decoder.cross_attn.z": "cross", "decoder.attn.z": "self"}


def effects(arrays: xr.Dataset) -> dict[str, xr.DataArray]:
    """Computes the effects of every head on three kinds of recordings.

    Returns:
        Effects [example, cell] by name. A cell is a head.
        `silenced`, for recordings without speech: 1 if the text loses all words, -1 if an empty
        text gets words, else 0.
        `unlooped`, for loops: 1 if the loop is resolved by `loop_outcomes.mark_resolved`, else 0.
        `cost`, for clean speech: change of the word error rate.
    """
    ablated = arrays.isel(kind=0)
    nonspeech, loops, speech = (
        ablated.isel(example=np.flatnonzero(ablated.recording.values == kind))
        for kind in ("nonspeech", "loop", "clean")
    )
    values = {
        "silenced": (nonspeech.baseline_insertions > 0).astype(float) - (nonspeech.insertions > 0),
        "unlooped": mark_resolved(loops),
        "cost": wer_change(speech),
    }
    return {name: effect.transpose("example", "cell") for name, effect in values.items()}


def head_names(arrays: xr.Dataset) -> list[str]:
    """Names the heads by kind of attention, layer and head.

    Example:
        >>> site = ["decoder.cross_attn.z"]
        >>> cells = {"site": ("cell", site), "layer": ("cell", [0]), "head": ("cell", [2])}
        >>> head_names(xr.Dataset(coords=cells))
        ['cross 0.2']
    """
    cells = zip(arrays.site.values, arrays.layer.values, arrays["head"].values)
    return [f"{_ATTENTION_NAMES[str(site)]} {layer}.{head}" for site, layer, head in cells]


def atlas_figure(arrays: xr.Dataset) -> Figure:
    """Draws maps of the effects of all heads, and plots `EFFECT_TITLES` against the cost.

    Each row shows one kind of attention in three maps. The fourth panel of a row plots one effect
    of all heads against the cost.
    """
    figure, axes = plots.panels(2, 4, width=3.1, height=2.5)
    means = {name: _mean_by_cell(effect) for name, effect in effects(arrays).items()}
    for row, site in enumerate(HEAD_SITES):
        for panel, (name, title) in zip(axes[4 * row :], PANEL_TITLES.items()):
            grid = layer_grid(means[name], site)
            image = plots.draw_heat_map(
                panel, grid, f"{_ATTENTION_NAMES[site]}-attention\n{title}", 1.0
            )
            panel.set(xlabel="head", ylabel="layer")
    for panel, (name, title) in zip(axes[3::4], EFFECT_TITLES.items()):
        panel.set(xlabel="ΔWER, clean speech", ylabel="share", title=f"every head\n{title}")
        panel.locator_params(axis="x", nbins=4)
        panel.title.set_fontsize(9)
        if not (means[name].isnull().any() or means["cost"].isnull().any()):
            _draw_trade_off(panel, means["cost"], means[name], head_names(arrays))
    figure.colorbar(image, ax=axes, shrink=0.6, label="share; change of the word error rate")
    return figure


def _mean_by_cell(effect: xr.DataArray) -> xr.DataArray:
    """Averages over recordings; NaN in every cell if there are no recordings."""
    if effect.sizes["example"]:
        return effect.mean("example")
    # The sum over no recordings is 0 and has the coordinates of the cells.
    return effect.sum("example") * np.nan


def _draw_trade_off(
    axes: Axes, cost: xr.DataArray, effect: xr.DataArray, names: Sequence[str]
) -> None:
    """Plots effect against cost with a point per head, and labels the three largest effects."""
    for site, colour in zip(HEAD_SITES, (plots.ACCENT, plots.BLUE)):
        cells = np.flatnonzero(effect.site.values == site)
        label, style = _ATTENTION_NAMES[site], {"markersize": 4, "color": colour}
        axes.plot(cost.values[cells], effect.values[cells], "o", label=label, **style)
    strongest = np.argsort(-effect.values)[:3]  # minus sorts from the largest effect
    for cell in strongest[effect.values[strongest] > 0.1]:
        point = (cost.values[cell], effect.values[cell])
        offset = {"textcoords": "offset points", "xytext": (4, 3), "fontsize": 7}
        axes.annotate(str(names[int(cell)]), point, **offset)
    axes.legend(frameon=False, fontsize=7)
