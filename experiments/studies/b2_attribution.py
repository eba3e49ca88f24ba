"""B2: how well attribution patching ranks the cells that exact patching ranks, by type of site."""

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
from experiments.item_cache import Arrays, Keep
from experiments.studies.recordings import clean_speech
from experiments.studies.selection import first_window, language
from experiments.studies.study import Analysis, Claim, Settings, Study, choice
from interventions.corruptions import noise
from interventions.figures import plots
from jaxasr import Memory, Recogniser
from jaxasr.config import FRAMES_PER_S

# Type of each site, and the dimensions that are swept there.
SITES = {
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
ONE_PER_TYPE = (
    "decoder.cross_attn.z",
    "decoder.cross_attn.q",
    "decoder.resid_post",
    "encoder.resid_post",
)
TYPES = tuple(dict.fromkeys(kind for kind, _ in SITES.values()))
_TEST = (
    "per recording, rank correlation of estimated and exact change over all cells, mean over the "
    "sites of the type; at least 0.8"
)
CLAIMS = {
    kind: Claim(
        f"First-order estimates rank cells as exact patching does: {kind}",
        "not asked; not published",
        _TEST,
        0.8,
        min_examples=6,
    )
    for kind in TYPES
} | {
    "small_before_large": Claim(
        "Small patches (heads, queries, keys) are ranked better than large ones (streams, MLP)",
        "AtP (arXiv 2403.00745): first order fails where a patch is large or saturates attention",
        "per recording, mean rank correlation of the first two types, minus that of the others",
        min_examples=6,
    )
}
CORRECTIONS = {"corrected": True, "plain": False}  # for the saturation of the softmax
# Variables of the results: the estimate they are about, and the field of its agreement.
VARIABLES = {
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
        0.0, "white noise in the target; the source is clean. Louder noise is harder to linearise"
    )
    tokens: int = choice(8, "of the text, so that all recordings share a program")
    window_s: float = choice(0.5, "of encoder time, about a word")
    seconds: float = choice(3.0, "of encoder time that is swept")
    sites: tuple[str, ...] = choice(
        tuple(SITES), "several of each type; each takes a program of its own"
    )
    k: int = choice(20, "cells whose overlap is the precision; 10 if there are fewer than 100")
    metric: str = choice(
        "logit(clean run's next token) - logit(noisy run's)", "what the noise changes"
    )


def run(asr: Recogniser, corpus: Corpus, config: Config, keep: Keep) -> xr.Dataset:
    """Compares estimates with exact changes: `VARIABLES` [example, site]."""
    clips = clean_speech(corpus, asr, config.n, at_least_s=config.seconds)
    compare = functools.partial(compare_estimates, asr, config=config)
    items = [item for item in keep.each("B2 attribution", clips, compare) if item["spearman"].size]
    shape, types = (len(items), len(config.sites)), [SITES[site][0] for site in config.sites]
    values = {
        name: np.array([item[name] for item in items], float).reshape(shape) for name in VARIABLES
    }
    return xr.Dataset(
        {name: (("example", "site"), table) for name, table in values.items()},
        {"example": np.arange(len(items)), "site": list(config.sites), "type": ("site", types)},
    )


def compare_estimates(asr: Recogniser, clip: Utterance, config: Config) -> Arrays:
    """Compares estimated with exact changes of one recording.

    Returns:
        `VARIABLES` [site]; an empty `spearman` if the recording's text is too short.
    """
    audio = first_window(clip)
    recordings = (noise(audio, config.snr_db, config.seed), audio)
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
        name: _estimates(asr, target, source, config.sites, options | {"correction": correction})
        for name, correction in CORRECTIONS.items()
    }
    agreements: dict[str, list[Any]] = {name: [] for name in CORRECTIONS}
    for site in config.sites:
        exact = interventions.sweep(
            asr.model, target, source, site=site, over=SITES[site][1], **options
        )
        k = config.k if exact.size >= 100 else config.k // 2
        for name in CORRECTIONS:
            agreement = interventions.rank_agreement(exact, estimates[name][site], k)
            agreements[name].append(agreement)
    return {
        name: np.array([getattr(agreement, field) for agreement in agreements[estimate]])
        for name, (estimate, field) in VARIABLES.items()
    }


def _answer_and_foil(
    asr: Recogniser, tokens: Int[Array, "1 T"], clean: Memory, noisy: Memory
) -> tuple[int, int]:
    """Returns the next token of the clean run and that of the noisy run.

    If they are equal, the noisy run's second choice is the foil.
    """
    clean_logits, noisy_logits = (
        np.asarray(asr.model.decode(tokens, memory)[0])[0, -1] for memory in (clean, noisy)
    )
    answer, foil = int(clean_logits.argmax()), int(noisy_logits.argmax())
    return answer, int(noisy_logits.argsort()[-2]) if answer == foil else foil


def _estimates(
    asr: Recogniser,
    target: interventions.Run,
    source: interventions.Run,
    sites: tuple[str, ...],
    options: dict[str, Any],
) -> dict[str, xr.DataArray]:
    """Estimates all sites; those that are swept over position or time share their passes."""
    whole = [site for site in sites if SITES[site][1] == ("layer", "head")]
    local = [site for site in sites if site not in whole]
    estimates: dict[str, xr.DataArray] = {}
    for group, over in ((local, ("layer", "head", "position", "time")), (whole, ("layer", "head"))):
        if group:
            estimates |= interventions.attribution(
                asr.model, target=target, source=source, site=group, over=over, **options
            )
    return estimates


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """Judges `CLAIMS` over recordings."""
    by_type = {
        kind: arrays.spearman.isel(site=np.flatnonzero(arrays.type.values == kind))
        .mean("site")
        .values
        for kind in TYPES
    }
    small, large = (
        np.mean([by_type[kind] for kind in kinds], 0) for kinds in (TYPES[:2], TYPES[2:])
    )
    values = by_type | {"small_before_large": small - large}
    findings = {key: CLAIMS[key].judge_mean(value, config.seed) for key, value in values.items()}
    table = {
        site: {name: float(arrays[name].sel(site=site).mean().round(3)) for name in VARIABLES}
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
    for kind, colour in zip(TYPES, plots.COLOURS):
        rows = np.flatnonzero(values.type.values == kind)
        dots = values.values[:, rows]
        means = dots.mean(0) if len(dots) else np.full(len(rows), np.nan)
        heights, style = np.tile(rows, len(dots)), {"markersize": 3, "alpha": 0.35}
        axes.plot(dots.ravel(), heights, "o", color=colour, **style)
        axes.plot(means, rows, "D", color=colour, markersize=7, label=kind)


STUDY = Study(
    title="Attribution patching compared with exact patching",
    section="beyond the paper (section 2 patches one place at a time)",
    about="Activations of a clean run are patched into a noisy run, one place at a time. One "
    "forward and one backward pass estimate the same changes. The study compares the two rankings "
    "for heads, queries and keys, streams and MLPs of both stacks.",
    data="not asked by the paper",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "here": {"n": 8, "seconds": 2.5},
        "builtin": {"n": 8, "seconds": 2.5},
        "quick": {"n": 2, "window_s": 1.25, "sites": ONE_PER_TYPE},
    },
    claims=CLAIMS,
)
