"""Decides which loops an ablation resolves, which cells can act, and which cells are chosen.

A loop is a generated text that repeats itself. A cell is a layer of a component of the decoder, or
a head. The results come from `ablation.to_dataset`.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from experiments.studies.ablation import COMPONENT_SITES, HEAD_SITES, MEAN, NOISE, ZERO
from experiments.studies.halves import CHOOSE, CONFIRM, halves

CROSS, SELF, MLP = COMPONENT_SITES  # outputs of cross-attention, self-attention and MLP
FULL_KINDS = (NOISE, ZERO, MEAN)  # kinds of ablation whose cells are chosen
RANDOM = "random"  # the mean over all seeds of the random directions
LAYER, HEAD = "layer", "head"
# The sites among which the best layer and the best head are chosen.
UNIT_SITES: dict[str, tuple[str, ...]] = {LAYER: (CROSS,), HEAD: HEAD_SITES}


def mark_resolved(arrays: xr.Dataset) -> xr.DataArray:
    """Returns 1.0 where an intervention resolves a loop, else 0.0; NaN where none was run.

    The text must be neither empty nor a loop. If the transcript is known, the character error rate
    must be lower than without the intervention.
    """
    is_closer = (arrays.cer < arrays.baseline_cer) | arrays.baseline_cer.isnull()
    resolved = (arrays.loop == 0) & (arrays.length > 0) & is_closer
    return resolved.astype(float).where(arrays.loop.notnull())


def can_act(arrays: xr.Dataset) -> xr.DataArray:
    """Marks the cells whose ablation changes a bit of any text or log-probability [kind, cell].

    Some cells cannot act. For example, self-attention of layer 0 reads only tokens, so that its
    output is the same for a recording and for noise. The data decide, not a list of such cells.
    """
    # A comparison with NaN is False, so cells that were not run are left out.
    return (arrays.unchanged == 0).any("example")


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """Outcomes of loops.

    Attributes:
        resolved: result of `mark_resolved` [example, kind, cell].
        acts: result of `can_act` [kind, cell].
        sources: the source of each loop, such as its speaker.
        half: the half of each loop, from `experiments.studies.halves`.
    """

    resolved: xr.DataArray
    acts: xr.DataArray
    sources: np.ndarray
    half: np.ndarray

    @classmethod
    def of(cls, loops: xr.Dataset, seed: int) -> "Outcomes":
        """Makes the outcomes of loops, whose coordinate `source` [example] decides the half."""
        sources = loops.source.values.astype(str)
        return cls(mark_resolved(loops), can_act(loops), sources, halves(sources, seed))

    @property
    def choosing(self) -> Bool[np.ndarray, "N"]:
        """Marks the loops of the half that cells are chosen with."""
        return self.half == CHOOSE

    @property
    def confirming(self) -> Bool[np.ndarray, "N"]:
        """Marks the loops of the half that values and verdicts come from."""
        return self.half == CONFIRM

    def kinds(self, kind: str) -> list[str]:
        """Lists the kinds of the data that `kind` stands for; `RANDOM` stands for all seeds."""
        return [str(name) for name in self.resolved.kind.values if str(name).split()[0] == kind]

    def cells(self, kind: str, sites: Sequence[str]) -> list[int]:
        """Lists the cells of `sites` that can act under `kind`."""
        acts = self.acts.sel(kind=self.kinds(kind)).any("kind").values
        return np.flatnonzero(acts & np.isin(self.acts.site.values, list(sites))).tolist()

    def values(self, kind: str, cells: Sequence[int]) -> Float[np.ndarray, "N K"]:
        """Returns the outcomes of cells; for `RANDOM`, the share of the seeds that resolve."""
        selected = self.resolved.sel(kind=self.kinds(kind)).isel(cell=list(cells))
        return selected.mean("kind").transpose("example", "cell").values

    def mean_share(self, kind: str, sites: Sequence[str]) -> Float[np.ndarray, "N"]:
        """Returns the share of the cells of `sites` that resolve each loop; NaN without cells."""
        values = self.values(kind, self.cells(kind, sites))
        return values.mean(1) if values.shape[1] else np.full(len(values), np.nan)

    def any_share(self, kind: str, sites: Sequence[str]) -> Float[np.ndarray, "N"]:
        """Returns 1 for each loop that any cell of `sites` resolves, else 0.

        For `RANDOM`, returns the share of the seeds for which a cell does.
        """
        cells = self.cells(kind, sites)
        if not cells:
            return np.full(self.resolved.sizes["example"], np.nan)
        selected = self.resolved.sel(kind=self.kinds(kind)).isel(cell=cells)
        return selected.max("cell").mean("kind").values

    def rank(
        self, kind: str, sites: Sequence[str], rows: Bool[np.ndarray, "N"] | None = None
    ) -> list[int]:
        """Ranks the cells of `sites` that can act by the share of loops that they resolve.

        Args:
            kind: kind of ablation.
            sites: sites of the cells.
            rows: loops that rank the cells. None: the half that chooses.

        Returns:
            Indices of cells, the best first. Equal cells are in their order. Empty without loops.
        """
        cells, rows = self.cells(kind, sites), self.choosing if rows is None else rows
        if not cells or not rows.any():
            return []
        shares = self.values(kind, cells)[rows].mean(0)
        return [cells[i] for i in np.argsort(-shares, kind="stable")]

    def choose(self, kind: str, unit: str) -> int | None:
        """Returns the cell that resolves most loops of the half that chooses.

        Args:
            kind: kind of ablation.
            unit: `LAYER` for the cross-attention of a layer, or `HEAD`.

        Returns:
            The index of the cell, the first of equal ones. None if no cell can act or no loop is in
            that half.
        """
        return next(iter(self.rank(kind, UNIT_SITES[unit])), None)


def control_cells(loops: xr.Dataset, seed: int) -> list[int]:
    """Lists the cells for controls and costs: every layer, and the chosen head of each kind."""
    outcomes = Outcomes.of(loops, seed)
    layers = np.flatnonzero(np.isin(loops.site.values, COMPONENT_SITES)).tolist()
    kinds = [kind for kind in FULL_KINDS if outcomes.kinds(kind)]
    heads = {outcomes.choose(kind, HEAD) for kind in kinds} - {None}
    return [*layers, *sorted(cell for cell in heads if cell is not None)]
