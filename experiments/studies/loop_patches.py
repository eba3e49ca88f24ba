"""Patches cells of the decoder on loops, and some of the cells on controls and on clean speech."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr

from experiments.data.corpora import Utterance
from experiments.item_cache import Arrays, ItemCache, short_hash
from experiments.studies.ablation import MEAN, RANDOM_KINDS, ablate, to_dataset
from jaxasr import Recogniser
from jaxasr.taps import Edit

Items = Mapping[str, list[Arrays]]  # results of `ablate` by kind, one per recording


@dataclasses.dataclass(frozen=True)
class Patcher:
    """Transcribes recordings once per cell, with the cell patched.

    Attributes:
        asr: the model.
        sites: decoder sites, whose layers or heads are the cells.
        cache: keeps the result of each recording.
        name: start of the keys in `cache`.
        max_new_tokens: largest number of tokens per text.
        seed: seed of the white noise.
        means: edits by site for the kind "mean"; None leaves this kind out.
        means_key: identifies the recordings of the means in `cache`.
    """

    asr: Recogniser
    sites: Sequence[str]
    cache: ItemCache
    name: str
    max_new_tokens: int
    seed: int
    means: Mapping[str, Edit] | None = None
    means_key: str = ""

    def patch(
        self, clips: Sequence[Utterance], kind: str, cells: Sequence[int] | None = None
    ) -> list[Arrays]:
        """Returns the results of `ablation.ablate` for each recording, computed or loaded.

        Args:
            clips: the recordings, whose ids identify them in the cache.
            kind: one of `ablation.ABLATION_KINDS`.
            cells: indices of the cells to patch; None for all.
        """
        name = f"{self.name} {kind}" + (self.means_key if kind == MEAN else "")
        name += "" if cells is None else f" {short_hash(list(cells))[:6]}"

        def transcribe(clip: Utterance) -> Arrays:
            return ablate(
                self.asr,
                clip,
                self.sites,
                kind,
                self.max_new_tokens,
                seed=self.seed,
                means=self.means,
                cells=cells,
            )

        return self.cache.each(name, clips, transcribe)

    def to_dataset(
        self,
        clips: Sequence[Utterance],
        items: Items,
        cells: Mapping[str, Sequence[int] | np.ndarray] | None = None,
    ) -> xr.Dataset:
        """Returns the dataset of `ablation.to_dataset`."""
        return to_dataset(clips, items, self.sites, self.asr.config, cells)


@dataclasses.dataclass(frozen=True)
class Patched:
    """Results of `patch_loops`.

    Attributes:
        loops: the dataset of `ablation.to_dataset` for loops, with all kinds.
        speech: the same for clean speech, with the kinds of which all cells were patched on loops.
        cells: the cells that were patched in random directions and on clean speech.
        loop_items: results of `ablate` for loops.
        speech_items: results of `ablate` for clean speech.
    """

    loops: xr.Dataset
    speech: xr.Dataset
    cells: list[int]
    loop_items: Items
    speech_items: Items


def patch_loops(
    patcher: Patcher,
    loops: Sequence[Utterance],
    speech: Sequence[Utterance],
    kinds: Sequence[str],
    n_random: int,
    select_cells: Callable[[xr.Dataset], list[int]],
) -> Patched:
    """Patches every cell on the loops, then some cells on controls and on clean speech.

    Args:
        patcher: patches the cells.
        loops: recordings that make the model repeat itself.
        speech: clean recordings.
        kinds: kinds of patch, out of `loop_outcomes.FULL_KINDS`.
        n_random: number of seeds of random directions, the control of white noise.
        select_cells: function of the results for loops that returns the cells for the controls and
            for clean speech.
    """
    found = {kind: patcher.patch(loops, kind) for kind in kinds}
    cells = select_cells(patcher.to_dataset(loops, found))
    random = {kind: patcher.patch(loops, kind, cells) for kind in RANDOM_KINDS[:n_random]}
    costs = {kind: patcher.patch(speech, kind, cells) for kind in kinds}
    items = found | random
    return Patched(
        patcher.to_dataset(loops, items, dict.fromkeys(random, cells)),
        patcher.to_dataset(speech, costs, dict.fromkeys(costs, cells)),
        cells,
        items,
        costs,
    )
