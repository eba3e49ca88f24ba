"""B1: measures how ablating each decoder head changes hallucination, loops and word errors.

Hallucination means here that a recording without speech gets words. A loop is a text that repeats
itself. A head's cost is how much its ablation raises the word error rate of clean speech.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.data.corpora import Corpus, Utterance
from experiments.item_cache import ItemCache
from experiments.studies.ablation import HEAD_SITES, ablate, mean_edits, to_dataset
from experiments.studies.best_cell import best_cell
from experiments.studies.claims import SECONDARY, Claim, Finding
from experiments.studies.head_agreement import correlation_of_heads, reliability
from experiments.studies.head_effects import atlas_figure, effects, head_names
from experiments.studies.loops.mining import mine_loops
from experiments.studies.nonspeech import nonspeech_or_noise
from experiments.studies.recordings import clean_speech
from experiments.studies.study import Analysis, Settings, Study, choice
from jaxasr import Recogniser
from jaxasr.taps import Edit

# Descriptions of the tests.
_BEST_HEAD_TEST = (
    "share of {}, for the head where this share is largest; p compares the share with the largest "
    "share of any head when each recording's outcomes are permuted across heads"
)
_LEAST_RELIABILITY = 0.3  # of the effects of heads, below which nothing can be correlated
_COST_TEST = (
    "change of the word error rate of clean speech without that head, below 0.02; both error rates "
    "are clipped at 1"
)
CLAIMS = {
    "silences": Claim(
        "Ablating one head prevents the words on recordings without speech",
        "not asked; Calm-Whisper (arXiv 2505.12969): 3 of 20 self-attention head indices account "
        "for over 75 % of such hallucinations",
        _BEST_HEAD_TEST.format(
            "recordings without speech that lose all words, minus the share that gain words"
        ),
        null=0.1,
        least=0.3,
        unit="%",
        units="recordings without speech",
        family=SECONDARY,
    ),
    "silences_cheaply": Claim(
        "Clean speech does not need the head whose ablation prevents most words without speech",
        "Calm-Whisper: word error rates hardly rise once the heads are fine-tuned",
        _COST_TEST,
        null=0.02,
        side="below",
        least=0.02,
        unit="%",
        units="clean recordings",
        min_units=8,
        family=SECONDARY,
    ),
    "unloops": Claim(
        "Ablating one head stops most loops",
        "E6: layer 18, head 13 of large-v3 resolves 78.1 % under white noise",
        _BEST_HEAD_TEST.format("loops whose text no longer repeats and is not empty"),
        null=0.5,
        least=0.64,  # half-way to the 78.1 % of the paper, whose heads get white noise
        unit="%",
        units="loops",
        family=SECONDARY,
    ),
    "unloops_cheaply": Claim(
        "Clean speech does not need the head whose ablation stops most loops",
        "not measured",
        _COST_TEST,
        null=0.02,
        side="below",
        least=0.02,
        unit="%",
        units="clean recordings",
        min_units=8,
        family=SECONDARY,
    ),
    "same_heads": Claim(
        "The heads that cause words without speech also sustain loops",
        "not asked; the paper describes the two failures separately",
        "rank correlation of the two shares over heads; recordings are resampled, heads are not; "
        "heads whose ablation raises the word error rate by more than 0.2 are excluded",
        least=0.3,
        min_units=12,
        family=SECONDARY,
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
        "zero", "'zero', or 'mean' for a head's mean over texts of other clean speech"
    )
    n_mean: int = choice(20, "clean utterances that the mean is taken over")
    hallucination: str = choice(
        "any word on a recording without speech", "before any filter; see B3 for filters"
    )


def run(asr: Recogniser, corpus: Corpus, config: Config, cache: ItemCache) -> xr.Dataset:
    """Ablates every head on all recordings.

    Returns:
        The dataset of `experiments.studies.ablation.to_dataset`, with the coordinate `recording`
        [example]: "nonspeech", "loop" or "clean".

    Raises:
        ValueError: `config.ablation` is unknown, or no clean recordings are left for the mean.
    """
    # The mean of a head is taken over clean recordings that are not scored.
    speech = clean_speech(corpus, asr, config.n_clean + config.n_mean, config.max_new_tokens)
    search_options = (config.n_loops, config.tries, cache, config.max_new_tokens)
    recordings = {  # by kind of recording
        "nonspeech": nonspeech_or_noise(corpus, config.n_nonspeech),
        "loop": mine_loops(asr, corpus, *search_options),
        "clean": speech[: config.n_clean],
    }
    ablate_heads = functools.partial(
        ablate,
        asr,
        sites=HEAD_SITES,
        kind=config.ablation,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
        means=_prepare_means(asr, speech[config.n_clean :], config),
    )
    items = [
        item
        for kind, clips in recordings.items()
        for item in cache.each(f"B1 heads, {kind}", clips, ablate_heads)
    ]
    clips = [clip for group in recordings.values() for clip in group]
    kinds = [kind for kind, group in recordings.items() for _ in group]
    arrays = to_dataset(clips, {config.ablation: items}, HEAD_SITES, asr.config)
    # A recording can be of two kinds, so an id alone is not unique.
    names = [f"{kind}: {clip.id}" for kind, clip in zip(kinds, clips)]
    return arrays.assign_coords(example=names, recording=("example", kinds))


def _prepare_means(
    asr: Recogniser, clips: Sequence[Utterance], config: Config
) -> dict[str, Edit] | None:
    """Computes the edits of mean ablation; None if heads are set to zero."""
    if config.ablation == "zero":
        return None
    if config.ablation != "mean":
        raise ValueError(f"ablation: expected 'zero' or 'mean', got {config.ablation!r}.")
    if not clips:
        raise ValueError(
            f"n_mean: expected clean recordings for the mean, in addition to the {config.n_clean} "
            "that are scored, got none. Reduce n_clean or raise n_mean."
        )
    return dict(mean_edits(asr, clips, HEAD_SITES))


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """Judges `CLAIMS` by one number per recording."""
    effects_by_name = effects(arrays)
    silenced, unlooped, cost = effects_by_name.values()
    no_loops = "none of the transcribed recordings makes this model loop"
    findings = {
        **_judge_best("silences", silenced, cost, "no recording without speech", config.seed),
        **_judge_best("unloops", unlooped, cost, no_loops, config.seed),
        "same_heads": _judge_same_heads(silenced, unlooped, cost, config.seed),
    }
    return Analysis(findings, _numbers(arrays, effects_by_name))


def _judge_best(
    key: str, effect: xr.DataArray, cost: xr.DataArray, reason: str, seed: int
) -> dict[str, Finding]:
    """Judges a claim about the head with the largest effect, and the claim about its cost.

    With fewer than two recordings, both claims are untestable because of `reason`.
    """
    claim, cost_claim = CLAIMS[key], CLAIMS[f"{key}_cheaply"]
    if effect.sizes["example"] < 2:
        return {key: claim.judge(None, reason), f"{key}_cheaply": cost_claim.judge(None, reason)}
    best, evidence = best_cell(effect, seed)
    cost_of_best = cost.isel(cell=best).values
    cost_finding = cost_claim.judge_mean(cost_of_best, seed, bounds=(-1.0, 1.0))
    return {key: claim.judge(evidence), f"{key}_cheaply": cost_finding}


def _judge_same_heads(
    silenced: xr.DataArray, unlooped: xr.DataArray, cost: xr.DataArray, seed: int
) -> Finding:
    """Correlates the two effects over the heads whose cost is at most 0.2."""
    claim = CLAIMS["same_heads"]
    if min(effect.sizes["example"] for effect in (silenced, unlooped, cost)) < 2:
        return claim.judge(None, "one of the three kinds of recordings is missing")
    harmless = cost.mean("example").values <= 0.2
    first, second = (effect.values[:, harmless] for effect in (silenced, unlooped))
    reliabilities = [reliability(effect, seed) for effect in (first, second)]
    if not min(reliabilities) >= _LEAST_RELIABILITY:  # also if one is NaN
        values = " and ".join(f"{value:.2f}" for value in reliabilities)
        return claim.judge(
            None, f"too little moves: the reliabilities of the two effects of heads are {values}"
        )
    return claim.judge(correlation_of_heads(first, second, seed))


def _numbers(arrays: xr.Dataset, effects_by_name: dict[str, xr.DataArray]) -> dict[str, Any]:
    is_nonspeech, is_clean = (arrays.recording.values == kind for kind in ("nonspeech", "clean"))
    means = {
        name: effect.mean("example").values.round(3)
        for name, effect in effects_by_name.items()
        if effect.sizes["example"]
    }
    heads = {
        name: {effect: float(values[cell]) for effect, values in means.items()}
        for cell, name in enumerate(head_names(arrays))
    }
    without_edits = {
        "n": {name: effect.sizes["example"] for name, effect in effects_by_name.items()},
        "words_without_speech": _rounded_mean(arrays.baseline_insertions.values[is_nonspeech] > 0),
        "wer_clean": _rounded_mean(arrays.baseline_wer.values[is_clean]),
    }
    return {"plain": without_edits, "heads": heads}


def _rounded_mean(values: np.ndarray) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Figure]:
    """Draws the effects of all heads by `head_effects.atlas_figure`."""
    return {"atlas": atlas_figure(arrays)}


STUDY = Study(
    title="An atlas of decoder heads: hallucination, loops and word errors together",
    section="beyond the paper (compare section 4.5 and Calm-Whisper)",
    about="Every head of the decoder's cross-attention and self-attention is ablated, one at a "
    "time, while the model transcribes recordings without speech, recordings that make it loop, "
    "and clean speech.",
    data="not asked by the paper",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "all": {
            "n_nonspeech": 200,
            "n_loops": 60,
            "tries": 4000,
            "n_clean": 100,
            "max_new_tokens": 56,
        },
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
    claims=CLAIMS,
    version=2,
)
