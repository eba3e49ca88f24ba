"""E6: which decoder layers and heads resolve repetition loops when patched, and at what cost."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.data.corpora import Corpus, Utterance
from experiments.item_cache import Arrays, Keep
from experiments.studies.ablation import (
    COMPONENTS,
    HEADS,
    KINDS,
    ablate,
    at_site,
    layer_grid,
    to_dataset,
    wer_change,
)
from experiments.studies.best_cell import best_cell
from experiments.studies.loop_numbers import loop_numbers, speech_cost
from experiments.studies.recordings import clean_speech, find_loops
from experiments.studies.study import Analysis, Claim, Finding, Settings, Study, choice, paper
from interventions.edits import site_cells
from interventions.figures import plots
from jaxasr import Recogniser

CROSS, SELF, MLP = COMPONENTS
_COST = "change of the word error rate of clean speech without {} (white noise), below 0.02"
CLAIMS = {
    "cross_attention": Claim(
        "Patching cross-attention resolves loops, patching self-attention or the MLP does not",
        "cross-attention resolves 76 % (layer 23) and 89 % (with layer 18); self-attention and MLP "
        "have no measurable effect",
        "per loop, share of cross-attention layers and interventions that resolve it, minus that "
        "of self-attention and MLP layers",
    ),
    "any_layer": Claim(
        "Some layer's cross-attention resolves a loop that no layer's self-attention or MLP does",
        "the same, counted as the paper does: any intervention that works",
        "per loop, whether any cross-attention layer resolves it, minus the mean of the same for "
        "self-attention and MLP, with equally many tries",
    ),
    "one_layer": Claim(
        "The cross-attention of one layer resolves most loops",
        "layer 23 of 32: 76 %, white noise",
        "share of loops that the best cross-attention layer resolves under white noise; p against "
        "the best of all components, with each loop's outcomes permuted among them",
        null=0.5,
    ),
    "one_head": Claim(
        "One head resolves most loops",
        "layer 18, head 13: 78.1 %",
        "share of loops that the best head resolves under white noise; p against the best of all "
        "heads, with each loop's outcomes permuted among them",
        null=0.5,
    ),
    "cheap_layer": Claim(
        "Clean speech does not need the best layer's cross-attention",
        "not measured",
        _COST.format("the best layer's cross-attention"),
        null=0.02,
        side="below",
        min_examples=8,
    ),
    "cheap_head": Claim(
        "Clean speech does not need the best head",
        "not measured",
        _COST.format("the best head"),
        null=0.02,
        side="below",
        min_examples=8,
    ),
}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of E6."""

    n_loops: int = paper(102, "section 4.5: repetition-prone utterances")
    tries: int = choice(
        50_000, "recordings to search for loops; the paper does not state how its loops were found"
    )
    n_clean: int = choice(500, "clean utterances for the cost, which the paper did not measure")
    kinds: tuple[str, ...] = paper(KINDS, "section 4.5: white-noise patch and ablation")
    heads: bool = paper(True, "section 4.5: every head after every layer")
    max_new_tokens: int = choice(
        448 - 8, "nearly the whole context; 40 are enough for the detector, 8 tokens 4 times"
    )
    detector: str = choice(
        "n-gram of up to 8 tokens 4 times, or compression ratio > 2.4",
        "no rule was found in the paper",
    )
    noise: str = choice(
        "length and level of the recording, one seed, lock-step",
        "not found in the paper; same tokens, so that positions agree",
    )


def run(asr: Recogniser, corpus: Corpus, config: Config, keep: Keep) -> xr.Dataset:
    """Ablates the decoder on loops and on clean speech.

    Returns:
        As `experiments.studies.ablation.to_dataset`; `recording` [example] is "loop" or "clean".
    """
    sites = COMPONENTS + (HEADS if config.heads else ())
    loops = find_loops(asr, corpus, config.n_loops, config.tries, keep, config.max_new_tokens)
    clips = [*loops, *clean_speech(corpus, asr, config.n_clean, config.max_new_tokens)]

    def intervene(job: tuple[Utterance, str]) -> Arrays:
        clip, kind = job
        return ablate(asr, clip, sites, kind, config.max_new_tokens, config.seed)

    jobs = [(clip, kind) for clip in clips for kind in config.kinds]
    items = keep.each("E6 interventions", jobs, intervene, key=lambda job: f"{job[1]} {job[0].id}")
    n_kinds = len(config.kinds)
    by_clip = [items[start : start + n_kinds] for start in range(0, len(items), n_kinds)]
    arrays = to_dataset(clips, by_clip, config.kinds, sites, site_cells(asr.config, sites))
    kinds = ["loop"] * len(loops) + ["clean"] * (len(clips) - len(loops))
    return arrays.assign_coords(recording=("example", kinds))


