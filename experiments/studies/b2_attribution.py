"""B2: compares the ranking of cells by attribution patching with that by exact patching."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import interventions
import jaxasr
from experiments.data.corpora import Corpus, Utterance
from experiments.data.real_speech import select_evenly
from experiments.item_cache import Arrays, ItemCache
from experiments.studies.attribution_claims import (
    CLAIMS,
    GOOD_RANK,
    OTHER_SPEAKER,
    SITE_TYPES,
    SWEPT_SITES,
    WHITE_NOISE,
    judge_claims,
)
from experiments.studies.recordings import clean_speech
from experiments.studies.selection import (
    cross_validation_groups,
    first_window,
    language,
    limit_per_speaker,
    set_of,
)
from experiments.studies.study import Analysis, Settings, Study, choice
from interventions.corruptions import add, noise
from interventions.figures import plots
from jaxasr import Memory, Recogniser
from jaxasr.config import FRAMES_PER_S

# Sites of the preset "quick", one of each type.
QUICK_SITES = (
    "decoder.cross_attn.z",
    "decoder.cross_attn.q",
    "decoder.resid_post",
    "encoder.resid_post",
)
# Value of the argument `correction` of `interventions.attribution`, by name of the estimate. The
# correction is for the saturation of the attention softmax.
ESTIMATES = {"corrected": True, "plain": False}
# Variables of the results. Each has an estimate and a field of `interventions.rank_agreement`.
RESULT_VARIABLES = {
    "spearman": ("corrected", "spearman"),
    "pearson": ("corrected", "pearson"),
    "precision": ("corrected", "precision"),
    "cells": ("corrected", "n"),
    "uncorrected": ("plain", "spearman"),
    "uncorrected_precision": ("plain", "precision"),
}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of B2."""

    n: int = choice(50, "recordings, each of another speaker")
    corruptions: tuple[str, ...] = choice(
        (WHITE_NOISE, OTHER_SPEAKER), "a stationary sound, and one with words and rhythm"
    )
    snr_db: float = choice(
        0.0, "signal-to-noise ratio in dB of the noisy run; louder noise makes estimates worse"
    )
    tokens: int = choice(8, "tokens per text, so that all recordings share a compiled program")
    window_s: float = choice(0.5, "seconds of encoder time per patch, about the length of a word")
    seconds: float = choice(3.0, "seconds of encoder time that are patched, from the start")
    sites: tuple[str, ...] = choice(
        tuple(SWEPT_SITES), "two to four of each type; each site needs a separate program"
    )
    k: int = choice(
        20, "compared cells per site, those with the largest changes; half as many below 100 cells"
    )
    metric: str = choice(
        "logit(clean run's next token) - logit(noisy run's)", "the noise changes this difference"
    )


def run(asr: Recogniser, corpus: Corpus, config: Config, cache: ItemCache) -> xr.Dataset:
    """Compares estimated with exact changes for every recording and corruption.

    Returns:
        `RESULT_VARIABLES` [example, corruption, site], and `type` [site]. Recordings whose text has
        fewer than `config.tokens` tokens are dropped.
    """
    candidates = clean_speech(corpus, asr, len(corpus), at_least_s=config.seconds)
    # One recording more per speaker is not independent.
    clips = select_evenly(limit_per_speaker(candidates, 1), config.n, set_of)
    # The other speaker of a recording is that of the recording before it.
    jobs = [
        _Job(clip, clips[i - 1], corruption)
        for i, clip in enumerate(clips)
        for corruption in config.corruptions
    ]
    compare = functools.partial(compare_estimates, asr, config=config)
    items = cache.each("B2 attribution", jobs, compare, key=lambda job: job.name)
    by_clip = np.arange(len(items)).reshape(len(clips), len(config.corruptions))
    # `compare_estimates` returns an empty array for a text that is too short.
    kept = [row for row in range(len(clips)) if items[by_clip[row, 0]]["spearman"].size]
    shape = (len(kept), len(config.corruptions), len(config.sites))
    speakers = cross_validation_groups(clips)
    values = {
        name: np.array([items[i][name] for i in by_clip[kept].ravel()], float).reshape(shape)
        for name in RESULT_VARIABLES
    }
    return xr.Dataset(
        {name: (("example", "corruption", "site"), array) for name, array in values.items()},
        {
            "example": [clips[row].id for row in kept],
            "speaker": ("example", [speakers[clips[row].id] for row in kept]),
            "corruption": list(config.corruptions),
            "site": list(config.sites),
            "type": ("site", [SWEPT_SITES[site][0] for site in config.sites]),
        },
    )


@dataclasses.dataclass(frozen=True)
class _Job:
    """A recording, a recording of another speaker, and the corruption to make."""

    clip: Utterance
    other: Utterance
    corruption: str

    @property
    def name(self) -> str:
        return f"{self.clip.id} {self.corruption}"


def _corrupt(job: _Job, config: Config) -> Float[np.ndarray, "n"]:
    audio = first_window(job.clip)
    if job.corruption == WHITE_NOISE:
        return noise(audio, config.snr_db, config.seed)
    return add(audio, first_window(job.other), config.snr_db, config.seed)


