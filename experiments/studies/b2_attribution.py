"""B2: compares the ranking of cells by attribution patching with that by exact patching."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import interventions
import jaxasr
from experiments.data.corpora import Corpus, Utterance
from experiments.item_cache import Arrays, ItemCache
from experiments.studies.claims import Claim
from experiments.studies.recordings import clean_speech
from experiments.studies.selection import first_window, language
from experiments.studies.study import Analysis, Settings, Study, choice
from interventions.corruptions import noise
from interventions.figures import plots
from jaxasr import Memory, Recogniser
from jaxasr.config import FRAMES_PER_S

# Type of each site, and the dimensions that the site is swept over.
SWEPT_SITES = {
    "decoder.cross_attn.z": ("heads", ("layer", "head", "position")),
    "decoder.attn.z": ("heads", ("layer", "head", "position")),
    "encoder.attn.z": ("heads", ("layer", "head")),
    "decoder.cross_attn.q": ("queries and keys", ("layer", "head", "position")),
    "decoder.cross_attn.k": ("queries and keys", ("layer", "head", "time")),
    "decoder.attn.q": ("queries and keys", ("layer", "head", "position")),
    "decoder.attn.k": ("queries and keys", ("layer", "head", "position")),
    "decoder.resid_post": ("decoder stream and MLP", ("layer", "position")),
    "decoder.mlp_out": ("decoder stream and MLP", ("layer", "position")),
    "encoder.resid_post": ("encoder stream and MLP", ("layer", "time")),
    "encoder.mlp_out": ("encoder stream and MLP", ("layer", "time")),
}
# Sites of the preset "quick", one of each type.
QUICK_SITES = (
    "decoder.cross_attn.z",
    "decoder.cross_attn.q",
    "decoder.resid_post",
    "encoder.resid_post",
)
SITE_TYPES = tuple(dict.fromkeys(site_type for site_type, _ in SWEPT_SITES.values()))
_RANK_TEST = (
    "per recording, rank correlation over cells between estimated and exact changes, averaged over "
    "the sites of the type; at least 0.8"
)
# With fewer recordings, the smallest possible p-value of the sign-flip test is above 0.05.
_MIN_RECORDINGS = 6
CLAIMS = {
    site_type: Claim(
        f"First-order estimates rank cells as exact patching does: {site_type}",
        "not asked; not published",
        _RANK_TEST,
        null=0.8,
        min_units=_MIN_RECORDINGS,
    )
    for site_type in SITE_TYPES
} | {
    "small_before_large": Claim(
        "Small patches (heads, queries, keys) are ranked better than large ones (streams, MLP)",
        "AtP (arXiv 2403.00745): estimates fail if a patch is large or saturates attention",
        "per recording, mean rank correlation of the small patches, minus that of the large ones",
        min_units=_MIN_RECORDINGS,
    )
}
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

    n: int = choice(50, "recordings")
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
    """Compares estimated with exact changes for every recording.

    Returns:
        `RESULT_VARIABLES` [example, site], and `type` [site]. Recordings whose text has fewer than
        `config.tokens` tokens are dropped.
    """
    clips = clean_speech(corpus, asr, config.n, at_least_s=config.seconds)
    compare = functools.partial(compare_estimates, asr, config=config)
    # `compare_estimates` returns an empty array for a text that is too short.
    items = [item for item in cache.each("B2 attribution", clips, compare) if item["spearman"].size]
    shape, types = (len(items), len(config.sites)), [SWEPT_SITES[site][0] for site in config.sites]
    values = {
        name: np.array([item[name] for item in items], float).reshape(shape)
        for name in RESULT_VARIABLES
    }
    return xr.Dataset(
        {name: (("example", "site"), array) for name, array in values.items()},
        {"example": np.arange(len(items)), "site": list(config.sites), "type": ("site", types)},
    )


def compare_estimates(asr: Recogniser, clip: Utterance, config: Config) -> Arrays:
    """Compares estimated with exact changes of one recording.

    Returns:
        `RESULT_VARIABLES` [site]. If the text has fewer than `config.tokens` tokens, only
        `spearman`, which is then empty.
    """
    audio = first_window(clip)
    recordings = (noise(audio, config.snr_db, config.seed), audio)  # target, source
    mels = [jaxasr.log_mel(samples, asr.config.n_mels)[None] for samples in recordings]
    noisy, clean = (asr.model.encode(mel)[0] for mel in mels)
    prompt = asr.tokenizer.prompt(language(clip) or "en")
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
    by_type = {
        site_type: arrays.spearman.isel(site=np.flatnonzero(arrays.type.values == site_type))
        .mean("site")
        .values
        for site_type in SITE_TYPES
    }
    # The first two types (heads, queries and keys) are small patches, all others are large ones.
    small, large = (
        np.mean([by_type[site_type] for site_type in types], 0)
        for types in (SITE_TYPES[:2], SITE_TYPES[2:])
    )
    values = by_type | {"small_before_large": small - large}
    findings = {key: CLAIMS[key].judge_mean(value, config.seed) for key, value in values.items()}
    table = {
        site: {
            name: float(arrays[name].sel(site=site).mean().round(3)) for name in RESULT_VARIABLES
        }
        for site in arrays.site.values
    }
    return Analysis(findings, {"recordings": arrays.sizes["example"], "table": table})


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Figure]:
    """Draws every recording's rank correlation and precision, by site."""
    figure, axes = plots.panels(1, 2, width=4.8, height=3.6, sharey=True)
    titles = {
        "spearman": "rank correlation over cells",
        "precision": f"precision of the {config.k} largest cells",
    }
    for panel, (name, title) in zip(axes, titles.items()):
        _draw_sites(panel, arrays[name])
        # A rank correlation can be negative.
        left = min(0, np.nanmin(arrays[name].values, initial=0)) - 0.02
        panel.set(title=title, xlim=(left, 1.02))
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
        "here": {"n": 8, "seconds": 2.5},
        "builtin": {"n": 8, "seconds": 2.5},
        "quick": {"n": 2, "window_s": 1.25, "sites": QUICK_SITES},
    },
    claims=CLAIMS,
)
