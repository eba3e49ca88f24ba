"""Judges the claims of study E5."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from experiments.studies.claims import SECONDARY, Claim, Finding
from experiments.studies.context import effects, splice_claims
from experiments.studies.context.grid import WINDOWS
from experiments.studies.context.spoken_word import FITTING, ODD
from experiments.studies.evidence import mean_evidence, paired_evidence, share_evidence
from experiments.studies.halves import CHOOSE, CONFIRM, halves
from experiments.studies.language_claims import PaperNumber, claims_of
from experiments.studies.study import Analysis

_LEAST_LOGITS = 0.25  # changes the odds of the two words by a factor of 1.3
_GAIN = (
    "per sentence, mean shift of logit(odd word) - logit(fitting word) by patches of single places "
    "of the {} towards white noise, minus the shift by random moves of equal length"
)
_ANY = "share of contextual errors whose odd word becomes the most likely one under any patch {}"
_LOGITS = {"least": _LEAST_LOGITS, "unit": "logits", "units": "sentences"}
_SHARES = {"null": 0.5, "unit": "%", "units": "sentences", "floor": "equally many random moves"}
CLAIMS = {
    "context": Claim(
        "Context overrides the spoken word",
        "in 153 of 700 sentences (21.9 %), only the target word is wrong",
        "share of sentences whose odd word is transcribed as the fitting word, minus the share "
        "whose fitting word is transcribed as the odd word",
        paper_value=0.219,
        unit="%",
        units="sentences",
        floor="the odd word in a neutral sentence",
    ),
    "encoder": Claim(
        "Noise in the encoder moves the logits to the spoken word more than random moves do",
        "claimed, without a number in logits",
        _GAIN.format("encoder"),
        **_LOGITS,
    ),
    "decoder": Claim(
        "Noise in the decoder moves the logits to the spoken word more than random moves do",
        "claimed, without a number in logits",
        _GAIN.format("decoder"),
        **_LOGITS,
    ),
    "anywhere": Claim(
        "In most errors, some patch restores the spoken word",
        "88.9 % of errors, by any of many patches",
        _ANY.format("of encoder or decoder towards noise"),
        paper_value=0.889,
        **_SHARES,
    ),
    "anywhere_encoder": Claim(
        "In most errors, some patch of the encoder restores the spoken word",
        "85.0 % of errors, by any of many patches",
        _ANY.format("of the encoder towards noise"),
        paper_value=0.85,
        **_SHARES,
    ),
    "anywhere_decoder": Claim(
        "In most errors, some patch of the decoder restores the spoken word",
        "82.4 % of errors, by any of many patches",
        _ANY.format("of the decoder towards noise"),
        paper_value=0.824,
        **_SHARES,
    ),
    "beyond_random": Claim(
        "Noise restores more errors than as many random moves",
        "not reported",
        "share of errors that any patch towards noise restores, minus the share that any random "
        "move restores, at the same places and strengths",
        least=0.1,
        unit="%",
        units="sentences",
        family=SECONDARY,
    ),
    "frames": Claim(
        "Noise in the context's frames moves the logits to the spoken word more than noise in the "
        "word's frames does",
        "not reported",
        "per sentence, shift by noise in the context's frames, minus the shift by noise in the "
        "word's frames; mean over the thirds of the encoder's layers",
        family=SECONDARY,
        **_LOGITS,
    ),
    "context_frames": Claim(
        "Noise in the context's frames moves the logits to the spoken word more than random moves "
        "do",
        "not reported",
        "per sentence, shift by noise in the context's frames, minus the shift by a random move in "
        "the same frames",
        family=SECONDARY,
        **_LOGITS,
    ),
    "removes_context": Claim(
        "Noise in the encoder moves the logits to the spoken word more if there is context",
        "not reported",
        "per sentence, shift by noise in the encoder, minus the shift in a neutral sentence",
        family=SECONDARY,
        **_LOGITS,
    ),
    "one_place": Claim(
        "Noise in one place moves the logits to the spoken word more than a random move does",
        "not reported",
        "place and strength with the largest shift beyond a random move on one half of the "
        "sentences; its shift beyond a random move on the other half",
        family=SECONDARY,
        **_LOGITS,
    ),
}
# What the paper reports for Qwen2-Audio, by claim.
_OF_QWEN = {
    "context": PaperNumber(
        "in 251 of 700 sentences (35.9 %), only the target word is wrong", 0.359
    ),
    "anywhere": PaperNumber("70.1 % of errors, by any of many patches", 0.701),
    "anywhere_encoder": PaperNumber("68.1 % of errors, by any of many patches", 0.681),
    "anywhere_decoder": PaperNumber("58.6 % of errors, by any of many patches", 0.586),
}
_NO_FRAMES = (
    "the word's frames are not known; an audio language model needs recordings with times of words"
)
ALL_CLAIMS = {**CLAIMS, **splice_claims.CLAIMS}


def analyse(arrays: xr.Dataset, seed: int) -> Analysis:
    """Judges `ALL_CLAIMS`."""
    spliced, whole = (effects.of_speech(arrays, spliced=value) for value in (True, False))
    findings, numbers = _analyse_whole(whole, seed)
    numbers["spliced"] = splice_claims.numbers(spliced)
    return Analysis({**findings, **splice_claims.judge(spliced, seed)}, numbers)


def _analyse_whole(arrays: xr.Dataset, seed: int) -> tuple[dict[str, Finding], dict[str, Any]]:
    """Judges `CLAIMS` of sentences that are spoken as a whole."""
    if not (arrays.condition.values == "odd").any():
        reason = "no voice is installed: pip install jaxasr[voice]"
        return {key: claim.judge(None, reason) for key, claim in CLAIMS.items()}, {}
    claims = claims_of(arrays, CLAIMS, _OF_QWEN)
    findings = {
        "context": _judge_context(arrays, claims["context"], seed),
        **_judge_shifts(arrays, seed),
        **_judge_restored(arrays, claims),
    }
    findings["one_place"], best = _judge_one_place(arrays, seed)
    ordered = {key: findings[key] for key in CLAIMS}
    return ordered, _numbers(arrays) | {"best_place": best}


def _judge_context(arrays: xr.Dataset, claim: Claim, seed: int) -> Finding:
    errors = _transcribed_as(arrays, "odd", FITTING)
    reverse = _transcribed_as(arrays, "fitting", ODD)
    neutral = list(_transcribed_as(arrays, "carrier", FITTING).values())
    differences = [error - reverse[name] for name, error in errors.items() if name in reverse]
    evidence = mean_evidence(np.array(differences, float), bounds=(-1, 1), seed=seed)
    floor = float(np.mean(neutral)) if neutral else None
    return claim.judge(dataclasses.replace(evidence, floor=floor))


def _transcribed_as(arrays: xr.Dataset, condition: str, word: int) -> dict[str, float]:
    """Returns whether each sentence of a condition is transcribed with `word`."""
    chosen = arrays.isel(example=np.flatnonzero(arrays.condition.values == condition))
    return dict(zip(chosen.sentence.values, (chosen.transcribed.values == word).astype(float)))


def _judge_shifts(arrays: xr.Dataset, seed: int) -> dict[str, Finding]:
    gain = effects.gains(arrays)
    context, word = (
        effects.mean_shift(arrays, kind="noise", window=window) for window in ("context", "word")
    )
    random = effects.mean_shift(arrays, kind="random", window="context")
    values = {
        stack: gain.values[:, gain.part.values == stack].mean(1) for stack in ("encoder", "decoder")
    }
    values |= {
        "frames": context - word,
        "context_frames": context - random,
        "removes_context": effects.paired_conditions(arrays, "odd", "carrier"),
    }
    return {
        # `mean_evidence` drops recordings whose word has no known frames.
        key: CLAIMS[key].judge(None, _NO_FRAMES)
        if key.endswith("frames") and len(shift) and np.isnan(shift).all()
        else CLAIMS[key].judge_mean(shift, seed)
        for key, shift in values.items()
    }


def _judge_restored(arrays: xr.Dataset, claims: Mapping[str, Claim]) -> dict[str, Finding]:
    is_restored = effects.restored(arrays)
    noise = is_restored.isel(cell=np.flatnonzero(is_restored.kind.values == "noise"))
    findings = {}
    stacks: dict[str, dict[str, str]] = {
        "": {},
        "_encoder": {"part": "encoder"},
        "_decoder": {"part": "decoder"},
    }
    for key, labels in stacks.items():
        claim = claims[f"anywhere{key}"]
        evidence = share_evidence(effects.by_any(noise, **labels), null=claim.null)
        floor = _restored_by_random(is_restored, labels)
        findings[f"anywhere{key}"] = claim.judge(dataclasses.replace(evidence, floor=floor))
    matched = effects.matched_strengths(is_restored)
    findings["beyond_random"] = CLAIMS["beyond_random"].judge(
        paired_evidence(*(effects.by_any(matched, kind=kind) for kind in ("noise", "random")))
    )
    return findings


def _restored_by_random(is_restored: xr.DataArray, labels: dict[str, str]) -> float | None:
    """Returns the share that all random moves restore; None without an error."""
    shares = effects.by_any(is_restored, kind="random", **labels)
    return float(shares.mean()) if shares.size else None


def _judge_one_place(arrays: xr.Dataset, seed: int) -> tuple[Finding, dict[str, Any]]:
    """Chooses the place on one half of the sentences, and judges it on the other."""
    gain = effects.gains(arrays)
    half = halves(gain.sentence.values, seed)
    to_choose, to_confirm = gain.values[half == CHOOSE], gain.values[half == CONFIRM]
    if not len(to_choose) or not len(to_confirm):
        return CLAIMS["one_place"].judge(None, "one half of the sentences is empty"), {}
    best = int(to_choose.mean(0).argmax())
    place = {"name": str(gain.place.values[best]), "alpha": float(gain.alpha.values[best])}
    chosen = {"chosen_on": len(to_choose), "shift_on_choose": float(to_choose[:, best].mean())}
    return CLAIMS["one_place"].judge_mean(to_confirm[:, best], seed), place | chosen


def _numbers(arrays: xr.Dataset) -> dict[str, Any]:
    """Returns the numbers of sentences and patches, and mean shifts."""
    is_restored, shift = effects.restored(arrays), effects.shifts(arrays)
    acts = effects.acting(arrays)
    kinds = {
        f"shift {stack} {kind}": float(
            shift.values[
                :, acts & (shift.part.values == stack) & (shift.kind.values == kind)
            ].mean()
        )
        for stack in ("encoder", "decoder")
        for kind in ("noise", "random")
    }
    idle = (arrays.unit.values == "place") & ~acts
    return {
        "sentences": int(arrays.attrs.get("sentences", shift.sizes["example"])),
        "sentences_past_the_gate": shift.sizes["example"],
        "contextual_errors": is_restored.sizes["example"],
        "tries": {
            kind: int((is_restored.kind.values == kind).sum()) for kind in ("noise", "random")
        },
        "places_without_effect": sorted(set(arrays.place.values[idle].tolist())),
        "windows": {
            f"{kind} {window}": float(
                effects.mean_shift(arrays, part="encoder", kind=kind, window=window).mean()
            )
            for kind in ("noise", "random")
            for window in WINDOWS
            if kind == "noise" or window == "context"
        },
        **kinds,
    }
