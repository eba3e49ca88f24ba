"""Judges the claims of E6 about repetition loops."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from experiments.studies.ablation import HEAD_SITES, MEAN, NOISE, ZERO, wer_change
from experiments.studies.claims import Finding
from experiments.studies.evidence import Evidence, mean_evidence, share_evidence
from experiments.studies.loop_claims import CLAIMS
from experiments.studies.loop_outcomes import CROSS, HEAD, MLP, RANDOM, SELF, UNIT_SITES, Outcomes

_DIFFERENCE = (-1.0, 1.0)  # smallest and largest difference of two shares
Share = Callable[[str, Sequence[str]], Float[np.ndarray, "N"]]  # a method of `Outcomes`


def judge(
    outcomes: Outcomes,
    speech: xr.Dataset,
    sticky: Bool[np.ndarray, "N"],
    copies: Bool[np.ndarray, "N"],
    seed: int,
) -> dict[str, Finding]:
    """Judges `CLAIMS`.

    Args:
        outcomes: outcomes of loops.
        speech: results of `ablation.to_dataset` for clean speech, with the coordinate `source`.
        sticky: whether a loop survives small changes of its input.
        copies: whether self-attention copies tokens in a loop.
        seed: seed of the bootstraps.
    """
    findings = _judge_parts(outcomes, seed) | _judge_types(outcomes, copies, seed)
    for unit in UNIT_SITES:
        findings |= _judge_chosen(outcomes, unit, speech, seed)
    return findings | _judge_sticky(outcomes, sticky, seed)


def contrast_of_parts(share: Share, kind: str) -> Float[np.ndarray, "N"]:
    """Subtracts the mean share of self-attention and MLP from the share of cross-attention."""
    others = [share(kind, (site,)) for site in (SELF, MLP)]
    return share(kind, (CROSS,)) - np.mean(others, 0)


def _judge_parts(outcomes: Outcomes, seed: int) -> dict[str, Finding]:
    mean_share, any_share = outcomes.mean_share, outcomes.any_share
    noise, random = (mean_share(kind, (CROSS,)) for kind in (NOISE, RANDOM))
    differences = {
        "noise_parts": contrast_of_parts(mean_share, NOISE),
        "zero_parts": contrast_of_parts(mean_share, ZERO),
        "mean_parts": contrast_of_parts(mean_share, MEAN),
        "any_layer": contrast_of_parts(any_share, NOISE),
        "beyond_random": noise - random,
    }
    floors = {
        "noise_parts": contrast_of_parts(mean_share, RANDOM),
        "any_layer": contrast_of_parts(any_share, RANDOM),
    }
    findings = {
        key: _judge_difference(key, values, outcomes.sources, seed, floors.get(key))
        for key, values in differences.items()
    }
    others = outcomes.any_share(NOISE, (SELF, MLP))
    inert = share_evidence(others, outcomes.sources, null=CLAIMS["others_inert"].null)
    return findings | {"others_inert": CLAIMS["others_inert"].judge(inert)}


def _judge_chosen(
    outcomes: Outcomes, unit: str, speech: xr.Dataset, seed: int
) -> dict[str, Finding]:
    """Judges the chosen layer or head on the other half of the loops, and its cost."""
    keys = {f"one_{unit}", f"{unit}_beyond_others", f"cheap_{unit}"}
    keys |= {"head_beyond_random"} if unit == HEAD else set()
    chosen = outcomes.choose(NOISE, unit) if outcomes.kinds(NOISE) else None
    if chosen is None:
        reason = f"no {unit} was chosen, because none was patched or no loop is in that half"
        return {key: CLAIMS[key].judge(None, reason) for key in keys}
    rows, sources = outcomes.confirming, outcomes.sources[outcomes.confirming]
    cells = outcomes.cells(NOISE, UNIT_SITES[unit])
    others = [cell for cell in cells if cell != chosen]
    resolved = outcomes.values(NOISE, [chosen])[rows, 0]
    random = outcomes.values(RANDOM, [chosen])[rows, 0] if outcomes.kinds(RANDOM) else None
    share = share_evidence(resolved, sources, null=CLAIMS[f"one_{unit}"].null)
    of_others = outcomes.values(NOISE, others)[rows].mean(1) if others else np.nan
    cost = mean_cost(speech, NOISE, chosen, CLAIMS[f"cheap_{unit}"].null, seed)
    findings = {
        f"one_{unit}": CLAIMS[f"one_{unit}"].judge(_with_floor(share, random)),
        f"{unit}_beyond_others": _judge_difference(
            f"{unit}_beyond_others", resolved - of_others, sources, seed
        ),
        f"cheap_{unit}": CLAIMS[f"cheap_{unit}"].judge(cost),
    }
    if unit == HEAD:
        key, missing = "head_beyond_random", resolved * np.nan
        difference = missing if random is None else resolved - random
        findings[key] = _judge_difference(key, difference, sources, seed)
    return findings


def mean_cost(speech: xr.Dataset, kind: str, cell: int, null: float, seed: int) -> Evidence:
    """Estimates the mean change of the word error rate of clean speech, clustered by source."""
    if kind not in speech.kind.values:
        return Evidence(np.nan, np.nan, np.nan, 0)
    values = wer_change(speech).sel(kind=kind).isel(cell=cell).values
    clusters = speech.source.values.astype(str)
    return mean_evidence(values, clusters, null=null, bounds=_DIFFERENCE, seed=seed)


def _judge_sticky(
    outcomes: Outcomes, sticky: Bool[np.ndarray, "N"], seed: int
) -> dict[str, Finding]:
    claim = CLAIMS["sticky_head"]
    chosen = outcomes.choose(NOISE, HEAD) if outcomes.kinds(NOISE) else None
    if chosen is None:
        return {"sticky_head": claim.judge(None, "no head was chosen")}
    rows = outcomes.confirming & sticky
    resolved = outcomes.values(NOISE, [chosen])[rows, 0]
    evidence = share_evidence(resolved, outcomes.sources[rows], null=claim.null)
    return {"sticky_head": claim.judge(evidence)}


def _judge_types(
    outcomes: Outcomes, copies: Bool[np.ndarray, "N"], seed: int
) -> dict[str, Finding]:
    """Compares loops whose self-attention copies tokens with other loops."""
    cross_head, self_head = ((site,) for site in HEAD_SITES)
    values = outcomes.mean_share(NOISE, self_head) - outcomes.mean_share(NOISE, cross_head)
    key, groups = "types_differ", [copies, ~copies]
    if min(len(np.unique(outcomes.sources[group])) for group in groups) < CLAIMS[key].min_units:
        sizes = " and ".join(str(int(group.sum())) for group in groups)
        return {key: CLAIMS[key].judge(None, f"{sizes} loops with and without copies")}
    difference = values[copies].mean() - values[~copies].mean()
    # Deviations from the mean of the group, so weighted that their spread is that of the difference
    # of the two means.
    pseudo_values = np.full(len(values), difference)
    for group, sign in zip(groups, (1, -1)):
        deviation = values[group] - values[group].mean()
        pseudo_values[group] += sign * len(values) / group.sum() * deviation
    evidence = mean_evidence(pseudo_values, outcomes.sources, null=CLAIMS[key].null, seed=seed)
    return {key: CLAIMS[key].judge(evidence)}


def _judge_difference(
    key: str,
    values: Float[np.ndarray, "N"],
    sources: np.ndarray,
    seed: int,
    floor: Float[np.ndarray, "N"] | None = None,
) -> Finding:
    claim = CLAIMS[key]
    evidence = mean_evidence(values, sources, null=claim.null, bounds=_DIFFERENCE, seed=seed)
    return claim.judge(_with_floor(evidence, floor))


def _with_floor(evidence: Evidence, floor: np.ndarray | None) -> Evidence:
    """Adds the mean of the control, if the control was run."""
    if floor is None or not np.isfinite(floor).all():
        return evidence
    return dataclasses.replace(evidence, floor=float(floor.mean()))
