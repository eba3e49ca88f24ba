"""Divides the cells of a sweep into batches that fit the memory budget.

A decoder cell recomputes its edited position and some later positions. These positions are a
column; see `packing`. All cells that edit the same positions share a column. A batch holds the
columns of several places, such as positions or windows of audio tokens.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Int

from interventions.memory_budget import memory_budget
from interventions.patching.grid import Grid
from interventions.patching.packing import Column, PackedRows, pack_columns
from interventions.patching.resumed_encoder import SITES_AFTER_LAYERS
from jaxasr import sites
from jaxasr.config import Config
from jaxasr.meshes import equal_chunk_size, size_per_device

# Ends of the sites whose edit at one position changes what other positions attend to in the same
# layer. Cross-attention sites with these ends are audio, so they have no dimension "position".
_SITES_CHANGING_OTHER_POSITIONS = ("resid_pre", "attn.k", "attn.k_rot", "attn.v")
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
        """Whether cells start from a stored residual: each edits one layer, or what follows it."""
        return self.reuse and ("layer" in self.grid.coords or self.follows_encoder_layers)

    @property
    def follows_encoder_layers(self) -> bool:
        """Whether the patched site is computed from the last residual of the encoder."""
        return self.grid.site in SITES_AFTER_LAYERS

    @property
    def resumes_decoder(self) -> bool:
        """Whether cells are decoder cells that start from a stored residual."""
        return self.resumes and self.in_decoder

    @property
    def changes_only_edited(self) -> bool:
        """Whether cells edit some positions and, within the edited layer, change no other one."""
        changes_others = self.grid.site.endswith(_SITES_CHANGING_OTHER_POSITIONS)
        return self.grid.place_dim is not None and not changes_others

    @property
    def cells_per_place(self) -> int:
        """Number of cells per layer and place."""
        return self.grid.size // len(self.grid.layers) // self.grid.n_places

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
    """Decoder cells of one layer that are computed together. They edit some of the places.

    Attributes:
        places: indices of the places, along `Grid.place_dim`.
        rows: the packed columns of these places, with padding.
        n_rows: number of rows without padding.
        n_edited: number of edited positions without padding.
        cells_per_chunk: number of cells of each place that are computed in one call.
        layers_above: 0 if the edited layer is the last, 1 if only the last layer follows it, and 2
            if other layers may lie between.
    """

    places: list[int]
    rows: PackedRows
    n_rows: int
    n_edited: int
    cells_per_chunk: int
    layers_above: int


def decoder_batches(work: Workload, layer: int) -> list[DecoderBatch]:
    """Divides the cells that edit `layer` into batches.

    Cells that cannot change the logits of the scored position are left out. The number of layers
    that attend to the edited position decides which positions a column has:

    * no layer: the scored position;
    * one layer: the edited positions and the scored one;
    * more layers: all positions from the first edited to the scored one.

    A sweep therefore has at most three executables.
    """
    last_layer = work.config.n_text_layer - 1
    # The layers above the edited one attend to the edited position. So does the edited layer, if
    # its edit changes other positions.
    n_layers_attending = last_layer - layer + (not work.changes_only_edited)
    selected, columns = _select_columns(work, n_layers_attending)
    max_rows = max(1, memory_budget(work.budget) // row_bytes(work))
    n_cells = work.grid.nominal_n_cells("layer", work.grid.place_dim)
    lengths = [len(column.rows) for column in columns]
    # Each of the cells computes all rows of a batch, so the cells share the budget.
    most = max(max(lengths, default=1), min(max_rows // n_cells, _MAX_ROWS_PER_BATCH))
    batches = pack_columns(lengths, most)
    sizes = [sum(lengths[i] for i in batch) for batch in batches]
    edited_sizes = [sum(len(columns[i].edited) for i in batch) for batch in batches]
    # All batches are padded to the sizes of the largest, so that they share an executable.
    padded = [max(numbers, default=1) for numbers in (map(len, batches), sizes, edited_sizes)]
    # Without a place dimension the rows cover all positions, so no stored key is needed.
    n_stored = 0 if work.grid.place_dim is None else work.n_tokens
    return [
        DecoderBatch(
            places=[selected[i] for i in batch],
            rows=PackedRows.of([columns[i] for i in batch], n_stored, *padded),
            n_rows=size,
            n_edited=n_edited,
            cells_per_chunk=equal_chunk_size(n_cells, max_rows // max(sizes)),
            layers_above=0 if layer == last_layer else 1 if n_layers_attending == 1 else 2,
        )
        for batch, size, n_edited in zip(batches, sizes, edited_sizes)
    ]


def _select_columns(work: Workload, n_layers_attending: int) -> tuple[list[int], list[Column]]:
    """Selects the places whose edit can change the scored logits.

    Returns:
        Indices of these places in the grid, and the column of each.
    """
    scored = work.scored_position
    if work.grid.place_dim is None:
        return [0], [Column(np.arange(scored + 1), np.arange(1))]
    places = [
        positions[positions <= scored if n_layers_attending else positions == scored]
        for positions in work.grid.patched_positions()
    ]
    selected = [i for i, edited in enumerate(places) if edited.size]
    if n_layers_attending > 1:
        rows = [np.arange(places[i][0], scored + 1) for i in selected]
    else:
        # A union has one scored position, also if it is edited.
        rows = [np.union1d(places[i], [scored]) for i in selected]
    return selected, [Column(all_, places[i]) for i, all_ in zip(selected, rows)]


def chunk_size(work: Workload) -> int:
    """Returns the number of cells per chunk, if each cell is a whole pass."""
    max_size = min(memory_budget(work.budget) // cell_bytes(work), _MAX_CELLS_PER_CHUNK)
    return equal_chunk_size(work.grid.nominal_n_cells("layer"), max_size)


def max_recordings(work: Workload) -> int:
    """Returns the largest number of recordings whose cells of one layer fit the budget together."""
    if work.resumes_decoder:
        n_cells = work.grid.nominal_n_cells("layer", work.grid.place_dim)
        layers = [layer for layer in work.grid.layers if layer is not None]
        per_layer = [decoder_batches(work, layer) for layer in layers]
        batches = [batch for of_layer in per_layer for batch in of_layer]
        is_split = any(len(of_layer) > 1 for of_layer in per_layer)
        if is_split or any(batch.cells_per_chunk < n_cells for batch in batches):
            return 1
        n_rows = max((batch.rows.positions.size for batch in batches), default=1)
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
    """Estimates the bytes of one recording: what its cells share, and its encoder pass."""
    return 4 * _shared_numbers(c) + encoder_bytes(c) + 4 * c.n_audio_head * c.n_audio_ctx**2


def _shared_numbers(c: Config) -> int:
    if c.audio_language is None:  # keys and values of cross-attention, stacked and unstacked
        return 2 * c.n_text_layer * c.n_audio_ctx * c.n_text_state
    # Residuals before and after each layer, and keys and values, of all audio tokens.
    shape = c.decoder
    return 2 * shape.n_layer * c.n_audio_tokens * (shape.width + shape.n_kv_head * shape.d_head)


def row_bytes(work: Workload) -> int:
    """Estimates the peak bytes of one decoder row, from the float32 intermediates of one layer."""
    c = work.config
    # Attention scores of all heads over audio and text, and about 12 vectors of the model's width.
    # A language model reads audio among its tokens, and its MLP is gated.
    is_whisper = c.audio_language is None
    n_frames, n_gates = (c.n_audio_ctx, 0) if is_whisper else (0, 3 * c.decoder.n_mlp)
    n_scores = c.n_text_head * (n_frames + 2 * (work.scored_position + 1))
    return 4 * (n_scores + 12 * c.n_text_state + n_gates)


def cell_bytes(work: Workload) -> int:
    """Estimates the peak bytes of one cell that is a whole pass."""
    decoder_bytes = (work.scored_position + 1) * row_bytes(work)
    return decoder_bytes if work.in_decoder else encoder_bytes(work.config) + decoder_bytes


def encoder_bytes(c: Config) -> int:
    """Estimates the peak bytes of encoding one cell, the memory included."""
    # Keys and values of every decoder layer, or the prefix of a language model; about 12 arrays of
    # the encoder's width; and the attention scores of one head.
    of_whisper = 2 * c.n_text_layer * c.n_audio_ctx * c.n_text_state
    n_encoded = of_whisper if c.audio_language is None else c.n_audio_tokens * c.n_text_state
    return 4 * (n_encoded + 12 * c.n_audio_ctx * c.n_audio_state + c.n_audio_ctx**2)
