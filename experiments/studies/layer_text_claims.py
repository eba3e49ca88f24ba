"""Defines the claims of E7 about texts generated from encoder layers, and judges them."""

import dataclasses
import functools

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from experiments.analyses.text_kinds import CATEGORIES
from experiments.studies.claims import Claim, Finding
from experiments.studies.evidence import Evidence, mean_evidence, share_evidence
from experiments.studies.study import layers_in_band

_claim = functools.partial(Claim, unit="%", units="speakers")
CLAIMS = {
    "loops_below_the_top": _claim(
        "Repetition loops are most common just below the top layer",
        "loops in about 60 % of samples at layers 27 to 30 of 32, most at layer 30",
        "per recording, share of loops in layers at depth 0.84 to 0.94 (or the nearest layer below "
        "the top), minus the share in all other layers",
        paper_value=0.6,
    ),
    "mostly_loops": _claim(
        "Most texts of the layers just below the top are loops",
        "about 60 %",
        "share of loops in layers at depth 0.84 to 0.94 (or the nearest layer below the top)",
        null=0.5,
        paper_value=0.6,
    ),
    "silent_below": _claim(
        "The lower two thirds of the encoder give empty texts or lone punctuation",
        "layers 0 to 22 of 32: mostly empty strings or lone punctuation",
        "share of empty texts and lone punctuation in layers at depth 0 to 0.69",
        null=0.5,
        least=0.75,
    ),
    "ungrounded_between": _claim(
        "Some texts of layers at depth 0.62 to 0.84 are fluent but ungrounded (not about the "
        "recording)",
        "layers 20 to 27 of 32: occasionally fluent, ungrounded completions",
        "share of recordings with an ungrounded text at depth 0.62 to 0.84; the null is the "
        "paper's occasionally, taken as one in twenty",
        null=0.05,
        least=0.1,
    ),
    "ungrounded_only_there": _claim(
        "Ungrounded texts are more common at depth 0.62 to 0.84 than in the other layers",
        "layers 20 to 27 of 32: occasionally fluent, ungrounded completions",
        "per recording, share of ungrounded texts at depth 0.62 to 0.84, minus the share in all "
        "other layers",
        least=0.05,
    ),
    "right_at_the_top": _claim(
        "The transcript appears only in the last layer",
        "layers 31 and 32 of 32: the fluent, right transcript",
        "per recording, fall of the word error rate (at most 1, against the final text) in the "
        "last layer, minus its mean fall per other layer",
        least=0.5,
        floor="a lens that fails in all other layers, because the error of the last layer is 0 by "
        "definition",
    ),
}


def judge_claims(arrays: xr.Dataset, seed: int) -> dict[str, Finding]:
    """Judges `CLAIMS`, with speakers as units.

    Args:
        arrays: `kind` and `wer` [example, depth], and the coordinate `speaker` [example].
        seed: seed of the bootstrap.

    Returns:
        The finding of each claim.
    """
    speakers, depths = arrays.speaker.values, arrays.depth.values
    loops, other_loops = _share_in_band(arrays, "loop", low=0.84, high=0.94)
    ungrounded, other_ungrounded = _share_in_band(arrays, "ungrounded", low=0.62, high=0.84)
    without_words = is_kind(arrays, "empty") | is_kind(arrays, "punctuation")
    lower_layers = layers_in_band(depths, low=0, high=0.69)
    # wer_fall[:, i] is the fall from entry i of `depth` to entry i + 1.
    wer_fall = -np.diff(np.minimum(arrays.wer.values, 1), axis=1)
    shares = {
        "mostly_loops": loops,
        "silent_below": without_words[:, lower_layers].mean(1),
        "ungrounded_between": ungrounded > 0,
    }
    differences = {
        "loops_below_the_top": loops - other_loops,
        "ungrounded_only_there": ungrounded - other_ungrounded,
        "right_at_the_top": wer_fall[:, -1] - wer_fall[:, :-1].mean(1),
    }
    evidence = {
        key: _share(values, speakers, CLAIMS[key].null, seed) for key, values in shares.items()
    } | {
        key: mean_evidence(values, speakers, bounds=(-1.0, 1.0), seed=seed)
        for key, values in differences.items()
    }
    # The largest fall: the error is 1 in all other layers and 0 in the last one.
    evidence["right_at_the_top"] = dataclasses.replace(evidence["right_at_the_top"], floor=1.0)
    return {key: claim.judge(evidence[key]) for key, claim in CLAIMS.items()}


def _share(values: np.ndarray, speakers: np.ndarray, null: float, seed: int) -> Evidence:
    """Estimates a share. The interval is exact if every value is 0 or 1, as in a single layer."""
    if np.isin(values, (0, 1)).all():
        return share_evidence(values, speakers, null=null)
    return mean_evidence(values, speakers, null=null, bounds=(0.0, 1.0), seed=seed)


def is_kind(arrays: xr.Dataset, kind: str) -> Bool[np.ndarray, "N L"]:
    """Marks the texts of one of `CATEGORIES`."""
    return arrays.kind.values == CATEGORIES.index(kind)


def _share_in_band(
    arrays: xr.Dataset, kind: str, low: float, high: float
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """Computes each recording's share of a kind of text inside and outside a band of depths."""
    inside, texts = layers_in_band(arrays.depth.values, low, high), is_kind(arrays, kind)
    return texts[:, inside].mean(1), np.delete(texts, inside, axis=1).mean(1)
