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
from experiments.studies.head_claims import CLAIMS, ChosenHead, chosen_heads, judge_claims
from experiments.studies.head_effects import atlas_figure, effects, head_names
from experiments.studies.loops.mining import mine_loops
from experiments.studies.nonspeech import nonspeech_or_noise, source_of
from experiments.studies.recordings import clean_speech
from experiments.studies.study import Analysis, Settings, Study, choice
from jaxasr import Recogniser
from jaxasr.taps import Edit


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
        The dataset of `experiments.studies.ablation.to_dataset`, with coordinates along `example`:
        `recording` ("nonspeech", "loop" or "clean") and `source`, such as the speaker.

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
    # A loop may be made from several recordings, so its search names the source.
    sources = [
        str(clip.label("source")) if kind == "loop" else source_of(clip)
        for kind, clip in zip(kinds, clips)
    ]
    return arrays.assign_coords(
        example=names, recording=("example", kinds), source=("example", sources)
    )


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
    """Judges `head_claims.CLAIMS`."""
    chosen = chosen_heads(arrays, config.seed)
    return Analysis(judge_claims(arrays, chosen, config.seed), _numbers(arrays, chosen))


def _numbers(arrays: xr.Dataset, chosen: dict[str, ChosenHead | None]) -> dict[str, Any]:
    effects_by_name = effects(arrays)
    is_nonspeech, is_clean = (arrays.recording.values == kind for kind in ("nonspeech", "clean"))
    means = {
        name: effect.mean("example").values.round(3)
        for name, effect in effects_by_name.items()
        if effect.sizes["example"]
    }
    names = head_names(arrays)
    heads = {
        name: {effect: float(values[cell]) for effect, values in means.items()}
        for cell, name in enumerate(names)
    }
    chosen_heads = {
        key: {"head": names[head.cell], "choosing": head.share_choosing, "n": head.n_choosing}
        for key, head in chosen.items()
        if head is not None
    }
    without_edits = {
        "n": {name: effect.sizes["example"] for name, effect in effects_by_name.items()},
        "words_without_speech": _rounded_mean(arrays.baseline_insertions.values[is_nonspeech] > 0),
        "wer_clean": _rounded_mean(arrays.baseline_wer.values[is_clean]),
    }
    return {"plain": without_edits, "chosen": chosen_heads, "heads": heads}


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
    "and clean speech. The best heads are chosen on the sources of one half of the recordings, and "
    "judged on the other half.",
    data="not asked by the paper",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "all": {
            "n_nonspeech": 120,
            "n_loops": 60,
            "tries": 4000,
            "n_clean": 100,
            "max_new_tokens": 56,
        },
        "here": {"n_nonspeech": 24, "n_loops": 10, "tries": 30, "n_clean": 8, "max_new_tokens": 40},
        "builtin": {
            "n_nonspeech": 24,
            "n_loops": 12,
            "tries": 20,
            "n_clean": 8,
            "max_new_tokens": 48,
        },
        "quick": {"n_nonspeech": 4, "n_loops": 2, "tries": 4, "n_clean": 2, "max_new_tokens": 32},
    },
    claims=CLAIMS,
    version=3,
)
