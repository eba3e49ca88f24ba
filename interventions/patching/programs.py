"""Defines the three compiled programs that compute cells.

JAX traces every function of this module, so values of arrays decide nothing in Python.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.edits.cells import Cell, Coordinates, place_at
from interventions.metrics import Metric
from interventions.patching.packing import PackedRows
from interventions.patching.resumed_decoder import ResumedDecoder, UneditedTrace
from interventions.patching.resumed_encoder import Residuals, resumed_memory
from interventions.patching.unedited import unfreeze
from interventions.patching.whole_pass import score_edited, score_memory, score_residual
from jaxasr import compiled, sites
from jaxasr.cache import Memory
from jaxasr.model import Whisper, full_precision
from jaxasr.taps import Edit, Edits

# Number of frames per window of time, and number of encoder frames without padding.
Frames = tuple[Int[Array, ""], Int[Array, ""]]


def resumed_decoder_cells(
    frozen: compiled.Frozen,
    audio_kv: tuple[tuple[Array, Array], ...] | None,
    edited_layer: Int[Array, ""],
    cells: Coordinates,
    frames: Frames,
    rows: PackedRows,
    memory: Memory,
    trace: UneditedTrace,
    edit: Edit,
    metric: Metric,
    *,
    site: str,
    has_positions: bool,
    position_local: bool,
    layers_above: int,
) -> Float[Array, "K P"]:
    """Computes the metric of decoder cells that resume from activations of the unedited target."""
    model, blocks = unfreeze(frozen)
    when = None
    if has_positions and not position_local:
        # The rows of a column are different positions, and only the first is edited. The mask of
        # rows lies along the position axis of the site.
        shape = [-1 if axis in "TS" else 1 for axis in sites.SITES[site]]
        when = jnp.reshape(rows.is_first, shape)

    def edits_of(cell: Cell) -> Edits:
        return {site: place_at(edit, cell, *frames, when)}

    # Effects are small differences of metrics, which reduced-precision products would distort.
    with full_precision(model):
        decoder = ResumedDecoder(
            model, blocks, audio_kv, memory, trace, rows, edited_layer, position_local, layers_above
        )
        x = decoder.scored_residuals(edits_of, cells)
        # `metric` expects the logits of one example, so every cell of every column is one.
        metrics = jax.vmap(lambda row: score_residual(model, row[None], metric))(
            x.reshape(-1, x.shape[-1])
        )
        return metrics.reshape(x.shape[:-1])


def whole_decoder_cells(
    model: Whisper,
    cells: Coordinates,
    frames: Frames,
    tokens: Int[Array, "1 T"],
    memory: Memory,
    edit: Edit,
    metric: Metric,
    *,
    site: str,
    scored: int,
) -> Float[Array, "K"]:
    """Computes the metric of decoder cells. Each cell is a whole decoder pass."""

    def score_cell(cell: Cell) -> Array:
        edits = {site: place_at(edit, cell, *frames)}
        return score_edited(model, tokens, memory, edits, scored, metric)

    with full_precision(model):
        return jax.vmap(score_cell)(cells)


def encoder_cells(
    model: Whisper,
    edited_layer: Int[Array, ""],
    cells: Coordinates,
    frames: Frames,
    tokens: Int[Array, "1 T"],
    residuals: Residuals | None,
    mel: Float[Array, "1 M F"],
    edit: Edit,
    metric: Metric,
    *,
    site: str,
    scored: int,
) -> Float[Array, "K"]:
    """Computes the metric of encoder cells.

    With `scored_residuals` a cell starts at `edited_layer`. Without them it is a whole pass.
    """

    def encode_cell(edits: Edits) -> Memory:
        if residuals is None:
            return model.encode(mel, edits)[0]
        return resumed_memory(model, site, residuals, edits, edited_layer)

    def score_cell(cell: Cell) -> Array:
        memory = encode_cell({site: place_at(edit, cell, *frames)})
        return score_memory(model, tokens, memory, scored, metric)

    with full_precision(model):
        if len(jax.tree.leaves(cells)[0]) == 1:
            # Without `vmap`, a single cell runs the kernels of an ordinary pass.
            return score_cell(jax.tree.map(lambda column: column[0], cells))[None]
        return jax.vmap(score_cell)(cells)