def resolved(arrays: xr.Dataset) -> xr.DataArray:
    """Marks, with 1 or 0, the interventions that resolve a loop.

    The text must not be empty or repetitive. If the words are known, its character error rate must
    be lower than without the intervention.
    """
    better = (arrays.cer < arrays.baseline_cer) | arrays.baseline_cer.isnull()
    return ((arrays.repetitive == 0) & (arrays.length > 0) & better).astype(float)


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """Judges `CLAIMS`."""
    loops, speech = (
        arrays.isel(example=np.flatnonzero(arrays.recording.values == kind))
        for kind in ("loop", "clean")
    )
    if not loops.sizes["example"]:
        reason = "none of the transcribed recordings makes this model loop"
        findings = {key: claim.judge(None, reason) for key, claim in CLAIMS.items()}
        return Analysis(findings, {"clean": speech_cost(speech)})
    is_resolved = resolved(loops)
    findings = _judge_components(is_resolved, config.seed)
    findings |= _judge_best("layer", (CROSS,), COMPONENTS, is_resolved, speech, config.seed)
    findings |= _judge_best("head", HEADS, HEADS, is_resolved, speech, config.seed)
    return Analysis(findings, loop_numbers(loops, is_resolved, speech))


def _judge_components(is_resolved: xr.DataArray, seed: int) -> dict[str, Finding]:
    """Compares cross-attention with self-attention and MLP: by share of tries, and by any try."""
    tries = {site: at_site(is_resolved, site) for site in COMPONENTS}
    share = {site: values.mean(("kind", "cell")).values for site, values in tries.items()}
    by_any = {site: values.max(("kind", "cell")).values for site, values in tries.items()}
    return {
        key: CLAIMS[key].judge_mean(rate[CROSS] - (rate[SELF] + rate[MLP]) / 2, seed)
        for key, rate in (("cross_attention", share), ("any_layer", by_any))
    }


def _judge_best(
    place: str,
    sites: Sequence[str],
    compared: Sequence[str],
    is_resolved: xr.DataArray,
    speech: xr.Dataset,
    seed: int,
) -> dict[str, Finding]:
    """Judges the best "layer" or "head" of `sites` among all cells of `compared`, and its cost."""
    outcomes, costs = _under_noise(is_resolved), _under_noise(wer_change(speech))
    cells = np.flatnonzero(np.isin(outcomes.site.values, compared))
    if not len(cells) or outcomes.sizes["example"] < 2:
        reason = "" if len(cells) else "heads were left out"
        return {key: CLAIMS[key].judge(None, reason) for key in (f"one_{place}", f"cheap_{place}")}
    candidates = np.flatnonzero(np.isin(outcomes.site.values[cells], sites)).tolist()
    best, evidence = best_cell(outcomes.isel(cell=cells), seed, candidates)
    cost = costs.isel(cell=cells[best]).values
    return {
        f"one_{place}": CLAIMS[f"one_{place}"].judge(evidence),
        f"cheap_{place}": CLAIMS[f"cheap_{place}"].judge_mean(cost, seed),
    }


def _under_noise(values: xr.DataArray) -> xr.DataArray:
    """Selects the white-noise patch; the only intervention if there is no such patch."""
    return values.sel(kind="noise") if "noise" in values.kind else values.isel(kind=0)


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Figure]:
    """Draws maps of resolved loops and of the cost on clean speech, a row for each intervention."""
    values = {
        "loops resolved": ("loop", resolved(arrays)),
        "ΔWER, clean": ("clean", wer_change(arrays)),
    }
    means = {
        title: numbers.isel(example=arrays.recording.values == kind).mean("example")
        for title, (kind, numbers) in values.items()
        if kind in arrays.recording.values
    }
    head_sites = [site for site in HEADS if site in arrays.site.values]
    n_columns = len(means) * (1 + len(head_sites))
    figure, axes = plots.panels(len(arrays.kind), n_columns, width=2.7, height=2.3)
    panels = iter(axes)
    for kind in map(str, arrays.kind.values):
        for title, numbers in means.items():
            of_kind = numbers.sel(kind=kind)
            parts = np.stack([layer_grid(of_kind, site)[:, 0] for site in COMPONENTS], 1)
            names, heading = ["cross", "self", "MLP"], f"{title}\nwhole parts, {kind}"
            image = plots.draw_heat_map(next(panels), parts, heading, 1.0, across=names)
            for site in head_sites:
                heading = f"{title}\n{_ATTENTION[site]} heads, {kind}"
                plots.draw_heat_map(next(panels), layer_grid(of_kind, site), heading, 1.0)
    if means:
        axes[0].set_ylabel("layer")
        legend = "share of loops; change of the word error rate"
        figure.colorbar(image, ax=axes, shrink=0.7, label=legend)
    return {"repetition": figure}


_ATTENTION: dict[str, str] = dict(zip(HEADS, ("cross-attention", "self-attention")))


STUDY = Study(
    title="Where repetition loops are resolved",
    section="section 4.5",
    about="Recordings that make the model repeat itself are transcribed again while one place of "
    "the decoder at a time is patched with its activation for white noise, or set to zero: every "
    "layer's cross-attention, self-attention and MLP, then every head. The same is done on clean "
    "speech.",
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
    claims=CLAIMS,
    differs=(
        "a loop counts as resolved only if the text gets closer to the words, where these are "
        "known; for triggers without words (reversed or mixed speech), a text that is neither "
        "empty nor repetitive is enough",
        "the chance level is ours: each loop's outcomes permuted among cells; so is the cost on "
        "clean speech",
    ),
)
