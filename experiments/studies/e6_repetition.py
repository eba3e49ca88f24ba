"""E6: patches decoder layers and heads to resolve repetition loops, and measures the cost.

A loop is a generated text that repeats itself. A patch resolves a loop if the new text is neither
empty nor repetitive; `mark_resolved` has the exact rule. The cost of a patch is the change of the
word error rate of clean speech.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.data.corpora import Corpus, Utterance
from experiments.item_cache import Arrays, ItemCache
from experiments.studies.ablation import (
    ABLATION_KINDS,
    COMPONENT_SITES,
    HEAD_SITES,
    ablate,
    cells_of_site,
    layer_grid,
    to_dataset,
    wer_change,
)
from experiments.studies.best_cell import best_cell
from experiments.studies.claims import Claim, Finding
from experiments.studies.loop_numbers import loop_numbers, speech_cost
from experiments.studies.recordings import clean_speech, find_loops
from experiments.studies.study import Analysis, Settings, Study, choice, paper
from interventions.edits import site_cells
from interventions.figures import plots
from jaxasr import Recogniser

CROSS, SELF, MLP = COMPONENT_SITES  # outputs of cross-attention, self-attention and MLP
_MIN_CLEAN = 8  # fewest clean recordings for a verdict on the cost, as in the preset "builtin"
_ATTENTION_NAMES: dict[str, str] = dict(zip(HEAD_SITES, ("cross-attention", "self-attention")))
# Description of the tests of the cost.
_COST_TEST = (
    "change of the word error rate of clean speech when white noise replaces {}, below 0.02"
)
CLAIMS = {
    "cross_attention": Claim(
        "Patching cross-attention resolves more loops than patching self-attention or the MLP",
        "cross-attention resolves 76 % at layer 23 and 89 % at layers 18 and 23 together; "
        "self-attention and MLP have no measurable effect",
        "per loop, share of interventions on cross-attention layers that resolve it, minus the "
        "share for self-attention and MLP layers",
    ),
    "any_layer": Claim(
        "Counting any layer, cross-attention resolves more loops than self-attention or the MLP",
        "as in the first claim; the paper counts a loop if any intervention resolves it",
        "per loop, 1 if any cross-attention layer resolves it, else 0; minus the mean of the same "
        "numbers for self-attention and for the MLP, which have as many layers",
    ),
    "one_layer": Claim(
        "The cross-attention of one layer resolves most loops",
        "layer 23 of 32: 76 %, white noise",
        "share of loops that the best cross-attention layer resolves under white noise; p "
        "compares this share with the largest share of any component when each loop's outcomes are "
        "permuted across components",
        null=0.5,
    ),
    "one_head": Claim(
        "One head resolves most loops",
        "layer 18, head 13: 78.1 %",
        "share of loops that the best head resolves under white noise; p compares this share with "
        "the largest share of any head when each loop's outcomes are permuted across heads",
        null=0.5,
    ),
    "cheap_layer": Claim(
        "Clean speech does not need the best layer's cross-attention",
        "not measured",
        _COST_TEST.format("the best layer's cross-attention"),
        null=0.02,
        side="below",
        min_units=_MIN_CLEAN,
    ),
    "cheap_head": Claim(
        "Clean speech does not need the best head",
        "not measured",
        _COST_TEST.format("the best head"),
        null=0.02,
        side="below",
        min_units=_MIN_CLEAN,
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
    kinds: tuple[str, ...] = paper(ABLATION_KINDS, "section 4.5: white-noise patch and ablation")
    heads: bool = paper(True, "section 4.5: every head after every layer")
    max_new_tokens: int = choice(
        448 - 8, "nearly the whole context of 448 tokens; the detector needs 48 tokens"
    )
    detector: str = choice(
        "an n-gram that occurs 4 times in a row (3 times from 6 tokens on), or a compression "
        "ratio > 2.4",
        "no rule was found in the paper",
    )
    noise: str = choice(
        "length and level of the recording, one seed; the decoder reads the same tokens",
        "not found in the paper; positions of recording and noise must agree",
    )


def run(asr: Recogniser, corpus: Corpus, config: Config, cache: ItemCache) -> xr.Dataset:
    """Ablates the decoder's layers and heads on loops and on clean speech.

    Returns:
        The dataset of `experiments.studies.ablation.to_dataset`, with the coordinate `recording`
        [example]: "loop" or "clean".
    """
    sites = COMPONENT_SITES + (HEAD_SITES if config.heads else ())
    loops = find_loops(asr, corpus, config.n_loops, config.tries, cache, config.max_new_tokens)
    clips = [*loops, *clean_speech(corpus, asr, config.n_clean, config.max_new_tokens)]

    def intervene(job: tuple[Utterance, str]) -> Arrays:
        clip, kind = job
        return ablate(asr, clip, sites, kind, config.max_new_tokens, config.seed)

    jobs = [(clip, kind) for clip in clips for kind in config.kinds]
    items = cache.each("E6 interventions", jobs, intervene, key=lambda job: f"{job[1]} {job[0].id}")
    n_kinds = len(config.kinds)
    # The items of one recording follow each other, one per kind.
    by_clip = [items[start : start + n_kinds] for start in range(0, len(items), n_kinds)]
    arrays = to_dataset(clips, by_clip, config.kinds, sites, site_cells(asr.config, sites))
    recordings = ["loop"] * len(loops) + ["clean"] * (len(clips) - len(loops))
    return arrays.assign_coords(recording=("example", recordings))


def mark_resolved(arrays: xr.Dataset) -> xr.DataArray:
    """Returns 1.0 where an intervention resolves a loop, else 0.0.

    The text must be neither empty nor repetitive. If the transcript is known, the character error
    rate must be lower than without the intervention.
    """
    is_closer = (arrays.cer < arrays.baseline_cer) | arrays.baseline_cer.isnull()
    return ((arrays.loop == 0) & (arrays.length > 0) & is_closer).astype(float)


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
    is_resolved = mark_resolved(loops)
    findings = _judge_components(is_resolved, config.seed)
    best_of = functools.partial(
        _judge_best, is_resolved=is_resolved, speech=speech, seed=config.seed
    )
    findings |= best_of("layer", sites=(CROSS,), null_sites=COMPONENT_SITES)
    findings |= best_of("head", sites=HEAD_SITES, null_sites=HEAD_SITES)
    return Analysis(findings, loop_numbers(loops, is_resolved, speech))


def _judge_components(is_resolved: xr.DataArray, seed: int) -> dict[str, Finding]:
    """Compares cross-attention with the mean of self-attention and MLP.

    One claim is about the mean over layers, the other about whether any layer resolves a loop.
    """
    by_site = {site: cells_of_site(is_resolved, site) for site in COMPONENT_SITES}
    mean_rate = {site: values.mean(("kind", "cell")).values for site, values in by_site.items()}
    # The largest of zeros and ones is 1 if any cell resolves the loop.
    any_rate = {site: values.max(("kind", "cell")).values for site, values in by_site.items()}
    return {
        key: CLAIMS[key].judge_mean(rate[CROSS] - (rate[SELF] + rate[MLP]) / 2, seed)
        for key, rate in (("cross_attention", mean_rate), ("any_layer", any_rate))
    }


def _judge_best(
    unit: str,
    sites: Sequence[str],
    null_sites: Sequence[str],
    is_resolved: xr.DataArray,
    speech: xr.Dataset,
    seed: int,
) -> dict[str, Finding]:
    """Judges the best layer or head, and its cost on clean speech.

    Args:
        unit: "layer" or "head".
        sites: sites whose best cell is judged.
        null_sites: sites whose cells are permuted for the p-value.
        is_resolved: result of `mark_resolved` for the loops.
        speech: results on clean speech.
        seed: seed of the bootstrap and of the permutations.
    """
    outcomes, costs = _under_noise(is_resolved), _under_noise(wer_change(speech))
    cells = np.flatnonzero(np.isin(outcomes.site.values, null_sites))
    if not len(cells) or outcomes.sizes["example"] < 2:
        reason = "" if len(cells) else "no head was ablated"
        return {key: CLAIMS[key].judge(None, reason) for key in (f"one_{unit}", f"cheap_{unit}")}
    # Positions within `cells`, because `best_cell` gets only these cells.
    candidates = np.flatnonzero(np.isin(outcomes.site.values[cells], sites)).tolist()
    best, evidence = best_cell(outcomes.isel(cell=cells), seed, candidates)
    cost = costs.isel(cell=cells[best]).values
    return {
        f"one_{unit}": CLAIMS[f"one_{unit}"].judge(evidence),
        f"cheap_{unit}": CLAIMS[f"cheap_{unit}"].judge_mean(cost, seed),
    }


def _under_noise(values: xr.DataArray) -> xr.DataArray:
    """Selects the results of the white-noise patch; without such a patch, of the first kind."""
    return values.sel(kind="noise") if "noise" in values.kind else values.isel(kind=0)


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Figure]:
    """Draws maps of resolved loops and of the cost on clean speech, one row per intervention."""
    quantities = {
        "loops resolved": ("loop", mark_resolved(arrays)),
        "ΔWER, clean": ("clean", wer_change(arrays)),
    }
    means = {
        title: values.isel(example=arrays.recording.values == recording).mean("example")
        for title, (recording, values) in quantities.items()
        if recording in arrays.recording.values
    }
    head_sites = [site for site in HEAD_SITES if site in arrays.site.values]
    n_columns = len(means) * (1 + len(head_sites))
    figure, axes = plots.panels(len(arrays.kind), n_columns, width=2.7, height=2.3)
    panels = iter(axes)
    for kind in map(str, arrays.kind.values):
        for title, mean in means.items():
            cell_means = mean.sel(kind=kind)
            component_grid = np.stack(
                [layer_grid(cell_means, site)[:, 0] for site in COMPONENT_SITES], 1
            )
            names, heading = ["cross", "self", "MLP"], f"{title}\ncomponents, {kind}"
            image = plots.draw_heat_map(next(panels), component_grid, heading, 1.0, across=names)
            for site in head_sites:
                heading = f"{title}\n{_ATTENTION_NAMES[site]} heads, {kind}"
                plots.draw_heat_map(next(panels), layer_grid(cell_means, site), heading, 1.0)
    if means:
        axes[0].set_ylabel("layer")
        legend = "share of loops; change of the word error rate"
        figure.colorbar(image, ax=axes, shrink=0.7, label=legend)
    return {"repetition": figure}


STUDY = Study(
    title="Where repetition loops are resolved",
    section="section 4.5",
    about="Recordings that make the model repeat itself are transcribed again with one part of one "
    "decoder layer changed: cross-attention, self-attention, MLP or a single head. The part is "
    "patched with its activation for white noise, or set to zero. The same changes on clean "
    "speech measure the cost.",
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
        "a loop is resolved if the text is neither empty nor repetitive; the character error rate "
        "must also fall if the transcript is known",
        "the cost on clean speech and the chance level (each loop's outcomes permuted among cells) "
        "are additions",
    ),
)
