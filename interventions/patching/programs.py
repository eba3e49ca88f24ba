"""Defines the compiled programs of a sweep: one encodes, and three compute cells.

JAX traces every function of this module, so values of arrays decide nothing in Python.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.edits.cells import Cell, Coordinates, place_at
from interventions.patching.packing import PackedRows
from interventions.patching.recordings import Recordings
from interventions.patching.resumed_encoder import resumed_memory
from interventions.patching.resumed_language import resumed_decoder_class
from interventions.patching.unedited import unfreeze
from interventions.patching.whole_pass import score_edited, score_memory, score_residual
from interventions.run import encode_mel
from jaxasr import compiled, pytrees, sites
from jaxasr.cache import EncodedAudio
from jaxasr.model import SpeechModel, full_precision
from jaxasr.taps import Edit, Edits, Readout

# Number of frames per window of time, and number of encoder frames without padding.
Frames = tuple[Int[Array, ""], Int[Array, ""]]


@pytrees.dataclass
class CellBatch:
    """Cells that one device computes in one call.

    Attributes:
        layer: int32 [1], the edited layer; 0 if cells edit all layers.
        cells: coordinates [K] by dimension.
        rows: the packed rows of the edited positions, with a leading axis of size 1; None if cells
            are whole passes.
    """

    layer: Int[Array, "1"]
    cells: Coordinates
    rows: PackedRows | None


def encode(
    model: SpeechModel,
    mel: Float[Array, "R M F"],
    lengths: Int[Array, "R"] | None,
    readout: Readout,
) -> tuple[EncodedAudio, dict[str, Array]]:
    """Encodes recordings, and returns the memory and the activations of `readout`."""
    with full_precision(model):
        return encode_mel(model, mel, lengths, None, readout)


def resumed_decoder_cells(
    frozen: compiled.Frozen,
    batch: CellBatch,
    frames: Frames,
    recordings: Recordings,
    edit: Edit,
    *,
    site: str,
    has_places: bool,
    changes_only_edited: bool,
    layers_above: int,
) -> Float[Array, "R K P"]:
    """Computes the metric of decoder cells that resume from activations of the unedited target."""
    model, blocks = unfreeze(frozen)
    rows: PackedRows = jax.tree.map(lambda x: x[0], batch.rows)
    when = None
    if has_places and not changes_only_edited:
        # The rows of a column are different positions, and only some are edited. The mask of rows
        # lies along the position axis of the site.
        shape = [-1 if axis in "TS" else 1 for axis in sites.SITES[site]]
        when = jnp.reshape(rows.is_edited, shape)

    def compute(recording: Recordings) -> Float[Array, "K P"]:
        placed, metric = recording.edit(edit), recording.metric.first
        assert recording.memory is not None
        assert recording.trace is not None

        def edits_of(cell: Cell) -> Edits:
            return {site: place_at(placed, cell, *frames, when)}

        decoder = resumed_decoder_class(model.config)(
            model,
            blocks,
            recording.audio_kv,
            recording.memory,
            recording.tokens,
            recording.trace,
            rows,
            batch.layer[0],
            changes_only_edited,
            layers_above,
        )
        x = decoder.scored_residuals(edits_of, batch.cells)
        # `metric` expects the logits of one example, so every cell of every column is one.
        metrics = jax.vmap(lambda row: score_residual(model, row[None], metric))(
            x.reshape(-1, x.shape[-1])
        )
        return metrics.reshape(x.shape[:-1])

    # Effects are small differences of metrics, which reduced-precision products would distort.
    with full_precision(model):
        return recordings.map(compute)


def whole_decoder_cells(
    model: SpeechModel,
    batch: CellBatch,
    frames: Frames,
    recordings: Recordings,
    edit: Edit,
    *,
    site: str,
    scored_position: int,
) -> Float[Array, "R K 1"]:
    """Computes the metric of decoder cells. Each cell is a whole decoder pass."""

    def compute(recording: Recordings) -> Float[Array, "K 1"]:
        placed, memory, metric = recording.edit(edit), recording.memory, recording.metric.first
        assert memory is not None

        def score_cell(cell: Cell) -> Array:
            edits = {site: place_at(placed, cell, *frames)}
            return score_edited(model, recording.tokens, memory, edits, scored_position, metric)

        return jax.vmap(score_cell)(batch.cells)[:, None]

    with full_precision(model):
        return recordings.map(compute)


def encoder_cells(
    model: SpeechModel,
    batch: CellBatch,
    frames: Frames,
    recordings: Recordings,
    edit: Edit,
    *,
    site: str,
    scored_position: int,
) -> Float[Array, "R K 1"]:
    """Computes the metric of encoder cells.

    With stored residuals a cell starts at the edited layer. Without them it is a whole pass.
    """

    def compute(recording: Recordings) -> Float[Array, "K 1"]:
        placed = recording.edit(edit)

        def score_cell(cell: Cell) -> Array:
            edits = {site: place_at(placed, cell, *frames)}
            if recording.residuals is not None:
                memory = resumed_memory(
                    model, site, recording.residuals, edits, batch.layer[0], recording.lengths
                )
            else:
                assert recording.mel is not None
                memory = encode_mel(model, recording.mel, recording.lengths, edits)[0]
            return score_memory(
                model, recording.tokens, memory, scored_position, recording.metric.first
            )

        if len(jax.tree.leaves(batch.cells)[0]) == 1:
            # Without `vmap`, a single cell runs the kernels of an ordinary pass.
            return score_cell(jax.tree.map(lambda column: column[0], batch.cells))[None, None]
        return jax.vmap(score_cell)(batch.cells)[:, None]

    with full_precision(model):
        return recordings.map(compute)
