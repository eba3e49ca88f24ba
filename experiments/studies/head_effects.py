"""Computes and draws the effects of ablating single decoder heads, for B1."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.studies.ablation import HEADS, layer_grid, wer_change
from interventions.figures import plots

# Titles of panels, by the names that `effects` returns.
EFFECTS = {"silenced": "words without speech: silenced", "unlooped": "loops stopped"}
TITLES = EFFECTS | {"cost": "ΔWER, clean speech"}
_ATTENTION = {"decoder.cross_attn.z": "cross", "decoder.attn.z": "self"}


def effects(arrays: xr.Dataset) -> dict[str, xr.DataArray]:
    """Computes the effects of every head on three kinds of recordings.

    Returns:
        Effects [example, cell] by name.
        `silenced`: for recordings without speech, 1 if the text loses all words, -1 if an empty
        text gets words, else 0.
        `unlooped`: 1 if a loop stops, else 0.
        `cost`: change of the word error rate of clean speech.
    """
    ablated = arrays.isel(kind=0)
    nonspeech, loops, speech = (
        ablated.isel(example=np.flatnonzero(ablated.recording.values == kind))
        for kind in ("nonspeech", "loop", "clean")
    )
    values = {
        "silenced": (nonspeech.baseline_insertions > 0).astype(float) - (nonspeech.insertions > 0),
        "unlooped": ((loops.repetitive == 0) & (loops.length > 0)).astype(float),
        "cost": wer_change(speech),
    }
    return {name: effect.transpose("example", "cell") for name, effect in values.items()}


def head_names(arrays: xr.Dataset) -> list[str]:
    """Names the heads, as in "cross 0.2": layer 0, head 2 of the cross-attention."""
    cells = zip(arrays.site.values, arrays.layer.values, arrays["head"].values)
    return [f"{_ATTENTION[str(site)]} {layer}.{head}" for site, layer, head in cells]


def atlas_figure(arrays: xr.Dataset) -> Figure:
    """Draws maps of the effects of all heads, and plots both effects against the cost."""
    figure, axes = plots.panels(2, 4, width=3.1, height=2.5)
    means = {name: _mean_by_cell(effect) for name, effect in effects(arrays).items()}
    for row, site in enumerate(HEADS):
        for panel, (name, title) in zip(axes[4 * row :], TITLES.items()):
            grid = layer_grid(means[name], site)
            image = plots.draw_heat_map(panel, grid, f"{_ATTENTION[site]}-attention\n{title}", 1.0)
            panel.set(xlabel="head", ylabel="layer")
    for panel, (name, title) in zip(axes[3::4], EFFECTS.items()):
        panel.set(xlabel="ΔWER, clean speech", ylabel="share", title=f"every head\n{title}")
        panel.locator_params(axis="x", nbins=4)
        panel.title.set_fontsize(9)
        if not (means[name].isnull().any() or means["cost"].isnull().any()):
            _draw_trade_off(panel, means["cost"], means[name], head_names(arrays))
    figure.colorbar(image, ax=axes, shrink=0.6, label="share; change of the word error rate")
    return figure


def _mean_by_cell(effect: xr.DataArray) -> xr.DataArray:
    """Averages over recordings; NaN if there are none."""
    if effect.sizes["example"]:
        return effect.mean("example")
    return effect.sum("example") * np.nan


def _draw_trade_off(
    axes: Axes, cost: xr.DataArray, effect: xr.DataArray, names: Sequence[str]
) -> None:
    """Plots effect against cost with a point per head, and labels the three largest effects."""
    for site, colour in zip(HEADS, (plots.ACCENT, plots.BLUE)):
        cells = np.flatnonzero(effect.site.values == site)
        label, style = _ATTENTION[site], {"markersize": 4, "color": colour}
        axes.plot(cost.values[cells], effect.values[cells], "o", label=label, **style)
    strongest = np.argsort(-effect.values)[:3]
    for cell in strongest[effect.values[strongest] > 0.1]:
        point = (cost.values[cell], effect.values[cell])
        offset = {"textcoords": "offset points", "xytext": (4, 3), "fontsize": 7}
        axes.annotate(str(names[int(cell)]), point, **offset)
    axes.legend(frameon=False, fontsize=7)
