"""Defines the claims of B1, and judges heads that were chosen on the other half of the sources."""

import dataclasses
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from experiments.studies.claims import SECONDARY, Claim, Finding
from experiments.studies.halves import halves
from experiments.studies.head_agreement import correlation_of_heads, reliability
from experiments.studies.head_effects import effects
from experiments.studies.loop_outcomes import HEAD, Outcomes, can_act
from experiments.studies.loop_verdicts import mean_cost

# Descriptions of the tests.
_CHOSEN_TEST = (
    "{}; one half of the sources chooses the head, and the number is that of the other half"
)
_LEAST_RELIABILITY = 0.3  # of the effects of heads, below which nothing can be correlated
_COST: dict[str, Any] = {
    "test": "change of the word error rate of clean speech without that head; rates above 1 count "
    "as 1",
    "null": 0.02,
    "side": "below",
    "least": 0.02,
    "unit": "%",
    "units": "speakers",
    "family": SECONDARY,
}
# Names of the effects that heads are chosen by, and why none may be chosen, by key of the claim.
_EFFECTS = {"silences": "silenced", "unloops": "unlooped"}
_REASONS = {
    "silences": "no recording without speech is in the half that chooses the head",
    "unloops": "no recording that makes this model loop is in the half that chooses the head",
}
CLAIMS = {
    "silences": Claim(
        "Ablating one head prevents words on recordings without speech",
        "not asked; Calm-Whisper (arXiv 2505.12969): 3 of 20 self-attention head indices account "
        "for over 75 % of such hallucinations",
        _CHOSEN_TEST.format(
            "share of recordings without speech that lose all words, minus the share that gain "
            "words"
        ),
        null=0.1,
        least=0.3,
        unit="%",
        units="sources of sounds",
        family=SECONDARY,
    ),
    "silences_cheaply": Claim(
        "Clean speech does not need the head whose ablation prevents most words without speech",
        "Calm-Whisper: word error rates hardly rise once the heads are fine-tuned",
        **_COST,
    ),
    "unloops": Claim(
        "Ablating one head stops most loops",
        "E6: layer 18, head 13 of large-v3 resolves 78.1 % under white noise",
        _CHOSEN_TEST.format("share of loops whose text no longer repeats and is not empty"),
        null=0.5,
        least=0.64,  # half-way to the 78.1 % of the paper, whose heads get white noise
        unit="%",
        units="sources of loops",
        family=SECONDARY,
    ),
    "unloops_cheaply": Claim(
        "Clean speech does not need the head whose ablation stops most loops",
        "not measured",
        **_COST,
    ),
    "same_heads": Claim(
        "The heads that cause words without speech also sustain loops",
        "not asked; the paper describes the two failures separately",
        "rank correlation of the two shares over heads; sources are resampled, heads are not; "
        "heads whose ablation raises the word error rate by more than 0.2 are excluded",
        least=0.3,
        units="sources",
        min_units=12,
        family=SECONDARY,
    ),
}


@dataclasses.dataclass(frozen=True)
class ChosenHead:
    """The head with the largest mean effect in the half of the recordings that chooses.

    Attributes:
        cell: index of the head.
        share_choosing: mean effect in the half that chooses.
        n_choosing: number of recordings in that half.
        confirming: effects on the recordings of the other half.
        sources: sources of these recordings.
    """

    cell: int
    share_choosing: float
    n_choosing: int
    confirming: Float[np.ndarray, "N"]
    sources: np.ndarray


def chosen_heads(arrays: xr.Dataset, seed: int) -> dict[str, ChosenHead | None]:
    """Chooses the head that silences most sounds, and the head that stops most loops.

    Args:
        arrays: results of B1.
        seed: seed of the halves.

    Returns:
        The head by the key of its claim; None if no recording is in the half that chooses.
    """
    by_name = effects(arrays)
    return {key: _choose(arrays, by_name[name], seed) for key, name in _EFFECTS.items()}


def _choose(arrays: xr.Dataset, effect: xr.DataArray, seed: int) -> ChosenHead | None:
    recordings = arrays.isel(example=np.flatnonzero(arrays.example.isin(effect.example)))
    sources = recordings.source.values.astype(str)
    outcomes = Outcomes(
        effect.expand_dims("kind"), can_act(recordings), sources, halves(sources, seed)
    )
    kind, choosing, confirming = effect.kind.item(), outcomes.choosing, outcomes.confirming
    cell = outcomes.choose(kind, HEAD)
    if cell is None:
        return None
    values = outcomes.values(kind, [cell])[:, 0]
    share, n_choosing = float(values[choosing].mean()), int(choosing.sum())
    return ChosenHead(cell, share, n_choosing, values[confirming], sources[confirming])


def judge_claims(
    arrays: xr.Dataset, chosen: dict[str, ChosenHead | None], seed: int
) -> dict[str, Finding]:
    """Judges `CLAIMS`.

    Args:
        arrays: results of B1.
        chosen: from `chosen_heads`.
        seed: seed of the bootstraps.
    """
    findings = {}
    for key, head in chosen.items():
        findings |= _judge_chosen(key, head, arrays, seed)
    return findings | {"same_heads": _judge_same_heads(arrays, seed)}


def _judge_chosen(
    key: str, head: ChosenHead | None, arrays: xr.Dataset, seed: int
) -> dict[str, Finding]:
    """Judges a head on the half that did not choose it, and its cost on clean speech."""
    claim, cost_claim = CLAIMS[key], CLAIMS[f"{key}_cheaply"]
    if head is None:
        reason = _REASONS[key]
        return {key: claim.judge(None, reason), f"{key}_cheaply": cost_claim.judge(None, reason)}
    if key == "unloops":
        finding = claim.judge_share(head.confirming, clusters=head.sources)
    else:  # a recording that gets words counts as -1
        finding = claim.judge_mean(head.confirming, seed, clusters=head.sources, bounds=(-1.0, 1.0))
    speech = arrays.isel(example=np.flatnonzero(arrays.recording.values == "clean"))
    cost = mean_cost(speech, str(arrays.kind.values[0]), head.cell, cost_claim.null, seed)
    return {key: finding, f"{key}_cheaply": cost_claim.judge(cost)}


def _judge_same_heads(arrays: xr.Dataset, seed: int) -> Finding:
    """Correlates the two effects over the heads whose cost is at most 0.2."""
    claim, by_name = CLAIMS["same_heads"], effects(arrays)
    if min(effect.sizes["example"] for effect in by_name.values()) < 2:
        return claim.judge(None, "one of the three kinds of recordings is missing")
    harmless = by_name["cost"].mean("example").values <= 0.2
    both = [by_name[name].isel(cell=harmless) for name in _EFFECTS.values()]
    reliabilities = [reliability(effect, seed) for effect in both]
    if not min(reliabilities) >= _LEAST_RELIABILITY:  # also if one is NaN
        values = " and ".join(f"{value:.2f}" for value in reliabilities)
        return claim.judge(
            None, f"too little moves: the reliabilities of the two effects of heads are {values}"
        )
    return claim.judge(correlation_of_heads(both[0], both[1], seed))
