"""Defines the claims of E8 about the selection of tokens, and judges them."""

import dataclasses
import functools

import numpy as np
import xarray as xr
from jaxtyping import Float

from experiments.data.phonemes import ESPEAK_MISSING
from experiments.studies.claims import SECONDARY, Claim, Finding
from experiments.studies.evidence import mean_evidence
from experiments.studies.study import layers_in_band

# Ranges of relative depth: the paper's last three layers, and its layers up to 20, of 32.
TOP_DEPTHS, LOWER_DEPTHS = (0.9, 1), (0, 0.625)
SIMILARITY_DEPTH = 0.78  # the similarities of the paper change at layer 25 of 32
_claim = functools.partial(Claim, units="speakers")
CLAIMS = {
    "commits_late": _claim(
        "The final token becomes probable only in late layers",
        "low until about layer 20 of 32, then a steep rise; nearly 1 in the last three layers",
        "per recording, mean probability of the final token at depth 0.9 to 1, minus that at depth "
        "0 to 0.62; the null exceeds the value of an even rise in any model, and the least effect "
        'is half-way from there to 0.9, which is "nearly 1" minus "low"',
        null=0.67,
        least=0.785,
        unit="%",
        floor="a probability that rises evenly over the layers",
    ),
    "saturates_late": _claim(
        "The saturation layer is in the upper third",
        "Fig. 2: a dashed line to the right of the rise; a number was not found",
        "per recording, mean depth of the saturation layer; the null is layer 20 of 32, and the "
        "least effect is half-way from there to layer 25",
        null=0.625,
        least=0.703,
        floor="a saturation layer that is drawn at random",
    ),
    "sounds_alike": _claim(
        "With depth, the other candidates become more similar to the final token in sound",
        "phoneme error rate falls with depth, visibly near layer 25 of 32",
        "phoneme error rate of the other top-5 candidates against the final token, minus their "
        "rate against another token of the text; the mean of this difference below depth 0.78, "
        "minus its mean above",
        least=0.05,
        unit="%",
    ),
    "means_alike": _claim(
        "With depth, the other candidates become more similar to the final token in meaning",
        "cosine similarity rises quickly after layer 25 of 32",
        "cosine of the other top-5 candidates with the final token; its mean above depth 0.78, "
        "minus its mean below",
        least=0.05,
    ),
    "stays_closer": _claim(
        "With depth, the other candidates become more similar in meaning to the final token than "
        "to another token of the text",
        "not asked",
        "cosine of the other top-5 candidates with the final token, minus their cosine with "
        "another token of the text; the mean of this difference above depth 0.78, minus its mean "
        "below",
        least=0.05,
        family=SECONDARY,
    ),
    "looks_ahead_late": _claim(
        "The next token of the text is among the candidates only near the top",
        "Whisper: a sharp rise at layer 29 of 32 only",
        "how often the next token is among the top 5, minus how often tokens further away are; "
        "the mean of this difference at depth 0.9 to 1, minus its mean below",
        least=0.05,
        unit="%",
    ),
    "earlier_than_qwen": _claim(
        "Whisper saturates earlier than Qwen2-Audio",
        "Fig. 2: Whisper's dashed line is to the left of Qwen's; a number was not found",
        "difference of mean saturation depths",
        side="below",
        least=-0.05,
    ),
}
_QWEN_MISSING = "no result of an audio language model; --compare takes one"
_WHISPER_MISSING = "no result of Whisper; --compare takes one"


