"""Divides the cells of a sweep into batches, according to its sizes and the memory budget."""

import dataclasses

import numpy as np

from interventions.memory_budget import memory_budget
from interventions.patching.grid import Grid
from interventions.patching.packing import PackedRows, pack_columns
from jaxasr import sites
from jaxasr.config import Config

# Sites whose edit at one position changes what other positions attend to in the same layer.
_SITES_CHANGING_OTHER_POSITIONS = ("resid_pre", "attn.k", "attn.v")
# Most rows of one batch. The attention mask grows with the square of this number.
_MAX_ROWS = 512
# Most cells of one chunk, where each cell is a whole pass.
_MAX_CELLS = 512


@dataclasses.dataclass(frozen=True)
class Workload:
    """The sizes and options of a sweep that decide how its cells are batched.

    Attributes:
        config: configuration of the model.
        grid: the grid of cells.
        n_examples: rows of the target.
        n_tokens: tokens per row.
        scored: position whose logits are scored.
        reuse: whether cells reuse unedited activations.
        budget: bytes for cells that are computed together; None for a size chosen for the device.
    """

    config: Config
    grid: Grid
    n_examples: int
    n_tokens: int
    scored: int
    reuse: bool
    budget: int | None

    @property
    def in_decoder(self) -> bool:
        """Whether the patched site is in the decoder."""
        return sites.stack_of(self.grid.site) == "decoder"

    @property
    def resumes(self) -> bool:
        """Whether cells start from a stored residual. They can if each edits one layer."""
        return self.reuse and "layer" in self.grid.coords

    @property
    def by_rows(self) -> bool:
        """Whether cells are packed as rows that share unedited activations of the decoder."""
        return self.resumes and self.in_decoder

    @property
    def position_local(self) -> bool:
        """Whether an edit changes no other position within the edited layer."""
        changes_others = self.grid.site.endswith(_SITES_CHANGING_OTHER_POSITIONS)
        return "position" in self.grid.coords and not changes_others

    @property
    def cells_per_column(self) -> int:
        """Number of cells per layer and position."""
        return self.grid.size // len(self.grid.layers) // self.grid.n_positions


@dataclasses.dataclass(frozen=True)
class ColumnBatch:
    """One batch of decoder cells, which edit some of the grid's positions.

    Attributes:
        columns: indices of these positions in the grid.
        rows: the rows that are computed for them.
        n_rows: number of rows without padding.
        cells_per_column: cells of each position that are computed together.
        layers_above: 0 if the edited layer is the last, 1 if only the last layer follows it, and 2
            if other layers may lie between.
    """

    columns: list[int]
    rows: PackedRows
    n_rows: int
    cells_per_column: int
    layers_above: int


def column_batches(work: Workload, layer: int) -> list[ColumnBatch]:
    """Divides the cells that edit `layer` into batches.

    Cells that cannot reach the scored position are left out. The number of layers that attend to
    the edited position decides which positions a column has:

    * none: the scored position;
    * one: the edited and the scored position;
    * more: all positions from the edited to the scored one.

    A sweep therefore has at most three executables.
    """
    last_layer = work.config.n_text_layer - 1
    # Layers that attend to the edited activation.
    n_layers_reading = last_layer - layer + (not work.position_local)
    selected, columns = _columns(work, n_layers_reading)
    max_rows = max(1, memory_budget(work.budget) // row_bytes(work))
    n_cells = work.grid.n_cells("layer", "position")
    longest_column = max(map(len, columns), default=1)
    batches = list(pack_columns(columns, max(longest_column, min(max_rows // n_cells, _MAX_ROWS))))
    sizes = [sum(len(columns[i]) for i in batch) for batch in batches]
    n_columns, n_rows = max(map(len, batches), default=1), max(sizes, default=1)
    # Without a position dimension the rows cover all positions, so no stored key is needed.
    n_slots = work.n_tokens if "position" in work.grid.coords else 0
    return [
        ColumnBatch(
            columns=[selected[i] for i in batch],
            rows=PackedRows.of([columns[i] for i in batch], n_slots, n_columns, n_rows),
            n_rows=size,
            cells_per_column=equal_chunk_size(n_cells, max_rows // n_rows),
            layers_above=0 if layer == last_layer else 1 if n_layers_reading == 1 else 2,
        )
        for batch, size in zip(batches, sizes)
    ]


def _columns(work: Workload, n_layers_reading: int) -> tuple[list[int], list[np.ndarray]]:
    """Returns the grid positions that reach the scored position, and the column of each."""
    if "position" not in work.grid.coords:
        return [0], [np.arange(work.scored + 1)]
    starts, scored = work.grid.coords["position"], work.scored
    selected = np.flatnonzero(starts <= scored if n_layers_reading else starts == scored).tolist()
    if n_layers_reading > 1:
        return selected, [np.arange(starts[i], scored + 1) for i in selected]
    return selected, [np.unique([starts[i], scored]) for i in selected]


def equal_chunk_size(n: int, max_size: int) -> int:
    """Returns the size of equal chunks of `n` items, at most `max_size`, with little padding."""
    n_chunks = -(-n // max(1, max_size))
    return -(-n // n_chunks)


def chunk_size(work: Workload) -> int:
    """Returns the number of cells per chunk, where each cell is a whole pass."""
    max_size = min(memory_budget(work.budget) // cell_bytes(work), _MAX_CELLS)
    return equal_chunk_size(work.grid.n_cells("layer"), max_size)


def row_bytes(work: Workload) -> int:
    """Estimates the peak bytes of one decoder row, from the intermediates of one layer."""
    c = work.config
    return 4 * (c.n_text_head * (c.n_audio_ctx + 2 * (work.scored + 1)) + 12 * c.n_text_state)


def cell_bytes(work: Workload) -> int:
    """Estimates the peak bytes of one cell that is a whole pass."""
    decoder = (work.scored + 1) * row_bytes(work)
    return decoder if work.in_decoder else encoder_bytes(work.config) + decoder


def encoder_bytes(c: Config) -> int:
    """Estimates the peak bytes of encoding one cell, the memory included."""
    return 4 * ((2 * c.n_text_layer + 12) * c.n_audio_ctx * c.n_audio_state + c.n_audio_ctx**2)
