"""Replaces the paper's numbers of Whisper by those of Qwen2-Audio in claims."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import xarray as xr

from experiments.studies.claims import Claim
from jaxasr.config import Config


class PaperNumber(NamedTuple):
    """What the paper reports for Qwen2-Audio.

    Attributes:
        text: the numbers, in words.
        value: the number on the scale of the estimate; None if there is none.
        least: smallest value of the estimate that is worth having. None: that of the claim.
    """

    text: str
    value: float | None
    least: float | None = None


def name_family(arrays: xr.Dataset, config: Config) -> xr.Dataset:
    """Adds the attribute `family` to the results of an audio language model."""
    if config.audio_language is None:
        return arrays
    return arrays.assign_attrs(family=config.family)


def claims_of(
    arrays: xr.Dataset, claims: Mapping[str, Claim], of_qwen: Mapping[str, PaperNumber]
) -> dict[str, Claim]:
    """Returns claims about the model of a result.

    Args:
        arrays: the result of a study, from `name_family`.
        claims: claims about Whisper, by key.
        of_qwen: what the paper reports for Qwen2-Audio, by key of those claims that differ.
    """
    if "family" not in arrays.attrs:
        return dict(claims)

    def replace(claim: Claim, number: PaperNumber) -> Claim:
        least = claim.least if number.least is None else number.least
        return dataclasses.replace(claim, paper=number.text, paper_value=number.value, least=least)

    replaced = {key: replace(claims[key], number) for key, number in of_qwen.items()}
    return {**claims, **replaced}
