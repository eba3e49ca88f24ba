"""Draws the figures of study E5."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.studies.context import effects
from experiments.studies.context.grid import THIRDS
from experiments.studies.context.patches import PATCHED_SITES
from experiments.studies.evidence import mean_evidence
from interventions.figures import plots

# Errors that any patch of the paper restores.
PAPER_SHARE = 0.889  # of Whisper
QWEN_SHARE = 0.701  # of Qwen2-Audio
_WINDOW_COLOURS = {"word": plots.ACCENT, "context": plots.BLUE, "matched": plots.TEAL}


def draw(arrays: xr.Dataset) -> dict[str, Figure]:
    """Draws shifts per place, shifts per window of time, and restored words per number of tries."""
    arrays = effects.of_speech(arrays, spliced=False)
    if not (arrays.condition.values == "odd").any():
        return {}
    figures = {"places": _draw_places(arrays), "tries": _draw_tries(arrays)}
    # Without times of words, nothing was patched in their frames.
    has_windows = np.isfinite(effects.mean_shift(arrays, window="word")).any()
    return figures | ({"windows": _draw_windows(arrays)} if has_windows else {})


def _draw_places(arrays: xr.Dataset) -> Figure:
    """Draws shift by noise, by random moves, and their difference with its interval."""
    shift, gain = effects.shifts(arrays), effects.gains(arrays)
    # An audio language model has no cross-attention.
    sites = [site for site in PATCHED_SITES if _of_site(shift, site).any()]
    figure, axes = plots.panels(2, len(sites), width=2.5, height=2.6)
    n_top = len(sites)
    for i, site in enumerate(sites):
        grid, alphas = _map(shift, site)
        image = plots.draw_heat_map(
            axes[i], grid, f"{site}\nshift towards noise", 4.0, across=[f"{a:g}" for a in alphas]
        )
        axes[i].set_xlabel("strength α")
        _draw_gains(axes[n_top + i], gain, site)
    axes[0].set_ylabel("layer")
    axes[n_top].set_ylabel("noise minus random move, logits")
    figure.colorbar(image, ax=axes[:n_top], shrink=0.8, label="logits; red: to the spoken word")
    return figure


def _map(shift: xr.DataArray, site: str) -> tuple[np.ndarray, list[float]]:
    chosen = _of_site(shift, site) & (shift.kind.values == "noise")
    means = shift.isel(cell=np.flatnonzero(chosen)).mean("example")
    alphas = sorted(set(means.alpha.values.tolist()))
    layers = sorted(set(means.low.values.tolist()))
    grid = np.full((len(layers), len(alphas)), np.nan)
    for layer, alpha, value in zip(means.low.values, means.alpha.values, means.values):
        grid[layers.index(layer), alphas.index(alpha)] = value
    return grid, alphas


def _draw_gains(axes: Axes, gain: xr.DataArray, site: str) -> None:
    of_site = gain.isel(cell=np.flatnonzero(_of_site(gain, site)))
    for number, alpha in enumerate(sorted(set(of_site.alpha.values.tolist()))):
        at_alpha = of_site.isel(cell=np.flatnonzero(of_site.alpha.values == alpha))
        means = [mean_evidence(at_alpha.values[:, i]) for i in range(at_alpha.sizes["cell"])]
        _draw_intervals(
            axes, at_alpha.low.values + 0.12 * number, means, plots.COLOURS[number], f"α {alpha:g}"
        )
    axes.axhline(0, color=plots.GREY, linewidth=0.8)
    axes.set_xlabel("layer")
    axes.legend(fontsize=7, frameon=False)


def _draw_intervals(axes: Axes, x: np.ndarray, means: list, colour: str, label: str) -> None:
    values = np.array([(mean.value, mean.low, mean.high) for mean in means]).reshape(-1, 3)
    middle, low, high = values.T
    errors = np.nan_to_num(np.stack([middle - low, high - middle]))
    axes.errorbar(x, middle, errors, fmt="o", markersize=3, color=colour, label=label)


def _of_site(values: xr.DataArray, site: str) -> np.ndarray:
    is_place = values.unit.values == "place"
    return is_place & np.array([name.rpartition(" ")[0] == site for name in values.place.values])


def _draw_windows(arrays: xr.Dataset) -> Figure:
    """Draws the shifts of groups of encoder layers, by the patched frames."""
    figure, axes = plots.panels(1, 2, width=4.0, sharey=True)
    for panel, kind in zip(axes, ("noise", "random")):
        for number, (window, colour) in enumerate(_WINDOW_COLOURS.items()):
            labels = {"part": "encoder", "kind": kind, "window": window}
            means = [
                mean_evidence(effects.mean_shift(arrays, place=f"encoder {third}", **labels))
                for third in THIRDS
            ]
            if np.isfinite([mean.value for mean in means]).any():
                _draw_intervals(panel, np.arange(3) + 0.12 * number, means, colour, window)
        panel.axhline(0, color=plots.GREY, linewidth=0.8)
        panel.set_xticks(range(3), THIRDS)
        panel.set_xlabel("third of the encoder's layers")
        panel.set_title("towards noise" if kind == "noise" else "random move", fontsize=9)
        panel.legend(title="patched frames", fontsize=7, title_fontsize=7, frameon=False)
    axes[0].set_ylabel("shift towards the spoken word, logits")
    return figure


def _draw_tries(arrays: xr.Dataset) -> Figure:
    """Draws the share of restored errors by number of patches, in random order."""
    is_restored = effects.restored(arrays)
    figure, (axes,) = plots.panels(1, 1, width=5.0, height=3.6)
    share = QWEN_SHARE if "family" in arrays.attrs else PAPER_SHARE
    label = f"paper, {share:.1%}".replace("%", " %")
    axes.axhline(share, color=plots.INK, linestyle="--", linewidth=1, label=label)
    styles = {"encoder": ":", "decoder": "-."}
    for kind, colour in (("noise", plots.BLUE), ("random", plots.ACCENT)):
        of_kind = is_restored.isel(cell=np.flatnonzero(is_restored.kind.values == kind))
        for stack in ("", "encoder", "decoder"):
            in_stack = (of_kind.part.values == stack) | (not stack)
            shares = effects.any_of_many(of_kind.values[:, in_stack])
            label = f"{kind}, {stack or 'any place'}"
            style = {"linestyle": styles.get(stack, "-"), "marker": "", "markersize": 0}
            if not len(shares):
                continue
            if stack:
                axes.plot(
                    np.arange(1, shares.shape[1] + 1),
                    shares.mean(0),
                    color=colour,
                    label=label,
                    linestyle=style["linestyle"],
                    linewidth=1,
                )
            else:
                x = range(1, shares.shape[1] + 1)
                plots.draw_curve(axes, x, shares, label, colour, **style)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("number of patches tried")
    axes.set_ylabel(f"errors restored (n {is_restored.sizes['example']})")
    axes.legend(fontsize=7, frameon=False, loc="upper left")
    return figure