def compare_estimates(asr: Recogniser, job: _Job, config: Config) -> Arrays:
    """Compares estimated with exact changes of one recording under one corruption.

    Returns:
        `RESULT_VARIABLES` [site]. If the text has fewer than `config.tokens` tokens, only
        `spearman`, which is then empty.
    """
    recordings = (_corrupt(job, config), first_window(job.clip))  # target, source
    mels = [jaxasr.log_mel(samples, asr.config.n_mels)[None] for samples in recordings]
    noisy, clean = (asr.model.encode(mel)[0] for mel in mels)
    prompt = asr.tokenizer.prompt(language(job.clip) or "en")
    [ids] = asr.generate(clean, prompt, max_new_tokens=config.tokens).ids
    if len(ids) < config.tokens:
        return {"spearman": np.zeros(0)}
    tokens = jnp.array([[*prompt, *ids]], jnp.int32)
    target, source = (interventions.Run(mel=mel, tokens=tokens).encode(asr.model) for mel in mels)
    options = {
        "metric": interventions.logit_diff(*_answer_and_foil(asr, tokens, clean, noisy)),
        "window_s": config.window_s,
        "n_frames": round(config.seconds * FRAMES_PER_S),
    }
    estimates = {
        name: _estimate_changes(
            asr, target, source, config.sites, options | {"correction": correction}
        )
        for name, correction in ESTIMATES.items()
    }
    agreements: dict[str, list[Any]] = {name: [] for name in ESTIMATES}
    for site in config.sites:
        exact = interventions.sweep(
            asr.model, target, source, site=site, over=SWEPT_SITES[site][1], **options
        )
        k = config.k if exact.size >= 100 else config.k // 2
        for name in ESTIMATES:
            agreement = interventions.rank_agreement(exact, estimates[name][site], k)
            agreements[name].append(agreement)
    return {
        name: np.array([getattr(agreement, field) for agreement in agreements[estimate]])
        for name, (estimate, field) in RESULT_VARIABLES.items()
    }


def _answer_and_foil(
    asr: Recogniser, tokens: Int[Array, "1 T"], clean: Memory, noisy: Memory
) -> tuple[int, int]:
    """Returns the next token of the clean run (answer) and that of the noisy run (foil).

    If both tokens are equal, the foil is the second most probable token of the noisy run.
    """
    clean_logits, noisy_logits = (
        np.asarray(asr.model.decode(tokens, memory)[0])[0, -1] for memory in (clean, noisy)
    )
    answer, foil = int(clean_logits.argmax()), int(noisy_logits.argmax())
    return answer, int(noisy_logits.argsort()[-2]) if answer == foil else foil


def _estimate_changes(
    asr: Recogniser,
    target: interventions.Run,
    source: interventions.Run,
    sites: tuple[str, ...],
    options: dict[str, Any],
) -> dict[str, xr.DataArray]:
    """Estimates the changes at all sites.

    Sites without a position need a call of their own. In a call, each site uses those dimensions of
    `over` that it has.
    """
    sites_by_head = [site for site in sites if SWEPT_SITES[site][1] == ("layer", "head")]
    sites_by_position = [site for site in sites if site not in sites_by_head]
    estimates: dict[str, xr.DataArray] = {}
    for group, over in (
        (sites_by_position, ("layer", "head", "position", "time")),
        (sites_by_head, ("layer", "head")),
    ):
        if group:
            estimates |= interventions.attribution(
                asr.model, target=target, source=source, site=group, over=over, **options
            )
    return estimates


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """Judges `CLAIMS` by one number per recording."""
    table = {
        str(corruption): {
            str(site): _means(arrays.sel(corruption=corruption, site=site))
            for site in arrays.site.values
        }
        for corruption in arrays.corruption.values
    }
    return Analysis(
        judge_claims(arrays, config.seed), {"recordings": arrays.sizes["example"], "table": table}
    )


def _means(rows: xr.Dataset) -> dict[str, float]:
    return {name: round(float(rows[name].mean()), 3) for name in RESULT_VARIABLES}


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Figure]:
    """Draws every recording's rank correlation by site, with one panel per corruption."""
    corruptions = arrays.corruption.values
    figure, axes = plots.panels(1, len(corruptions), width=4.8, height=3.6, sharey=True)
    for panel, corruption in zip(axes, corruptions):
        values = arrays.spearman.sel(corruption=corruption)
        _draw_sites(panel, values)
        # A rank correlation can be negative.
        left = min(0, np.nanmin(values.values, initial=0)) - 0.02
        panel.set(title=f"rank correlation over cells\n{corruption}", xlim=(left, 1.02))
        panel.axvline(GOOD_RANK, color=plots.GREY, linestyle=":", linewidth=1)
        panel.grid(axis="x", color="0.9")
    axes[0].set_yticks(np.arange(arrays.sizes["site"]), arrays.site.values)
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=7.5)
    return {"agreement": figure}


def _draw_sites(axes: Axes, values: xr.DataArray) -> None:
    """Draws a dot per recording and a diamond for the mean, in a row per site."""
    for site_type, colour in zip(SITE_TYPES, plots.COLOURS):
        rows = np.flatnonzero(values.type.values == site_type)
        dots = values.values[:, rows]
        means = dots.mean(0) if len(dots) else np.full(len(rows), np.nan)
        # `ravel` runs over recordings first, so the rows repeat once per recording.
        heights, style = np.tile(rows, len(dots)), {"markersize": 3, "alpha": 0.35}
        axes.plot(dots.ravel(), heights, "o", color=colour, **style)
        axes.plot(means, rows, "D", color=colour, markersize=7, label=site_type)


STUDY = Study(
    title="Attribution patching compared with exact patching",
    section="beyond the paper (section 2 patches one place at a time)",
    about="Exact patching copies activations of a clean run into a noisy run, one cell at a time. "
    "Attribution patching estimates all these changes by one forward and one backward pass. The "
    "study compares the two rankings of cells for each type of site.",
    data="not asked by the paper",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "all": {"seconds": 2.0},
        "here": {"n": 10, "seconds": 2.5, "corruptions": (WHITE_NOISE,)},
        "builtin": {"n": 8, "seconds": 2.5, "corruptions": (WHITE_NOISE,)},
        "quick": {"n": 2, "window_s": 1.25, "sites": QUICK_SITES},
    },
    claims=CLAIMS,
    version=2,
)
