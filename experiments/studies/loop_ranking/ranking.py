"""Ranks the heads and layers of the decoder by the loops that they resolve, with their costs.

The shares, intervals and p-values are those of E6.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from experiments.data.corpora import Utterance
from experiments.studies.ablation import COMPONENT_SITES, HEAD_SITES, NOISE, cell_names
from experiments.studies.claims import Claim
from experiments.studies.evidence import mean_evidence
from experiments.studies.finding_rows import finding_row, notes
from experiments.studies.halves import CHOOSE, CONFIRM, halves
from experiments.studies.loop_numbers import idle_cells, interval_numbers, share_numbers
from experiments.studies.loop_outcomes import FULL_KINDS, RANDOM, Outcomes, can_act, mark_resolved
from experiments.studies.loop_patches import Items, Patched
from experiments.studies.loop_verdicts import mean_cost
from interventions.stats import max_permutation

MIN_HALF = 10  # sources of loops that each half needs
UNITS = {"layers": COMPONENT_SITES, "heads": HEAD_SITES}  # sites of the ranked cells
NO_COST = Claim(
    "Clean speech does not need this part",
    "not measured",
    "change of the word error rate of clean speech; both rates are limited to 1",
    null=0.02,
    side="below",
    least=0.02,
    unit="%",
    units="speakers",
)


@dataclasses.dataclass(frozen=True)
class Division:
    """The loops that cells are ranked by, and the loops that their shares come from.

    Attributes:
        choosing: marks the loops that rank the cells.
        judging: marks the loops that the shares come from.
        why_undivided: the reason why all loops do both; "" if the loops are divided.
    """

    choosing: Bool[np.ndarray, "N"]
    judging: Bool[np.ndarray, "N"]
    why_undivided: str = ""

    @classmethod
    def of(cls, sources: np.ndarray, seed: int) -> "Division":
        """Divides loops by their sources, if each half has enough of them.

        Example:
            >>> Division.of(np.array(["ann", "bob"]), seed=0).judging.tolist()
            [True, True]
        """
        half = halves(sources, seed)
        choosing, judging = half == CHOOSE, half == CONFIRM
        sizes = [len(np.unique(sources[rows])) for rows in (choosing, judging)]
        if min(sizes) >= MIN_HALF:
            return cls(choosing, judging)
        everything = np.ones(len(sources), bool)
        reason = (
            f"{sum(sizes)} independent sources of loops are too few to choose a part on one half "
            f"and to judge it on the other: the halves would have {sizes[0]} and {sizes[1]}, and "
            f"each needs {MIN_HALF}. So all loops rank the parts and give their shares, and the "
            "largest shares are too large. p corrects for this choice"
        )
        return cls(everything, everything, reason)


def candidate_cells(
    loops: xr.Dataset, sources: Sequence[str], n_heads: int, seed: int
) -> list[int]:
    """Lists the cells that need a control and a cost: every layer, and the best heads of each kind.

    Args:
        loops: results of `ablation.to_dataset` for loops.
        sources: the source of each loop.
        n_heads: number of heads per kind of patch.
        seed: seed of the division.
    """
    units = np.asarray(sources)
    outcomes, division = _outcomes(loops, units), Division.of(units, seed)
    layers = np.flatnonzero(np.isin(loops.site.values, COMPONENT_SITES)).tolist()
    kinds = [kind for kind in FULL_KINDS if outcomes.kinds(kind)]
    heads = {
        cell
        for kind in kinds
        for cell in outcomes.rank(kind, HEAD_SITES, division.choosing)[:n_heads]
    }
    return [*layers, *sorted(heads)]


def _outcomes(loops: xr.Dataset, sources: np.ndarray) -> Outcomes:
    """Makes the outcomes of loops. Their halves are unused, because `Division` replaces them."""
    return Outcomes(mark_resolved(loops), can_act(loops), sources, np.full(len(sources), CHOOSE))


class Ranking:
    """Ranks cells by the results of `loop_patches.patch_loops`.

    Args:
        patched: the results.
        loops: the loops, with the label `source`.
        speech: the clean recordings, with the label `source`.
        seed: seed of the division, of the bootstraps and of the permutations.

    Attributes:
        arrays: the results for loops and clean speech in one dataset, with the coordinates
            `recording` ("loop" or "clean") and `source`.
        outcomes: outcomes of loops.
        division: the loops that choose and those that judge.
    """

    def __init__(
        self, patched: Patched, loops: Sequence[Utterance], speech: Sequence[Utterance], seed: int
    ):
        self.patched, self.seed = patched, seed
        loop_part = _label(patched.loops, loops, "loop")
        self.speech = _label(patched.speech, speech, "clean")
        self.sources = loop_part.source.values
        self.outcomes = _outcomes(loop_part, self.sources)
        self.division = Division.of(self.sources, seed)
        self.names = cell_names(patched.loops)
        # The controls were not run on clean speech, so that they are NaN there.
        speech_part = self.speech.reindex(kind=loop_part.kind.values)
        self.arrays = xr.concat([loop_part, speech_part], "example", join="exact", coords="minimal")

    def numbers(self) -> dict[str, Any]:
        """Returns the ranking per kind of patch.

        Returns:
            By kind: `layers` and `heads`, a row per part that can act, the best first; and `p` by
            "layers" and "heads", how often the largest share of any part is as large by chance.
            This p is None if the loops are divided. `idle`: names of the parts that cannot act.
        """
        kinds = [kind for kind in FULL_KINDS if self.outcomes.kinds(kind)]
        return {kind: self._rank(kind) for kind in kinds}

    def _rank(self, kind: str) -> dict[str, Any]:
        ranked = {
            unit: self.outcomes.rank(kind, sites, self.division.choosing)
            for unit, sites in UNITS.items()
        }
        rows = {unit: [self._row(kind, cell) for cell in cells] for unit, cells in ranked.items()}
        return {
            **rows,
            "p": {unit: self._p(kind, cells) for unit, cells in ranked.items()},
            "idle": idle_cells(self.outcomes, kind),
        }

    def _p(self, kind: str, ranked: Sequence[int]) -> float | None:
        if not self.division.why_undivided or not ranked:
            return None
        resolved = self.outcomes.resolved.sel(kind=kind).isel(cell=list(ranked))
        return float(max_permutation(resolved, n=2000, seed=self.seed).values[0])

    def _row(self, kind: str, cell: int) -> dict[str, Any]:
        """Describes one cell: its name, its shares, its control, its cost and the new texts."""
        judging, choosing = self.division.judging, self.division.choosing
        values = self.outcomes.values(kind, [cell])[:, 0]
        is_divided = not self.division.why_undivided
        row: dict[str, Any] = {
            "name": self.names[cell],
            "resolved": self._share(values, judging),
            "chosen_with": self._share(values, choosing) if is_divided else None,
            "control": None,
            "beyond_control": None,
            "cost": None,
            "resolves": values.astype(bool).tolist(),
            "texts": texts_of(self.patched.loop_items, kind, cell),
        }
        if cell not in self.patched.cells:
            return row
        if kind == NOISE and self.outcomes.kinds(RANDOM):
            row |= self._control(values, cell)
        return row | {"cost": self._cost(kind, cell)}

    def _share(self, values: Float[np.ndarray, "N"], rows: np.ndarray) -> dict[str, Any]:
        return share_numbers(values[rows], self.sources[rows], self.seed)

    def _control(self, values: Float[np.ndarray, "N"], cell: int) -> dict[str, Any]:
        """Compares the shares with those of equally long moves in random directions."""
        judging = self.division.judging
        control = self.outcomes.values(RANDOM, [cell])[:, 0]
        difference = mean_evidence(
            (values - control)[judging], self.sources[judging], bounds=(-1.0, 1.0), seed=self.seed
        )
        return {
            "control": self._share(control, judging),
            "beyond_control": interval_numbers(difference),
        }

    def _cost(self, kind: str, cell: int) -> dict[str, Any]:
        """Describes the cost on clean speech, and judges that it is below two points."""
        items, position = self.patched.speech_items, self.patched.cells.index(cell)
        texts = texts_of(items, kind, position)
        unpatched = [str(item["baseline_text"]) for item in items[kind]]
        changed = np.array([a != b for a, b in zip(texts, unpatched)], float)
        cost = NO_COST.judge(mean_cost(self.speech, kind, cell, NO_COST.null, self.seed))
        finding = finding_row(cost)
        return {
            "changed": share_numbers(changed, self.speech.source.values, self.seed),
            "word_error_rate": finding["ours"],
            "verdict": finding["verdict"],
            "notes": notes(finding),
        }


def texts_of(items: Items, kind: str, position: int) -> list[str]:
    """Returns the texts that a patch leads to, one per recording.

    Args:
        items: results of `ablation.ablate`.
        kind: kind of the patch.
        position: position of the cell among the patched cells.
    """
    return [str(item["text"][position]) for item in items[kind]]


def _label(arrays: xr.Dataset, clips: Sequence[Utterance], recording: str) -> xr.Dataset:
    sources = np.array([str(clip.label("source")) for clip in clips])
    return arrays.assign_coords(
        recording=("example", [recording] * len(clips)), source=("example", sources)
    )
