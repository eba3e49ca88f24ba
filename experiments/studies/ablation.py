"""What becomes of a text when one place of the decoder after another is ablated while it is written; every place in one program."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

import jaxasr
from experiments.data.corpora import Utterance
from experiments.item_cache import Arrays
from experiments.studies.selection import first_window, language
from interventions.corruptions import white_noise_like
from interventions.edits import AtSites, FromRow, Patch, Zero, site_cells
from interventions.edits.cells import Coordinates
from interventions.generation import sequence_sweep

COMPONENTS = ("decoder.cross_attn_out", "decoder.attn_out", "decoder.mlp_out")
HEADS = ("decoder.cross_attn.z", "decoder.attn.z")
KINDS = ("noise", "zero")
NUMBERS = (
    "length",
    "loop",
    "repetitive",
    "wer",
    "cer",
    "insertions",
    "avg_logprob",
    "no_speech_prob",
    "compression_ratio",
)


def written(
    asr: Any, clip: Utterance, sites: Sequence[str], kind: str, max_new_tokens: int, seed: int = 0
) -> Arrays:
    """`NUMBERS` of the text under every cell of `interventions.edits.site_cells` [cell], and `baseline_...` without an edit.

    kind: "zero", or "noise": what the place holds for white noise of the same length and level, read in lock-step, token by token.
    Errors are against the transcript; without one they are NaN. Greedy, without timestamps.
    """
    audio, code = first_window(clip), language(clip) or "en"
    sounds = [audio, white_noise_like(audio, seed)] if kind == "noise" else [audio]
    memory, _ = asr.model.encode(
        np.stack([jaxasr.log_mel(one, asr.config.n_mels) for one in sounds])
    )
    prompt = np.tile(np.asarray(asr.tokenizer.prompt(code), np.int32), (len(sounds), 1))
    edit, leader = (
        (Patch(FromRow(np.ones(2, np.int32))), np.zeros(2, np.int32))
        if kind == "noise"
        else (Zero(), None)
    )
    at, cells = AtSites(edit, tuple(sites)), site_cells(asr.config, sites)
    options = {
        "references": [clip.transcript],
        "language": code,
        "max_new_tokens": max_new_tokens,
        "leader": leader,
    }
    swept = sequence_sweep(asr, memory, prompt, cells, edits_of=at, **options)
    return {
        name: swept[name].isel(example=0).values
        for part in NUMBERS
        for name in (part, f"baseline_{part}")
    }


def stacked(
    clips: Sequence[Utterance],
    kept: Sequence[Sequence[Arrays]],
    kinds: Sequence[str],
    sites: Sequence[str],
    cells: Coordinates,
) -> xr.Dataset:
    """The items of `written`, one a clip and kind, as [example, kind, cell]; `site`, `layer` and `head` belong to the cells."""
    shape = (len(clips), len(kinds), len(cells["site"]))
    values = {
        name: np.array([[one[name] for one in row] for row in kept], float).reshape(shape)
        for name in NUMBERS
    }
    plain = {
        f"baseline_{name}": np.array([row[0][f"baseline_{name}"] for row in kept], float)
        for name in NUMBERS
    }
    return xr.Dataset(
        {name: (("example", "kind", "cell"), value) for name, value in values.items()}
        | {name: ("example", value) for name, value in plain.items()},
        {
            "example": [clip.id for clip in clips],
            "kind": list(kinds),
            "site": ("cell", [sites[number] for number in cells["site"]]),
            "layer": ("cell", cells["layer"]),
            "head": ("cell", cells["head"]),
        },
    )
