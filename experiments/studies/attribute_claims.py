"""Defines the claims of E1, and judges them by one number per speaker or per noise."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from experiments.studies.claims import SECONDARY, Claim, Finding
from experiments.studies.probing import ProbingSettings, questions, rows_of
from experiments.studies.probing_analysis import accuracy, judge_question, layers_between

# Ranges of relative depth. `UPPER_DEPTHS` contains the paper's best layers, 22 to 27 of 32.
UPPER_DEPTHS, SHALLOW_DEPTHS = (0.69, 0.91), (0, 0.35)
CLAIMED_SNR_DB = 10  # signal-to-noise ratio of the claims; other ratios are only plotted
PAPER_ACCENTS = 4
# Probes that need no encoder layer. "embedding" is the encoder's input after the convolutions.
EMBEDDING, SPECTRUM = "embedding", "mel"
_FLOOR = "a probe of the encoder's input after the convolutions"
_LEAST_GAIN = 0.05  # smallest difference of accuracies worth having
# Descriptions of the tests.
_UPPER = "balanced accuracy at depth 0.69 to 0.91 on held-out {}"
_MINUS_SHALLOW = "balanced accuracy at depth 0.69 to 0.91, minus that below depth 0.35"
_MINUS_SPECTRUM = (
    "balanced accuracy at depth 0.69 to 0.91, minus that of a probe of the mean log-mel spectrum"
)
_MINUS_EMBEDDING = "balanced accuracy at depth 0.69 to 0.91, minus that of " + _FLOOR


def _gain(
    statement: str,
    test: str,
    paper: str = "not asked",
    *,
    units: str = "speakers",
    family: str = SECONDARY,
    floor: str = "",
) -> Claim:
    """Makes a claim about a difference of two accuracies."""
    return Claim(
        statement, paper, test, least=_LEAST_GAIN, unit="%", units=units, family=family, floor=floor
    )


CLAIMS = {
    "gender_upper": Claim(
        "A probe of the upper layers predicts the speaker's gender",
        "94.6 % at layer 25 of 32",
        _UPPER.format("speakers"),
        null=0.5,
        paper_value=0.946,
        unit="%",
        units="speakers",
        floor=_FLOOR,
    ),
    "gender_rises": _gain(
        "Upper layers predict gender better than shallow layers do",
        _MINUS_SHALLOW,
        "weaker in shallow layers",
        family="primary",
    ),
    "gender_beyond_embedding": _gain(
        "Upper layers predict gender better than the encoder's input does", _MINUS_EMBEDDING
    ),
    "gender_beyond_sound": _gain(
        "Upper layers predict gender better than the mean spectrum does", _MINUS_SPECTRUM
    ),
    "accent_upper": Claim(
        "A probe of the upper layers predicts the accent",
        "97.0 % for four accents, at layer 22",
        _UPPER.format("speakers") + "; the null is 1 / number of accents",
        null=1 / PAPER_ACCENTS,
        paper_value=0.970,
        unit="%",
        units="speakers",
        floor=_FLOOR,
    ),
    "accent_rises": _gain(
        "Upper layers predict the accent better than shallow layers do",
        _MINUS_SHALLOW,
        "weaker in shallow layers",
        family="primary",
    ),
    "condition_upper": Claim(
        "A probe of the upper layers distinguishes LibriSpeech's subsets clean and other",
        "90.0 % at layer 27",
        _UPPER.format("speakers"),
        null=0.5,
        paper_value=0.900,
        unit="%",
        units="speakers",
        floor=_FLOOR,
    ),
    "noise_upper": Claim(
        f"A probe of the upper layers detects noise added at {CLAIMED_SNR_DB} dB",
        "not asked; LibriSpeech's clean and other also differ in speakers and difficulty",
        _UPPER.format("speakers and noises"),
        null=0.5,
        least=0.75,
        unit="%",
        units="noises",
        family=SECONDARY,
        floor=_FLOOR,
    ),
    "noise_rises": _gain(
        "Upper layers detect added noise better than shallow layers do",
        _MINUS_SHALLOW,
        units="noises",
    ),
    "noise_beyond_embedding": _gain(
        "Upper layers detect added noise better than the encoder's input does",
        _MINUS_EMBEDDING,
        units="noises",
    ),
    "noise_beyond_sound": _gain(
        "Upper layers detect added noise better than the mean spectrum does",
        _MINUS_SPECTRUM,
        units="noises",
    ),
    "knows_more_than_it_says": Claim(
        "A probe predicts gender better than the model's answer to a question does",
        "94.6 % against 87.8 %",
        "accuracy of the probe, minus that of the answer",
        paper_value=0.068,
        unit="%",
        units="speakers",
    ),
}
_QWEN_MISSING = "Whisper does not answer questions; run E1 on an audio language model"


def judge_claims(arrays: xr.Dataset, config: ProbingSettings) -> dict[str, Finding]:
    """Judges `CLAIMS`.

    Args:
        arrays: from `experiments.studies.probing.concatenate`.
        config: has the seed of the bootstrap.

    Returns:
        The finding of each claim.
    """
    noise = f"noise {CLAIMED_SNR_DB} dB"
    gains = {
        "gender_rises": ("gender", _gain_over_shallow),
        "gender_beyond_embedding": ("gender", _gain_over(EMBEDDING)),
        "gender_beyond_sound": ("gender", _gain_over(SPECTRUM)),
        "accent_rises": ("accent", _gain_over_shallow),
        "noise_rises": (noise, _gain_over_shallow),
        "noise_beyond_embedding": (noise, _gain_over(EMBEDDING)),
        "noise_beyond_sound": (noise, _gain_over(SPECTRUM)),
    }
    accuracies = {"gender_upper": "gender", "condition_upper": "condition", "noise_upper": noise}
    findings = {
        key: judge_question(CLAIMS[key], arrays, question, gain, config)
        for key, (question, gain) in gains.items()
    } | {
        key: judge_question(
            CLAIMS[key], arrays, question, _upper, config, bounds=(0.0, 1.0), floor=EMBEDDING
        )
        for key, question in accuracies.items()
    }
    findings["accent_upper"] = _judge_accent(arrays, config)
    knows_more = CLAIMS["knows_more_than_it_says"]
    findings["knows_more_than_it_says"] = (
        judge_question(knows_more, arrays, "gender", _probe_minus_answer, config)
        if "answered" in arrays
        else knows_more.judge(None, _QWEN_MISSING)
    )
    return {key: findings[key] for key in CLAIMS}


def _judge_accent(arrays: xr.Dataset, config: ProbingSettings) -> Finding:
    """Judges the accent by speakers. Its null depends on the number of accents."""
    claim = CLAIMS["accent_upper"]
    if "accent" in questions(arrays):
        n_accents = len(set(rows_of(arrays, "accent").label.values))
        if n_accents != PAPER_ACCENTS:  # the paper's number is for another chance level
            null = 1 / n_accents
            least = (null + 1) / 2
            claim = dataclasses.replace(claim, null=null, paper_value=None, least=least)
    return judge_question(
        claim, arrays, "accent", _upper, config, bounds=(0.0, 1.0), floor=EMBEDDING
    )


def summarize_permuted_accents(arrays: xr.Dataset) -> dict[str, Any]:
    """Compares the accuracy on accents with that on accents permuted over speakers.

    No verdict depends on these numbers. Permuted accents test whether speakers of one accent are
    more alike than others, and the claim is about the accuracy on further speakers.

    Args:
        arrays: results of E1.

    Returns:
        The mean accuracy for permuted accents, and the two-sided p-value of the accuracy among
        them. Empty if accents were not probed.
    """
    if "accent_null" not in arrays:
        return {}
    permuted = arrays.accent_null.values
    p = permutation_p(float(_upper(rows_of(arrays, "accent")).mean()), permuted)
    return {"permuted_accents": {"mean": float(permuted.mean()), "n": len(permuted), "p": p}}


def permutation_p(value: float, permuted: Sequence[float] | np.ndarray) -> float:
    """Returns the two-sided p-value of a value among those of permuted labels.

    The observed labels count as one permutation, so that p is never 0.

    Example:
        >>> permutation_p(0.9, [0.2, 0.3, 0.25])
        0.5
    """
    permuted = np.asarray(permuted, float)
    tails = [(permuted >= value).sum(), (permuted <= value).sum()]
    return float(min(1.0, 2 * (1 + min(tails)) / (1 + len(permuted))))


def _upper(rows: xr.Dataset) -> np.ndarray:
    return accuracy(rows, layers_between(rows, *UPPER_DEPTHS))


def _probe_minus_answer(rows: xr.Dataset) -> np.ndarray:
    """Subtracts the accuracy of the model's answers from that of the probes."""
    # An answer has no layer; every layer stands for it.
    answered = rows.answered.expand_dims(layer=rows.layer)
    layers = [str(layer) for layer in rows.layer.values]
    return _upper(rows) - accuracy(rows.assign(answered=answered), layers, "answered")


def _gain_over(baseline: str) -> Callable[[xr.Dataset], np.ndarray]:
    return lambda rows: _upper(rows) - accuracy(rows, baseline)


def _gain_over_shallow(rows: xr.Dataset) -> np.ndarray:
    return _upper(rows) - accuracy(rows, layers_between(rows, *SHALLOW_DEPTHS))
