"""The numbers of a sweep: its grid and sizes, and how its cells are divided into batches."""

import dataclasses

import numpy as np

from interventions.memory import budget
from interventions.patching.grid import Grid
from interventions.patching.packing import PackedRows, pack_columns
from jaxasr import sites
from jaxasr.config import Config

# Sites whose edit at one position changes what other positions attend to in the same layer.
_SITES_CHANGING_OTHER_POSITIONS = ("resid_pre", "attn.k", "attn.v")
# Rows of one batch. A larger attention mask costs more than larger products gain.
_MAX_ROWS = 512
_MAX_CELLS = 512


@dataclasses.dataclass(frozen=True)
class Workload:
    """A sweep without its arrays: the numbers that decide how much it computes in which batches.

    Attributes:
        config: of the model.
        grid: the cells.
        n_examples: rows of the target.
        n_tokens: tokens per row.
        scored: position whose logits are scored.
        reuse: whether cells reuse unedited activations.
        budget: bytes for cells that are computed together; None asks the device.
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
        """Whether cells start from a stored residual, as those that edit one layer can."""
        return self.reuse and "layer" in self.grid.coords

    @property
    def by_rows(self) -> bool:
        """Whether cells are rows of one decoder pass that share everything they do not change."""
        return self.resumes and self.in_decoder

    @property
    def position_local(self) -> bool:
        """Whether an edit changes only its own position within its layer."""
        changes_others = self.grid.site.endswith(_SITES_CHANGING_OTHER_POSITIONS)
        return "position" in self.grid.coords and not changes_others

    @property
    def cells_per_column(self) -> int:
        """Cells of one layer and position."""
        return self.grid.size // len(self.grid.layers) // self.grid.n_positions


@dataclasses.dataclass(frozen=True)
class ColumnBatch:
    """One batch of decoder cells: the grid positions `columns`.

    Attributes:
        columns: indices into the grid's positions.
        rows: what is computed for them.
        n_rows: rows without padding.
        cells_per_column: cells of each position that are computed together.
        layers_above: 0, 1 or 2 for none, one or more layers above the edited one.
    """

    columns: list[int]
    rows: PackedRows
    n_rows: int
    cells_per_column: int
    layers_above: int


def column_batches(work: Workload, layer: int) -> list[ColumnBatch]:
    """Divides the cells that edit `layer` into batches.

    Cells that cannot reach the scored position are left out. In the layers nearest to the top one
    row per column suffices; one layer below, two, because only the key and value of the changed
    position reach the scored one; further below, all positions from the changed to the scored one.
    So a sweep has at most three executables.
    """
    last_layer = work.config.n_text_layer - 1
    # Layers whose attention reads what the edit changed.
    n_layers_reading = last_layer - layer + (not work.position_local)
    selected, columns = _columns(work, n_layers_reading)
    max_rows = max(1, budget(work.budget) // row_bytes(work))
    n_cells = work.grid.n_cells("layer", "position")
    longest_column = max(map(len, columns), default=1)
    batches = list(pack_columns(columns, max(longest_column, min(max_rows // n_cells, _MAX_ROWS))))
    sizes = [sum(len(columns[i]) for i in batch) for batch in batches]
    n_columns, n_rows = max(map(len, batches), default=1), max(sizes, default=1)
    # Without a position dimension the rows are the whole pass, and nothing stored is read.
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
    """Indices of the positions that reach the scored one, and the positions computed for each."""
    if "position" not in work.grid.coords:
        return [0], [np.arange(work.scored + 1)]
    starts, scored = work.grid.coords["position"], work.scored
    selected = np.flatnonzero(starts <= scored if n_layers_reading else starts == scored).tolist()
    if n_layers_reading > 1:
        return selected, [np.arange(starts[i], scored + 1) for i in selected]
    return selected, [np.unique([starts[i], scored]) for i in selected]


def equal_chunk_size(n: int, max_size: int) -> int:
    """Size of equal chunks of `n`, at most `max_size` each, so that little padding is needed."""
    n_chunks = -(-n // max(1, max_size))
    return -(-n // n_chunks)


def chunk_size(work: Workload) -> int:
    """Number of cells per chunk, where each cell is a whole pass."""
    max_size = min(budget(work.budget) // cell_bytes(work), _MAX_CELLS)
    return equal_chunk_size(work.grid.n_cells("layer"), max_size)


def row_bytes(work: Workload) -> int:
    """Peak bytes of one decoder row: the intermediates of its largest layer, counted once."""
    c = work.config
    return 4 * (c.n_text_head * (c.n_audio_ctx + 2 * (work.scored + 1)) + 12 * c.n_text_state)


def cell_bytes(work: Workload) -> int:
    """Peak bytes of one cell that is a whole pass."""
    decoder = (work.scored + 1) * row_bytes(work)
    return decoder if work.in_decoder else encoder_bytes(work.config) + decoder


def encoder_bytes(c: Config) -> int:
    """Peak bytes of encoding one cell, with the memory it returns."""
    return 4 * ((2 * c.n_text_layer + 12) * c.n_audio_ctx * c.n_audio_state + c.n_audio_ctx**2)
