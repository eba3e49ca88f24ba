"""B1: every head of both decoder attentions ablated in turn: hallucination, loops and word error rate of the same cells together."""

import dataclasses
from typing import Any

import numpy as np
import scipy.stats
import xarray as xr

from experiments.data.corpora import Corpus
from experiments.item_cache import Keep
from experiments.studies.ablation import HEADS, stacked, written
from experiments.studies.recordings import clean, loops, nonspeech
from experiments.studies.study import Analysis, Claim, Evidence, Finding, Settings, Study, choice
from interventions.edits import site_cells
from interventions.figures import plots
from interventions.stats.intervals import any_of_alike, bootstrap

_BEST = "share of {} for the head with the largest; p against the best of all heads, each recording's outcomes shuffled among them"
_COST = (
    "change of the word error rate of clean speech (both at most 1) without that head, below 0.02"
)
CLAIMS = {
    "silences": Claim(
        "One head's ablation keeps the model from writing words where nobody speaks",
        "not asked; Calm-Whisper (arXiv 2505.12969): 3 of 20 self-attention head indices account for over 75 % of such hallucinations",
        _BEST.format(
            "recordings without speech that had words and have none, less those that get words"
        ),
        null=0.1,
    ),
    "silences_cheaply": Claim(
        "Clean speech does not need that head",
        "Calm-Whisper: hardly, once tuned",
        _COST,
        0.02,
        "below",
        8,
    ),
    "unloops": Claim(
        "One head's ablation stops most loops",
        "E6: layer 18, head 13 of large-v3 resolves 78.1 % under white noise",
        _BEST.format("loops whose text no longer repeats and is not empty"),
        null=0.5,
    ),
    "unloops_cheaply": Claim(
        "Clean speech does not need that head", "not measured", _COST, 0.02, "below", 8
    ),
    "same_heads": Claim(
        "The heads that make it write words where nobody speaks are those that keep it in loops",
        "not asked; the two failures are described as different ones",
        "over heads, rank correlation of the two shares, Fisher's interval; heads that cost over 0.2 of word error rate left out",
        need=12,
    ),
}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of B1."""

    n_nonspeech: int = choice(200, "recordings without speech")
    n_loops: int = choice(102, "as many as the paper has for E6")
    tries: int = choice(50_000, "recordings searched for loops")
    n_clean: int = choice(200, "clean utterances with transcripts")
    max_new_tokens: int = choice(224, "half of the decoder's context, as openai/whisper")
    ablation: str = choice(
        "zero", "one kind only, for the whole atlas; docs/loops.md compares it with the mean"
    )
    hallucination: str = choice(
        "any word on a recording without speech", "before any filter; see B3 for filters"
    )


def run(asr: Any, corpus: Corpus, config: Config, keep: Keep) -> xr.Dataset:
    """The numbers of `experiments.studies.ablation.written` [example, kind, cell] for the three sorts of recordings, `of`."""
    sorts = {
        "nonspeech": nonspeech(corpus, config.n_nonspeech),
        "loop": loops(asr, corpus, config.n_loops, config.tries, keep, config.max_new_tokens),
        "clean": clean(corpus, asr, config.n_clean, config.max_new_tokens),
    }
    rows = {}
    for sort, clips in sorts.items():

        def ablated(clip):
            return written(asr, clip, HEADS, config.ablation, config.max_new_tokens, config.seed)

        rows[sort] = keep.each(f"B1 heads, {sort}", clips, ablated)
    clips = [clip for group in sorts.values() for clip in group]
    found = stacked(
        clips,
        [[one] for group in rows.values() for one in group],
        [config.ablation],
        HEADS,
        site_cells(asr.config, HEADS),
    )
    names = [
        f"{sort}: {clip.id}" for sort, group in sorts.items() for clip in group
    ]  # a trigger may be of two sorts
    of = [sort for sort, group in sorts.items() for _ in group]
    return found.assign_coords(example=names, of=("example", of))


def effects(arrays: xr.Dataset) -> dict[str, xr.DataArray]:
    """[example, cell]: `silenced` (1, 0, -1), `unlooped` (1, 0), and `cost`, each over recordings of its sort."""
    one = arrays.isel(kind=0)
    sort = {
        name: one.isel(example=np.flatnonzero(one.of.values == name))
        for name in ("nonspeech", "loop", "clean")
    }
    quiet, looping, speech = sort.values()
    return {
        "silenced": (quiet.baseline_insertions > 0).astype(float) - (quiet.insertions > 0),
        "unlooped": ((looping.repetitive == 0) & (looping.length > 0)).astype(float),
        "cost": np.minimum(speech.wer, 1) - np.minimum(speech.baseline_wer, 1),
    }


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """The tests of `CLAIMS`."""
    found = {name: values.transpose("example", "cell") for name, values in effects(arrays).items()}
    why = {
        "silenced": "no recording without speech",
        "unlooped": "none of the recordings that were tried makes this model loop",
    }
    findings = {}
    for claim, name in (("silences", "silenced"), ("unloops", "unlooped")):
        findings |= _best(claim, found[name], found["cost"], why[name], config.seed)
    findings["same_heads"] = _alike(found)
    return Analysis(findings, _numbers(arrays, found))


def _best(
    name: str, values: xr.DataArray, cost: xr.DataArray, why: str, seed: int
) -> dict[str, Finding]:
    if values.sizes["example"] < 2:
        return {key: CLAIMS[key].judge(None, why) for key in (name, f"{name}_cheaply")}
    best = int(np.argmax(values.mean("example").values))
    share, p = bootstrap(values.isel(cell=best), seed=seed), any_of_alike(values, n=2000, seed=seed)
    mean, low, high = (float(share[key]) for key in ("mean", "low", "high"))
    evidence = Evidence(mean, low, high, values.sizes["example"], float(p[best]))
    return {
        name: CLAIMS[name].judge(evidence),
        f"{name}_cheaply": CLAIMS[f"{name}_cheaply"].over(cost.isel(cell=best).values, seed),
    }


def _alike(found: dict[str, xr.DataArray]) -> Finding:
    claim = CLAIMS["same_heads"]
    if min(values.sizes["example"] for values in found.values()) < 2:
        return claim.judge(None, "one of the three sorts of recordings is missing")
    mean = {name: values.mean("example").values for name, values in found.items()}
    usable = mean["cost"] <= 0.2
    x, y = mean["silenced"][usable], mean["unlooped"][usable]
    if len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return claim.judge(None, "all heads are alike")
    rho, p = scipy.stats.spearmanr(x, y)
    low, high = np.tanh(
        np.arctanh(min(max(float(rho), -0.999999), 0.999999))
        + np.array([-1.96, 1.96]) / np.sqrt(len(x) - 3)
    )
    return claim.judge(Evidence(float(rho), float(low), float(high), len(x), float(p)))


def _numbers(arrays: xr.Dataset, found: dict[str, xr.DataArray]) -> dict[str, Any]:
    one = arrays.isel(kind=0)
    n = {name: values.sizes["example"] for name, values in found.items()}
    plain = {
        "n": n,
        "words_without_speech": _mean(
            one.baseline_insertions.values[one.of.values == "nonspeech"] > 0
        ),
    }
    plain["wer_clean"] = _mean(one.baseline_wer.values[one.of.values == "clean"])
    mean = {
        name: values.mean("example").values.round(3) if n[name] else None
        for name, values in found.items()
    }
    atlas = {
        f"{_short(site)} {layer}.{head}": {
            name: float(values[cell]) for name, values in mean.items() if values is not None
        }
        for cell, (site, layer, head) in enumerate(
            zip(arrays.site.values, arrays.layer.values, arrays["head"].values)
        )
    }
    return {"plain": plain, "heads": atlas}


def _mean(values: np.ndarray) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None


def _short(site: str) -> str:
    return {"decoder.cross_attn.z": "cross", "decoder.attn.z": "self"}[str(site)]


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Any]:
    """A map of layer and head for each attention and each of the three numbers; and the first two against the third."""
    found = effects(arrays)
    titles = {
        "silenced": "words without speech: silenced",
        "unlooped": "loops stopped",
        "cost": "ΔWER, clean speech",
    }
    figure, axes = plots.panels(2, 4, width=3.1, height=2.5)
    mean = {
        name: values.mean("example").values if values.sizes["example"] else None
        for name, values in found.items()
    }
    for row, site in enumerate(HEADS):
        here = arrays.site.values == site
        for column, (name, title) in enumerate(titles.items()):
            values = np.full(here.sum(), np.nan) if mean[name] is None else mean[name][here]
            grid = values.reshape(arrays.layer.values[here].max() + 1, -1)
            image = plots.heat(
                axes[4 * row + column], grid, f"{_short(site)}-attention\n{title}", 1.0
            )
            axes[4 * row + column].set(xlabel="head", ylabel="layer")
    for row, name in enumerate(("silenced", "unlooped")):
        _trade(axes[4 * row + 3], arrays, mean, name, titles[name])
    figure.colorbar(image, ax=axes, shrink=0.6, label="share; change of the word error rate")
    return {"atlas": figure}


def _trade(axes: Any, arrays: xr.Dataset, mean: dict[str, Any], name: str, title: str) -> None:
    """A point a head: what it stops against what it costs."""
    axes.set(xlabel="ΔWER, clean speech", ylabel="share", title=f"every head\n{title}")
    axes.locator_params(axis="x", nbins=4)
    axes.title.set_fontsize(9)
    if mean["cost"] is None or mean[name] is None:
        return
    for site, colour in zip(HEADS, (plots.ACCENT, plots.BLUE)):
        here = arrays.site.values == site
        axes.plot(
            mean["cost"][here],
            mean[name][here],
            "o",
            markersize=4,
            color=colour,
            label=_short(site),
        )
    for cell in [
        cell for cell in np.argsort(-mean[name])[:3] if mean[name][cell] > 0.1
    ]:  # fewer are none in particular
        text = f"{_short(arrays.site.values[cell])} {arrays.layer.values[cell]}.{arrays['head'].values[cell]}"
        axes.annotate(
            text,
            (mean["cost"][cell], mean[name][cell]),
            textcoords="offset points",
            xytext=(4, 3),
            fontsize=7,
        )
    axes.legend(frameon=False, fontsize=7)


STUDY = Study(
    title="An atlas of decoder heads: hallucination, loops and word errors together",
    section="beyond the paper (compare section 4.5 and Calm-Whisper)",
    about="Every head of the decoder's cross-attention and self-attention is set to zero, one at a time, while the model writes about "
    "recordings without speech, recordings that make it loop, and clean speech.",
    data="not asked by the paper",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "here": {"n_nonspeech": 12, "n_loops": 10, "tries": 30, "n_clean": 8, "max_new_tokens": 40},
        "builtin": {
            "n_nonspeech": 12,
            "n_loops": 12,
            "tries": 20,
            "n_clean": 8,
            "max_new_tokens": 48,
        },
        "quick": {"n_nonspeech": 4, "n_loops": 2, "tries": 4, "n_clean": 2, "max_new_tokens": 32},
    },
)
