"""Judges the claims of study E5 about words that are spliced into real speech."""

from typing import Any

import numpy as np
import xarray as xr

from experiments.studies.claims import SECONDARY, Claim, Finding
from experiments.studies.context import effects
from experiments.studies.context.spoken_word import FITTING, ODD
from experiments.studies.evidence import mean_evidence

_GAIN = (
    "per sentence of real speech, mean shift of logit(odd word) - logit(fitting word) by patches "
    "of single places of the {} towards white noise, minus the shift by random moves of equal "
    "length"
)
_LOGITS = {"least": 0.25, "unit": "logits", "units": "speakers", "family": SECONDARY}
CLAIMS = {
    "spliced_context": Claim(
        "Real speech: context overrides the spoken word",
        "not reported: synthetic voices only (21.9 %)",
        "share of sentences of real speech whose odd word, spliced from the same speaker, is "
        "transcribed as the fitting word, minus the share whose fitting word, spliced in the same "
        "way, is transcribed as the odd word",
        least=0.11,
        unit="%",
        units="speakers",
        family=SECONDARY,
    ),
    "spliced_encoder": Claim(
        "Real speech: noise in the encoder moves the logits to the spoken word more than random "
        "moves do",
        "not reported: synthetic voices only",
        _GAIN.format("encoder"),
        **_LOGITS,
    ),
    "spliced_decoder": Claim(
        "Real speech: noise in the decoder moves the logits to the spoken word more than random "
        "moves do",
        "not reported: synthetic voices only",
        _GAIN.format("decoder"),
        **_LOGITS,
    ),
}


def judge(arrays: xr.Dataset, seed: int) -> dict[str, Finding]:
    """Judges `CLAIMS`; sentences of one speaker are one unit.

    Args:
        arrays: the spliced recordings of the study.
        seed: seed of the bootstrap.
    """
    odd = _of(arrays, "odd")
    if not odd.sizes["example"]:
        reason = "no word of real speech could be spliced: it needs transcripts, speakers, espeak"
        if "family" in arrays.attrs:
            reason = "words of real speech are aligned by cross-attention, which only Whisper has"
        return {key: claim.judge(None, reason) for key, claim in CLAIMS.items()}
    speakers, gain = odd.voice.values, effects.gains(arrays)
    errors = (odd.transcribed.values == FITTING).astype(float)
    difference = errors - (_of(arrays, "fitting").transcribed.values == ODD)
    evidence = mean_evidence(difference, speakers, bounds=(-1, 1), seed=seed)
    return {
        "spliced_context": CLAIMS["spliced_context"].judge(evidence),
        **{
            f"spliced_{stack}": CLAIMS[f"spliced_{stack}"].judge_mean(
                gain.values[:, gain.part.values == stack].mean(1), seed, clusters=speakers
            )
            for stack in ("encoder", "decoder")
        },
    }


def numbers(arrays: xr.Dataset) -> dict[str, Any]:
    """Returns the numbers of recordings, sentences and speakers, and the transcribed words."""
    odd, fitting = _of(arrays, "odd"), _of(arrays, "fitting")
    return {
        "recordings": int(arrays.attrs.get("spliced_recordings", odd.sizes["example"])),
        "recordings_past_the_gate": odd.sizes["example"],
        "speakers": len(set(odd.voice.values.tolist())),
        "odd_transcribed_as_fitting": int((odd.transcribed.values == FITTING).sum()),
        "odd_transcribed_as_spoken": int((odd.transcribed.values == ODD).sum()),
        "fitting_transcribed_as_spoken": int((fitting.transcribed.values == FITTING).sum()),
    }


def _of(arrays: xr.Dataset, condition: str) -> xr.Dataset:
    return arrays.isel(example=np.flatnonzero(arrays.condition.values == condition))
