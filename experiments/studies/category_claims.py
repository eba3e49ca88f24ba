"""Defines the claims of E2, and judges them by one number per word."""

import dataclasses

import numpy as np
import xarray as xr

from experiments.data import phonemes
from experiments.studies.claims import SECONDARY, Claim, Finding
from experiments.studies.probing import ProbingSettings
from experiments.studies.probing_analysis import (
    accuracy,
    group_evidence,
    judge_groups,
    layers_between,
)

# Ranges of relative depth: the paper's last layers, and its layers 18 to 21 of 32.
TOP_DEPTHS, MIDDLE_DEPTHS = (0.9, 1), (0.56, 0.69)
# Description of the first test. The other tests subtract a second accuracy from this accuracy.
_TOP_ACCURACY = "accuracy on held-out words at depth 0.9 to 1, mean over pairs"
PHONEMES, SPELLING = "phonemes", "token embedding"


def _gain(
    statement: str,
    baseline: str,
    paper: str = "not asked",
    family: str = SECONDARY,
    floor: str = "",
) -> Claim:
    """Makes a claim about the accuracy of the top layers, minus another accuracy."""
    return Claim(
        statement,
        paper,
        f"{_TOP_ACCURACY}, minus {baseline}",
        least=0.05,
        unit="%",
        units="words",
        family=family,
        floor=floor,
    )


CLAIMS = {
    "top": Claim(
        "A probe of the top layers distinguishes semantic categories",
        "final layer: 85.6 % on average over pairs, 96.7 % for the best pair",
        _TOP_ACCURACY,
        null=0.5,
        paper_value=0.856,
        unit="%",
        units="words",
        floor="a probe of phoneme counts, their sum and the duration",
    ),
    "rises": _gain(
        "The top layers distinguish categories better than the layers at two thirds of the depth",
        "that at depth 0.56 to 0.69",
        "Fig. 1: above chance at layers 18 to 21, most pairs above 80 % from layer 28 on",
        family="primary",
    ),
    "beyond_sound": _gain(
        "The top layers distinguish categories better than the mean spectrum does",
        "that of a probe of the mean log-mel spectrum",
    ),
    "beyond_embedding": _gain(
        "The top layers distinguish categories better than the encoder's input does",
        "that of a probe of the encoder's input after the convolutions",
    ),
    "beyond_phonemes": _gain(
        "The top layers distinguish categories better than the words' phonemes and lengths do",
        "that of a probe of phoneme counts, their sum and the duration",
    ),
    "beyond_spelling": _gain(
        "The top layers distinguish categories better than the embeddings of the words' tokens do",
        "that of a probe of the decoder's embeddings of the words' tokens",
    ),
}


def judge_claims(arrays: xr.Dataset, config: ProbingSettings) -> dict[str, Finding]:
    """Judges `CLAIMS`.

    Args:
        arrays: from `experiments.studies.probing.concatenate`, with rows of every pair.
        config: has the seed of the bootstrap.

    Returns:
        The finding of each claim.
    """
    top, middle = (
        accuracy(arrays, layers_between(arrays, *depths)) for depths in (TOP_DEPTHS, MIDDLE_DEPTHS)
    )
    evidence = group_evidence(top, CLAIMS["top"].null, (0.0, 1.0), config.seed)
    if PHONEMES in arrays.layer.values:
        floor = float(accuracy(arrays, PHONEMES).mean())
        evidence = dataclasses.replace(evidence, floor=floor)
    findings = {
        "top": CLAIMS["top"].judge(evidence),
        "rises": judge_groups(CLAIMS["rises"], top - middle, config),
    }
    baselines = {
        "beyond_sound": "mel",
        "beyond_embedding": "embedding",
        "beyond_phonemes": PHONEMES,
        "beyond_spelling": SPELLING,
    }
    for key, baseline in baselines.items():
        findings[key] = _judge_beyond(CLAIMS[key], arrays, top, baseline, config)
    return findings


def _judge_beyond(
    claim: Claim, arrays: xr.Dataset, top: np.ndarray, baseline: str, config: ProbingSettings
) -> Finding:
    if baseline not in arrays.layer.values:
        reason = phonemes.ESPEAK_MISSING if baseline == PHONEMES else f"no probe of {baseline}"
        return claim.judge(None, reason)
    return judge_groups(claim, top - accuracy(arrays, baseline), config)