def judge_claims(arrays: xr.Dataset, seed: int) -> dict[str, Finding]:
    """Judges `CLAIMS` by one number per recording, with speakers as units.

    Args:
        arrays: the results of a run of E8.
        seed: seed of the bootstrap.

    Returns:
        The finding of each claim.
    """
    depth = arrays.depth.values
    top, lower = layers_in_band(depth, *TOP_DEPTHS), layers_in_band(depth, *LOWER_DEPTHS)
    below_top = np.setdiff1d(np.arange(len(depth)), top)
    shallow = np.flatnonzero(depth < SIMILARITY_DEPTH)
    deep = np.flatnonzero(depth >= SIMILARITY_DEPTH)
    # The null minus the rate, because a smaller phoneme error rate means a more similar sound.
    sound = (arrays.sound_others_null - arrays.sound_others).values
    meaning = arrays.meaning_others.values
    next_token = (arrays.hit.sel(offset=1) - arrays.hit_null).values
    # Values per recording, and their smallest and largest possible value.
    values = {
        "commits_late": (_gain_with_depth(arrays.prob.values, lower, top), (-1, 1)),
        "saturates_late": (arrays.saturation.values, (0, 1)),
        "sounds_alike": (_gain_with_depth(sound, shallow, deep), (-2, 2)),
        "means_alike": (_gain_with_depth(meaning, shallow, deep), (-2, 2)),
        "stays_closer": (
            _gain_with_depth(meaning - arrays.meaning_others_null.values, shallow, deep),
            (-4, 4),
        ),
        "looks_ahead_late": (_gain_with_depth(next_token, below_top, top), (-2, 2)),
    }
    floors = {
        "commits_late": float(depth[top].mean() - depth[lower].mean()),
        "saturates_late": float(depth.mean()),
    }
    findings = {}
    for key, (numbers, bounds) in values.items():
        claim = CLAIMS[key]
        evidence = mean_evidence(
            numbers, arrays.speaker.values, null=claim.null, bounds=bounds, seed=seed
        )
        findings[key] = claim.judge(dataclasses.replace(evidence, floor=floors.get(key)))
    if np.isnan(sound).all():  # espeak-ng is not installed
        findings["sounds_alike"] = CLAIMS["sounds_alike"].judge(None, ESPEAK_MISSING)
    missing = _WHISPER_MISSING if "family" in arrays.attrs else _QWEN_MISSING
    findings["earlier_than_qwen"] = CLAIMS["earlier_than_qwen"].judge(None, missing)
    return {key: findings[key] for key in CLAIMS}


def compare_saturation(arrays: xr.Dataset, other: xr.Dataset, seed: int) -> dict[str, Finding]:
    """Judges whether Whisper saturates earlier than an audio language model.

    The number of a recording is Whisper's mean saturation depth minus that of the other model.

    Args:
        arrays: the results of a run of E8.
        other: those of a model of the other kind, with some of the same recordings.
        seed: seed of the bootstrap.

    Raises:
        ValueError: both results are of Whisper, or neither is.
    """
    claim, both = CLAIMS["earlier_than_qwen"], (arrays, other)
    if reasons := [x.attrs["untestable"] for x in both if "untestable" in x.attrs]:
        return {"earlier_than_qwen": claim.judge(None, reasons[0])}
    ours = [x for x in both if "family" not in x.attrs]
    if len(ours) != 1:
        families = " and ".join(x.attrs.get("family", "whisper") for x in both)
        raise ValueError(
            f"--compare: expected a result of Whisper and one of an audio language model, got "
            f"{families}."
        )
    [whisper], [lm] = ours, [x for x in both if "family" in x.attrs]
    shared = np.intersect1d(whisper.example.values, lm.example.values)
    if not shared.size:
        return {"earlier_than_qwen": claim.judge(None, "the two results share no recording")}
    whisper, lm = whisper.sel(example=shared), lm.sel(example=shared)
    difference = whisper.saturation.values - lm.saturation.values
    evidence = mean_evidence(difference, whisper.speaker.values, bounds=(-1, 1), seed=seed)
    return {"earlier_than_qwen": claim.judge(evidence)}


def _gain_with_depth(
    values: Float[np.ndarray, "N L"], lower: np.ndarray, upper: np.ndarray
) -> Float[np.ndarray, "N"]:
    return values[:, upper].mean(1) - values[:, lower].mean(1)
