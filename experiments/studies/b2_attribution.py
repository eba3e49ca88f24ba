"""B2: how well attribution patching, one forward and one backward pass, ranks what exact patching finds, by site."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

import interventions
import jaxasr
from experiments.analyses import lens
from experiments.data.corpora import Corpus, Utterance
from experiments.item_cache import Arrays, Keep
from experiments.studies.recordings import clean
from experiments.studies.selection import first_window, language
from experiments.studies.study import Analysis, Claim, Settings, Study, choice
from interventions.corruptions import noise
from interventions.figures import plots

SITES = {  # by type: what is swept there
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
QUICK = (
    "decoder.cross_attn.z",
    "decoder.cross_attn.q",
    "decoder.resid_post",
    "encoder.resid_post",
)  # one of each type
TYPES = tuple(dict.fromkeys(kind for kind, _ in SITES.values()))
_TEST = "per recording, rank correlation of estimate and exact change over all cells, mean over the sites of the type; at least 0.8"
CLAIMS = {
    kind: Claim(
        f"To first order, cells are ranked as by exact patching: {kind}",
        "not asked; not published",
        _TEST,
        0.8,
        need=6,
    )
    for kind in TYPES
} | {
    "small_before_large": Claim(
        "Small patches (heads, queries, keys) are ranked better than large ones (streams, MLP)",
        "AtP (arXiv 2403.00745): first order fails where a patch is large or saturates attention",
        "per recording, mean rank correlation of the first two types less that of the others",
        need=6,
    )
}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of B2."""

    n: int = choice(50, "recordings")
    snr_db: float = choice(
        0.0,
        "white noise in the target; the source is clean. Louder noise is further from a tangent",
    )
    tokens: int = choice(8, "of the text, so that all recordings share a program")
    window_s: float = choice(0.5, "of encoder time, about a word")
    seconds: float = choice(3.0, "of encoder time that is swept")
    sites: tuple[str, ...] = choice(
        tuple(SITES), "of every type several; each takes a program of its own"
    )
    k: int = choice(20, "cells whose overlap is the precision; 10 where there are fewer than 100")
    metric: str = choice(
        "logit(clean run's next token) - logit(noisy run's)", "what the noise changed"
    )


def run(asr: Any, corpus: Corpus, config: Config, keep: Keep) -> xr.Dataset:
    """`spearman`, `pearson`, `precision` [example, site], both rankings also `uncorrected` for softmax, and the number of `cells`."""
    clips = clean(corpus, asr, config.n, at_least_s=config.seconds)
    kept = [
        one
        for one in keep.each("B2 attribution", clips, lambda clip: compared(asr, clip, config))
        if one["spearman"].size
    ]
    shape, types = (len(kept), len(config.sites)), [SITES[site][0] for site in config.sites]
    stack = {name: np.array([one[name] for one in kept], float).reshape(shape) for name in _NAMES}
    return xr.Dataset(
        {name: (("example", "site"), values) for name, values in stack.items()},
        {"example": np.arange(len(kept)), "site": list(config.sites), "type": ("site", types)},
    )


def compared(asr: Any, clip: Utterance, config: Config) -> Arrays:
    """One recording; nothing where its text is too short or noise does not change the next token."""
    audio = first_window(clip)
    mels = [
        jaxasr.log_mel(one, asr.config.n_mels)[None]
        for one in (noise(audio, config.snr_db, config.seed), audio)
    ]
    prompt = asr.tokenizer.prompt(language(clip) or "en")
    heard = [asr.model.encode(mel)[0] for mel in mels]
    said = lens.write(asr, heard[1], prompt)[: config.tokens]
    if len(said) < config.tokens:
        return {"spearman": np.zeros(0)}
    tokens = np.array([[*prompt, *said]], np.int32)
    foil, answer = (
        int(np.asarray(asr.model.decode(tokens, memory)[0])[0, -1].argmax()) for memory in heard
    )
    if answer == foil:  # the runner-up of the noisy run stands in
        foil = int(np.asarray(asr.model.decode(tokens, heard[0])[0])[0, -1].argsort()[-2])
    target, source = (interventions.Run(mel=mel, tokens=tokens).encode(asr.model) for mel in mels)
    options = {
        "metric": interventions.logit_diff(answer, foil),
        "window_s": config.window_s,
        "n_frames": round(config.seconds * 50),
    }
    estimates, plain = (
        _estimates(asr, target, source, config.sites, options | {"correction": on})
        for on in (True, False)
    )
    rows = [
        _agreements(asr, target, source, site, (estimates[site], plain[site]), config.k, options)
        for site in config.sites
    ]
    return {
        name: np.array([getattr(row[which], field) for row in rows])
        for name, (which, field) in _NAMES.items()
    }


