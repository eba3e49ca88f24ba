"""Plans which encoder cells of which recordings are encoded and decoded together."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from interventions.generation.cell_edits import CellEdits
from interventions.generation.decoding_bytes import CPU_DECODING_BUDGET, decoding_bytes
from interventions.memory_budget import memory_budget
from interventions.patching.row_chunks import RowChunks, Rows
from interventions.patching.workload import encoder_bytes
from jaxasr import sites
from jaxasr.config import Config
from jaxasr.decoding import Generation
from jaxasr.meshes import CELLS, axis_size, size_per_device

Indices = Int[np.ndarray, "n"]


@dataclasses.dataclass(frozen=True, eq=False)
class CellUnit:
    """Cells of some recordings that all devices encode in one call.

    Attributes:
        rows: indices of the recordings, without padding.
        batches: indices of the cells of each device along "cells", without padding.
    """

    rows: Rows
    batches: list[Indices]


@dataclasses.dataclass(frozen=True, eq=False)
class EncoderCellPlan:
    """Batches of cells, chunks of recordings, and how many of them decode in one loop.

    Attributes:
        n_rows: number of recordings.
        site: the edited site if each cell edits one layer. None if each cell is a whole pass.
        layers: int32 [K], the edited layer of each cell; zeros if each cell is a whole pass.
        batches: indices of the cells that a device encodes in one call, all of one layer.
        cells_per_batch: number of cells per batch, with padding.
        chunks: the recordings that all devices encode in one call.
        units_per_loop: number of units that decode together.
        n_devices: number of devices along "cells".
    """

    n_rows: int
    site: str | None
    layers: Int[np.ndarray, "K"]
    batches: list[Indices]
    cells_per_batch: int
    chunks: RowChunks
    units_per_loop: int
    n_devices: int

    @classmethod
    def of(
        cls,
        config: Config,
        cell_edits: CellEdits,
        cells: Any,
        n_rows: int,
        n_tokens: int,
        budget: int | None,
        batch: int | None,
        mesh: Mesh | None,
        recordings: int | None,
    ) -> "EncoderCellPlan":
        """Plans cells within two limits: cells per encoder pass, and cells per decoding loop."""
        site, layers = _edited_layers(cell_edits, cells)
        max_encoded = max(1, memory_budget(budget) // encoder_bytes(config))
        # Two loops are in flight.
        max_bytes = memory_budget(budget, CPU_DECODING_BUDGET) // 2
        max_decoded = max(1, max_bytes // decoding_bytes(config, n_tokens))
        groups = [np.flatnonzero(layers == layer) for layer in np.unique(layers)]
        size = min(max_encoded, batch or max_encoded)
        batches = [group[i : i + size] for group in groups for i in range(0, len(group), size)]
        n_cells = size if batch else max(map(len, batches))
        # Recordings share a call if all cells of a layer do.
        fit = min(max_encoded, max_decoded) // n_cells if n_cells >= max(map(len, groups)) else 1
        chunks = RowChunks.of(n_rows, max(1, fit), mesh, recordings)
        n_chunks = -(-n_rows // chunks.per_device)
        n_units, max_units = n_chunks * len(batches), max_decoded // (chunks.per_device * n_cells)
        if batch:
            max_units = min(max_units, n_chunks * (batch // n_cells))
        if mesh is not None or not batch:
            max_units = size_per_device(n_units, 0 if mesh is None else mesh.size, max_units)
        return cls(
            n_rows,
            site,
            layers,
            batches,
            n_cells,
            chunks,
            max(1, max_units),
            axis_size(mesh, CELLS),
        )

    def groups_of_batches(self) -> list[list[Indices]]:
        """Returns the batches that the devices along "cells" encode in one call."""
        n = self.n_devices
        return [self.batches[i : i + n] for i in range(0, len(self.batches), n)]

    def join(self, parts: list[tuple[list[CellUnit], Generation]]) -> Generation:
        """Joins the results [units, R, K, ...] of all loops to [K, B, ...], without padding."""
        n_cells = len(self.layers)

        def join_arrays(*arrays: Any) -> np.ndarray:
            arrays = tuple(map(np.asarray, arrays))
            joined = np.zeros((n_cells, self.n_rows, *arrays[0].shape[3:]), arrays[0].dtype)
            for (units, _), array in zip(parts, arrays, strict=True):
                for unit, of_unit in zip(units, array):
                    for i, batch in enumerate(unit.batches):
                        start = i * self.cells_per_batch
                        of_cells = of_unit[: len(unit.rows), start : start + len(batch)]
                        joined[np.ix_(batch, unit.rows)] = np.moveaxis(of_cells, 1, 0)
            return joined

        return jax.tree.map(join_arrays, *(out for _, out in parts))


def _edited_layers(cell_edits: CellEdits, cells: Any) -> tuple[str | None, Int[np.ndarray, "K"]]:
    """Returns the site and the layers if each cell edits one layer; else None and zeros."""
    site = getattr(cell_edits.edits_of, "site", None)
    if site not in sites.LAYERED or not isinstance(cells, dict) or "layer" not in cells:
        return None, np.zeros(len(cell_edits), np.int32)
    return site, np.asarray(cells["layer"], np.int32)
