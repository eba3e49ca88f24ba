"""E6: which layers and heads of the decoder resolve repetition loops when they are patched or ablated, and what that costs."""

import dataclasses
from typing import Any

import numpy as np
import xarray as xr

from experiments.data.corpora import Corpus, Utterance
from experiments.item_cache import Keep
from experiments.studies.ablation import COMPONENTS, HEADS, KINDS, stacked, written
from experiments.studies.recordings import clean, loops
from experiments.studies.study import (
    Analysis,
    Claim,
    Evidence,
    Finding,
    Settings,
    Study,
    choice,
    paper,
)
from interventions.edits import site_cells
from interventions.figures import plots
from interventions.stats.intervals import any_of_alike, bootstrap

CROSS, SELF, MLP = COMPONENTS
CLAIMS = {
    "cross_attention": Claim(
        "Loops are resolved in cross-attention, not in self-attention or the MLP",
        "cross-attention resolves 76 % (layer 23) and 89 % (with layer 18); self-attention and MLP have no measurable effect",
        "per loop, share of cross-attention layers and interventions that resolve it, less that of self-attention and MLP layers",
    ),
    "any_layer": Claim(
        "Some layer's cross-attention resolves a loop that no layer's self-attention or MLP does",
        "the same, counted as the paper does: any intervention that works",
        "per loop, whether any cross-attention layer resolves it, less the mean of the same for self-attention and MLP: as many tries",
    ),
    "one_layer": Claim(
        "The cross-attention of one layer resolves most loops",
        "layer 23 of 32: 76 %, white noise",
        "share of loops resolved by the best cross-attention layer under white noise; p against the best of all components, each loop's "
        "outcomes shuffled among them",
        null=0.5,
    ),
    "one_head": Claim(
        "One head resolves most loops",
        "layer 18, head 13: 78.1 %",
        "share of loops resolved by the best head under white noise; p against the best of all heads, each loop's outcomes shuffled",
        null=0.5,
    ),
    "cheap_layer": Claim(
        "That layer is not needed for clean speech",
        "not measured",
        "change of the word error rate of clean speech without that layer's cross-attention (white noise), below 0.02",
        null=0.02,
        side="below",
        need=8,
    ),
    "cheap_head": Claim(
        "That head is not needed for clean speech",
        "not measured",
        "change of the word error rate of clean speech without that head (white noise), below 0.02",
        null=0.02,
        side="below",
        need=8,
    ),
}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of E6."""

    n_loops: int = paper(102, "section 4.5: repetition-prone utterances")
    tries: int = choice(
        50_000, "recordings searched for loops; the paper does not say how its were found"
    )
    n_clean: int = choice(500, "clean utterances for the cost, which the paper did not measure")
    kinds: tuple[str, ...] = paper(KINDS, "section 4.5: white-noise patch and ablation")
    heads: bool = paper(True, "section 4.5: every head after every layer")
    max_new_tokens: int = choice(
        448 - 8, "nearly the whole context; what the detector needs, 8 tokens 4 times, fits into 40"
    )
    detector: str = choice(
        "n-gram of up to 8 tokens 4 times, or compression ratio > 2.4",
        "no rule was found in the paper",
    )
    noise: str = choice(
        "length and level of the recording, one seed, lock-step",
        "not found in the paper; same tokens, so positions agree",
    )


def run(asr: Any, corpus: Corpus, config: Config, keep: Keep) -> xr.Dataset:
    """The numbers of `experiments.studies.ablation.written` [example, kind, cell], of loops and of clean speech."""
    sites = COMPONENTS + (HEADS if config.heads else ())
    looping = loops(asr, corpus, config.n_loops, config.tries, keep, config.max_new_tokens)
    clips = [*looping, *clean(corpus, asr, config.n_clean, config.max_new_tokens)]

    def item(job: tuple[Utterance, str]) -> Any:
        return written(asr, job[0], sites, job[1], config.max_new_tokens, config.seed)

    jobs = [(clip, kind) for clip in clips for kind in config.kinds]
    kept = keep.each("E6 interventions", jobs, item, key=lambda job: f"{job[1]} {job[0].id}")
    rows = [kept[place * len(config.kinds) :][: len(config.kinds)] for place in range(len(clips))]
    found = stacked(clips, rows, config.kinds, sites, site_cells(asr.config, sites))
    of = ["loop"] * len(looping) + ["clean"] * (len(clips) - len(looping))
    return found.assign_coords(of=("example", of))


def resolved(arrays: xr.Dataset) -> xr.DataArray:
    """Whether an intervention resolves a loop: no repetition is detected any more, something is written, and where the words are known
    the character error rate is lower than before. Of a loop whose words are not known the last condition is left out."""
    better = (arrays.cer < arrays.baseline_cer) | arrays.baseline_cer.isnull()
    return ((arrays.repetitive == 0) & (arrays.length > 0) & better).astype(float)


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """The tests of `CLAIMS`."""
    of = arrays.of.values
    looping, speech = (
        arrays.isel(example=np.flatnonzero(of == name)) for name in ("loop", "clean")
    )
    if not looping.sizes["example"]:
        why = "none of the recordings that were tried makes this model loop"
        return Analysis(
            {name: claim.judge(None, why) for name, claim in CLAIMS.items()},
            {"clean": _cost(speech)},
        )
    done = resolved(looping)
    by = {
        site: done.isel(cell=np.flatnonzero(arrays.site.values == site))
        for site in (*COMPONENTS, *HEADS)
    }
    shares = {
        site: one.mean(("kind", "cell")).values for site, one in by.items() if one.sizes["cell"]
    }
    anyhow = {site: by[site].max(("kind", "cell")).values for site in COMPONENTS}
    findings = {
        "cross_attention": CLAIMS["cross_attention"].over(
            shares[CROSS] - (shares[SELF] + shares[MLP]) / 2, config.seed
        ),
        "any_layer": CLAIMS["any_layer"].over(
            anyhow[CROSS] - (anyhow[SELF] + anyhow[MLP]) / 2, config.seed
        ),
    }
    for name, sites, among in (("layer", (CROSS,), COMPONENTS), ("head", HEADS, HEADS)):
        findings |= _best(name, done, speech, sites, among, config.seed)
    return Analysis(findings, _numbers(looping, done, by, speech))


def _best(
    name: str, done: xr.DataArray, speech: xr.Dataset, sites: tuple, among: tuple, seed: int
) -> dict[str, Finding]:
    """The verdicts on the best cell of `sites`, held against the best of all cells of `among`, and on what it costs."""
    patched = (done.sel(kind="noise") if "noise" in done.kind else done.isel(kind=0)).transpose(
        "example", "cell"
    )
    family = np.flatnonzero(np.isin(done.site.values, among))
    if not len(family) or patched.sizes["example"] < 2:
        few = "" if len(family) else "heads were left out"
        return {key: CLAIMS[key].judge(None, few) for key in (f"one_{name}", f"cheap_{name}")}
    p = any_of_alike(patched.isel(cell=family), n=2000, seed=seed)
    chosen = [place for place in range(len(family)) if done.site.values[family[place]] in sites]
    best = max(chosen, key=lambda place: float(patched[:, family[place]].mean()))
    share = bootstrap(patched.isel(cell=family[best]), seed=seed)
    n = patched.sizes["example"]
    evidence = Evidence(
        float(share["mean"]), float(share["low"]), float(share["high"]), n, float(p[best])
    )
    cost = _change(speech).isel(cell=family[best])
    cost = (cost.sel(kind="noise") if "noise" in cost.kind else cost.isel(kind=0)).values
    return {
        f"one_{name}": CLAIMS[f"one_{name}"].judge(evidence),
        f"cheap_{name}": CLAIMS[f"cheap_{name}"].over(cost, seed),
    }


def _change(speech: xr.Dataset) -> xr.DataArray:
    """Change of the word error rate, both at most 1: a broken text may have any number of words."""
    return np.minimum(speech.wer, 1) - np.minimum(speech.baseline_wer, 1)


def _cost(speech: xr.Dataset) -> dict[str, Any]:
    if not speech.sizes["example"]:
        return {"n": 0}
    change = _change(speech).mean("example")
    return {
        "n": speech.sizes["example"],
        "wer": float(speech.baseline_wer.mean()),
        "change": _by_cell(change),
    }


def _by_cell(values: xr.DataArray) -> dict[str, Any]:
    names = [f"{site.removeprefix('decoder.')} {layer}" + (f".{head}" if head >= 0 else "") for site, layer, head in
             zip(values.site.values, values.layer.values, values["head"].values)]  # fmt: skip
    return {
        str(kind): dict(zip(names, values.sel(kind=kind).values.round(3)))
        for kind in values.kind.values
    }


def _numbers(
    looping: xr.Dataset, done: xr.DataArray, by: dict[str, xr.DataArray], speech: xr.Dataset
) -> dict[str, Any]:
    known = looping.baseline_cer.notnull().values
    layers = {site: by[site].mean("kind") for site in COMPONENTS}
    union = {
        site: float(by[site].max(("kind", "cell")).mean()) for site in by if by[site].sizes["cell"]
    }
    return {
        "loops": len(known),
        "loops_with_known_words": int(known.sum()),
        "resolved_by_any_of_a_site": union,
        "resolved_by_any": float(done.max(("kind", "cell")).mean()),
        "mean_over_cells": {
            site: round(float(one.mean()), 3) for site, one in by.items() if one.sizes["cell"]
        },
        "where_words_are_known": {
            site: round(float(one[known].mean()), 3) for site, one in layers.items()
        }
        if known.any()
        else {},
        "where_they_are_not": {
            site: round(float(one[~known].mean()), 3) for site, one in layers.items()
        }
        if (~known).any()
        else {},
        "share_resolved": _by_cell(done.mean("example")),
        "clean": _cost(speech),
    }


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Any]:
    """Maps of loops resolved and of the cost on clean speech: components by layer, then heads; a row for each intervention."""
    of, done = arrays.of.values, resolved(arrays)
    rows = {"loops resolved": done.isel(example=np.flatnonzero(of == "loop"))}
    rows["ΔWER, clean"] = _change(arrays).isel(example=np.flatnonzero(of == "clean"))
    rows = {
        name: values.mean("example") for name, values in rows.items() if values.sizes["example"]
    }
    shown = [site for site in HEADS if site in arrays.site.values]
    figure, axes = plots.panels(
        len(arrays.kind), len(rows) * (1 + len(shown)), width=2.7, height=2.3
    )
    places = iter(axes)
    for kind in arrays.kind.values:
        for name, values in rows.items():
            grid = np.stack([_grid(values.sel(kind=kind), site)[:, 0] for site in COMPONENTS], 1)
            image = plots.heat(
                next(places),
                grid,
                f"{name}\nwhole parts, {kind}",
                1.0,
                across=["cross", "self", "MLP"],
            )
            for site in shown:
                plots.heat(
                    next(places),
                    _grid(values.sel(kind=kind), site),
                    f"{name}\n{_HEADS_OF[site]} heads, {kind}",
                    1.0,
                )
    if rows:
        axes[0].set_ylabel("layer")
        figure.colorbar(
            image, ax=axes, shrink=0.7, label="share of loops; change of the word error rate"
        )
    return {"repetition": figure}


_HEADS_OF = dict(zip(HEADS, ("cross-attention", "self-attention")))


def _grid(values: xr.DataArray, site: str) -> np.ndarray:
    """[layer, head], or [layer, 1]."""
    cells = np.flatnonzero(values.site.values == site)
    return values.values[cells].reshape(values.layer.values[cells].max() + 1, -1)


STUDY = Study(
    title="Where repetition loops are resolved",
    section="section 4.5",
    about="Recordings that make the model repeat itself are written again, with one place of the decoder after another patched with what "
    "white noise puts there, or set to zero: every layer's cross-attention, self-attention and MLP, then every head. So is clean speech.",
    data="102 repetition-prone utterances of Common Voice 16.1, Japanese and English",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "here": {"n_loops": 10, "tries": 30, "n_clean": 8, "max_new_tokens": 40},
        "builtin": {"n_loops": 12, "tries": 40, "n_clean": 8, "max_new_tokens": 56},
        "quick": {"tries": 16, "n_clean": 2, "heads": False, "max_new_tokens": 48},
    },
    differs=(
        "a loop is resolved only when the text gets closer to the words, where these are known; of triggers without words (reversed or "
        "mixed speech) no repetition and a text that is not empty must do",
        "chance is ours: each loop's outcomes shuffled among cells; so is the cost on clean speech",
    ),
)
