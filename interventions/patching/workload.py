"""Divides the cells of a sweep into batches that fit the memory budget.

A decoder cell recomputes its edited position and some later positions. These positions are a
column; see `packing`. All cells that edit the same position share a column. A batch holds the
columns of several positions.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Int

from interventions.memory_budget import memory_budget
from interventions.patching.grid import Grid
from interventions.patching.packing import PackedRows, pack_columns
from jaxasr import sites
from jaxasr.config import Config
from jaxasr.meshes import equal_chunk_size, size_per_device

# Ends of the sites whose edit at one position changes what other positions attend to in the same
# layer. Cross-attention sites with these ends are audio, so they have no dimension "position".
_SITES_CHANGING_OTHER_POSITIONS = ("resid_pre", "attn.k", "attn.v")
# Largest number of rows per batch. The attention mask grows with the square of this number.
_MAX_ROWS_PER_BATCH = 512
# Largest number of cells per chunk, if each cell is a whole pass.
_MAX_CELLS_PER_CHUNK = 512
# Bytes of the encoded recordings that a CPU holds for cells that are computed together.
_CPU_RECORDING_BUDGET = 1 << 30


@dataclasses.dataclass(frozen=True)
class Workload:
    """The sizes and options of a sweep that decide how its cells are batched.

    Attributes:
        config: configuration of the model.
        grid: the grid of cells.
        n_examples: number of rows of the target.
        n_tokens: number of tokens per row.
        scored_position: index of the position whose logits are scored.
        reuse: whether cells reuse unedited activations.
        budget: bytes for cells that are computed together; None for a size chosen for the device.
        recordings: recordings that a device computes together; None for a number chosen by
            `recordings_per_device`.
        n_devices: number of devices that divide the recordings; 0 without a mesh.
        n_processes: number of processes that divide the recordings.
    """

    config: Config
    grid: Grid
    n_examples: int
    n_tokens: int
    scored_position: int
    reuse: bool
    budget: int | None
    recordings: int | None = None
    n_devices: int = 0
    n_processes: int = 1

    @property
    def in_decoder(self) -> bool:
        """Whether the patched site is in the decoder."""
        return sites.stack_of(self.grid.site) == "decoder"

    @property
    def resumes(self) -> bool:
        """Whether cells start from a stored residual. They can if each edits one layer."""
        return self.reuse and "layer" in self.grid.coords

    @property
    def resumes_decoder(self) -> bool:
        """Whether cells are decoder cells that start from a stored residual."""
        return self.resumes and self.in_decoder

    @property
    def changes_one_position(self) -> bool:
        """Whether cells edit one position and, within the edited layer, change no other one."""
        changes_others = self.grid.site.endswith(_SITES_CHANGING_OTHER_POSITIONS)
        return "position" in self.grid.coords and not changes_others

    @property
    def cells_per_position(self) -> int:
        """Number of cells per layer and position."""
        return self.grid.size // len(self.grid.layers) // self.grid.n_positions

    @functools.cached_property
    def recordings_per_device(self) -> int:
        """Number of recordings that a device computes together.

        As many as fit the memory, if all cells of a layer fit into one chunk. Several processes
        divide the recordings as the devices of a mesh do.
        """
        if self.recordings is not None:
            return self.recordings
        several = self.n_devices or self.n_processes > 1
        n_devices = max(1, self.n_devices) * self.n_processes if several else 0
        return size_per_device(self.n_examples, n_devices, max_recordings(self))

    @property
    def recordings_per_chunk(self) -> int:
        """Number of recordings that all devices compute together."""
        return self.recordings_per_device * max(1, self.n_devices)

    def row_chunks(self) -> list[Int[np.ndarray, "n"]]:
        """Returns the rows of the target in chunks of at most `recordings_per_chunk`."""
        size = self.recordings_per_chunk
        rows = np.arange(self.n_examples)
        return [rows[start : start + size] for start in range(0, self.n_examples, size)]


@dataclasses.dataclass(frozen=True)
class DecoderBatch:
    """Decoder cells of one layer that are computed together. They edit some of the positions.

    Attributes:
        edited: indices of the edited positions, along the dimension "position" of the grid.
        rows: the packed columns of these positions, with padding.
        n_rows: number of rows without padding.
        cells_per_chunk: number of cells of each position that are computed in one call.
        layers_above: 0 if the edited layer is the last, 1 if only the last layer follows it, and 2
            if other layers may lie between.
    """

    edited: list[int]
    rows: PackedRows
    n_rows: int
    cells_per_chunk: int
    layers_above: int


def decoder_batches(work: Workload, layer: int) -> list[DecoderBatch]:
    """Divides the cells that edit `layer` into batches.

    Cells that cannot change the logits of the scored position are left out. The number of layers
    that attend to the edited position decides which positions a column has:

    * no layer: the scored position;
    * one layer: the edited and the scored position;
    * more layers: all positions from the edited to the scored one.

    A sweep therefore has at most three executables.
    """
    last_layer = work.config.n_text_layer - 1
    # The layers above the edited one attend to the edited position. So does the edited layer, if
    # its edit changes other positions.
    n_layers_attending = last_layer - layer + (not work.changes_one_position)
    selected, columns = _select_columns(work, n_layers_attending)
    max_rows = max(1, memory_budget(work.budget) // row_bytes(work))
    n_cells = work.grid.nominal_n_cells("layer", "position")
    longest_column = max(map(len, columns), default=1)
    # Each of the cells computes all rows of a batch, so the cells share the budget.
    batches = list(
        pack_columns(columns, max(longest_column, min(max_rows // n_cells, _MAX_ROWS_PER_BATCH)))
    )
    sizes = [sum(len(columns[i]) for i in batch) for batch in batches]
    # All batches are padded to the sizes of the largest, so that they share an executable.
    n_columns, n_rows = max(map(len, batches), default=1), max(sizes, default=1)
    # Without a position dimension the rows cover all positions, so no stored key is needed.
    n_stored = work.n_tokens if "position" in work.grid.coords else 0
    return [
        DecoderBatch(
            edited=[selected[i] for i in batch],
            rows=PackedRows.of([columns[i] for i in batch], n_stored, n_columns, n_rows),
            n_rows=size,
            cells_per_chunk=equal_chunk_size(n_cells, max_rows // n_rows),
            layers_above=0 if layer == last_layer else 1 if n_layers_attending == 1 else 2,
        )
        for batch, size in zip(batches, sizes)
    ]


def _select_columns(work: Workload, n_layers_attending: int) -> tuple[list[int], list[np.ndarray]]:
    """Selects the edited positions that can change the scored logits.

    Returns:
        Indices of these positions in the grid, and the column of each.
    """
    if "position" not in work.grid.coords:
        return [0], [np.arange(work.scored_position + 1)]
    edited, scored = work.grid.coords["position"], work.scored_position
    selected = np.flatnonzero(edited <= scored if n_layers_attending else edited == scored).tolist()
    if n_layers_attending > 1:
        return selected, [np.arange(edited[i], scored + 1) for i in selected]
    # `unique` leaves one position if the edited one is scored.
    return selected, [np.unique([edited[i], scored]) for i in selected]


def chunk_size(work: Workload) -> int:
    """Returns the number of cells per chunk, if each cell is a whole pass."""
    max_size = min(memory_budget(work.budget) // cell_bytes(work), _MAX_CELLS_PER_CHUNK)
    return equal_chunk_size(work.grid.nominal_n_cells("layer"), max_size)


def max_recordings(work: Workload) -> int:
    """Returns the largest number of recordings whose cells of one layer fit the budget together."""
    if work.resumes_decoder:
        n_cells = work.grid.nominal_n_cells("layer", "position")
        layers = [layer for layer in work.grid.layers if layer is not None]
        batches = [decoder_batches(work, layer) for layer in layers]
        if any(len(of_layer) > 1 or of_layer[0].cells_per_chunk < n_cells for of_layer in batches):
            return 1
        n_rows = max(of_layer[0].rows.positions.size for of_layer in batches)
        group_bytes = n_cells * n_rows * row_bytes(work)
    else:
        n_cells = work.grid.nominal_n_cells("layer")
        if chunk_size(work) < n_cells:
            return 1
        group_bytes = n_cells * cell_bytes(work)
    by_cells = memory_budget(work.budget) // group_bytes
    by_memory = memory_budget(None, cpu=_CPU_RECORDING_BUDGET) // recording_bytes(work.config)
    return max(1, min(by_cells, by_memory))


def recording_bytes(c: Config) -> int:
    """Estimates the bytes of one recording: its memory twice, and its encoder pass."""
    memory_bytes = 4 * 2 * c.n_text_layer * c.n_audio_ctx * c.n_text_state
    return memory_bytes + encoder_bytes(c) + 4 * c.n_audio_head * c.n_audio_ctx**2


def row_bytes(work: Workload) -> int:
    """Estimates the peak bytes of one decoder row, from the float32 intermediates of one layer."""
    c = work.config
    # Attention scores of all heads over audio and text, and about 12 vectors of the model's width.
    n_scores = c.n_text_head * (c.n_audio_ctx + 2 * (work.scored_position + 1))
    return 4 * (n_scores + 12 * c.n_text_state)


def cell_bytes(work: Workload) -> int:
    """Estimates the peak bytes of one cell that is a whole pass."""
    decoder_bytes = (work.scored_position + 1) * row_bytes(work)
    return decoder_bytes if work.in_decoder else encoder_bytes(work.config) + decoder_bytes


def encoder_bytes(c: Config) -> int:
    """Estimates the peak bytes of encoding one cell, the memory included."""
    # Keys and values of every decoder layer, about 12 arrays of the encoder's width, and the
    # attention scores of one head.
    return 4 * ((2 * c.n_text_layer + 12) * c.n_audio_ctx * c.n_audio_state + c.n_audio_ctx**2)