_NAMES = {name: (0, name) for name in ("spearman", "pearson", "precision")} | {
    "cells": (0, "n"),
    "uncorrected": (1, "spearman"),
    "uncorrected_precision": (1, "precision"),
}


def _estimates(
    asr: Any, target: Any, source: Any, sites: Sequence[str], options: dict[str, Any]
) -> dict[str, xr.DataArray]:
    """Of all sites: those that are swept over time or position share their passes."""
    alone = [site for site in sites if SITES[site][1] == ("layer", "head")]
    shared = [site for site in sites if site not in alone]
    groups = ((shared, ("layer", "head", "position", "time")), (alone, ("layer", "head")))
    found = [
        interventions.attribution(
            asr.model, target=target, source=source, site=of, over=over, **options
        )
        for of, over in groups
        if of
    ]
    return {site: one for group in found for site, one in group.items()}


def _agreements(
    asr: Any,
    target: Any,
    source: Any,
    site: str,
    estimates: Sequence[xr.DataArray],
    k: int,
    options: dict[str, Any],
) -> list[Any]:
    exact = interventions.sweep(
        asr.model, target, source, site=site, over=SITES[site][1], **options
    )
    return [
        interventions.rank_agreement(exact, estimate, k if exact.size >= 100 else k // 2)
        for estimate in estimates
    ]


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """The tests of `CLAIMS`."""
    by = {
        kind: arrays.spearman.isel(site=np.flatnonzero(arrays.type.values == kind))
        .mean("site")
        .values
        for kind in TYPES
    }
    small, large = (np.mean([by[kind] for kind in kinds], 0) for kinds in (TYPES[:2], TYPES[2:]))
    findings = {kind: CLAIMS[kind].over(values, config.seed) for kind, values in by.items()}
    findings["small_before_large"] = CLAIMS["small_before_large"].over(small - large, config.seed)
    table = {
        site: {name: float(arrays[name].sel(site=site).mean().round(3)) for name in _NAMES}
        for site in arrays.site.values
    }
    return Analysis(findings, {"recordings": arrays.sizes["example"], "table": table})


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Any]:
    """Every recording's rank correlation and precision, by site."""
    figure, axes = plots.panels(1, 2, width=4.8, height=3.6, sharey=True)
    places = np.arange(arrays.sizes["site"])
    titles = ("rank correlation over cells", f"precision of the {config.k} largest cells")
    for one, name, title in zip(axes, ("spearman", "precision"), titles):
        for kind, colour in zip(TYPES, plots.COLOURS):
            rows = places[arrays.type.values == kind]
            values = arrays[name].values[:, rows]
            one.plot(
                values.ravel(),
                np.tile(rows, len(values)),
                "o",
                color=colour,
                markersize=3,
                alpha=0.35,
            )
            one.plot(
                values.mean(0) if len(values) else np.full(len(rows), np.nan),
                rows,
                "D",
                color=colour,
                markersize=7,
                label=kind,
            )
        one.set(title=title, xlim=(min(0, np.nanmin(arrays[name].values, initial=0)) - 0.02, 1.02))
        one.grid(axis="x", color="0.9")
    axes[0].set_yticks(places, arrays.site.values)
    axes[0].invert_yaxis()
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside right center",
        frameon=False,
        fontsize=7.5,
    )
    return {"agreement": figure}


STUDY = Study(
    title="Attribution against exact patching",
    section="beyond the paper (section 2 patches one place at a time)",
    about="Clean activations are patched into a noisy run, one place after another, exactly; one forward and one backward pass estimate "
    "the same. How alike are the two rankings, for heads, queries and keys, streams and MLPs of both stacks?",
    data="not asked by the paper",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "here": {"n": 8, "seconds": 2.5},
        "builtin": {"n": 8, "seconds": 2.5},
        "quick": {"n": 2, "window_s": 1.25, "sites": QUICK},
    },
)
