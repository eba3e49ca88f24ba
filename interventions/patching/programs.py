"""The three compiled programs that compute cells. Everything here is traced."""

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

# Frames per window, and true frames.
Frames = tuple[Int[Array, ""], Int[Array, ""]]


def resumed_decoder_cells(
    frozen: compiled.Frozen,
    audio_kv: tuple[tuple[Array, Array], ...] | None,
    first: Int[Array, ""],
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
    """Metric of decoder cells that share everything they do not change, per column."""
    model, blocks = unfreeze(frozen)
    when = None
    if has_positions and not position_local:
        # Rows of a column are different positions here, and the edit acts on the first.
        shape = [-1 if axis in "TS" else 1 for axis in sites.SITES[site]]
        when = jnp.reshape(rows.is_first, shape)

    def edits_of(cell: Cell) -> Edits:
        return {site: place_at(edit, cell, *frames, when)}

    # Sweeps subtract metrics of nearly equal passes, which reduced-precision products would blur.
    with full_precision(model):
        decoder = ResumedDecoder(
            model, blocks, audio_kv, memory, trace, rows, first, position_local, layers_above
        )
        x = decoder.residuals(edits_of, cells)
        scored = jax.vmap(lambda row: score_residual(model, row[None], metric))(
            x.reshape(-1, x.shape[-1])
        )
        return scored.reshape(x.shape[:-1])


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
    """Metric of decoder cells, each a whole pass."""

    def score_cell(cell: Cell) -> Array:
        edits = {site: place_at(edit, cell, *frames)}
        return score_edited(model, tokens, memory, edits, scored, metric)

    with full_precision(model):
        return jax.vmap(score_cell)(cells)


def encoder_cells(
    model: Whisper,
    first: Int[Array, ""],
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
    """Metric of encoder cells, resumed from layer `first` where there are `residuals`."""

    def encode_cell(edits: Edits) -> Memory:
        if residuals is None:
            return model.encode(mel, edits)[0]
        return resumed_memory(model, site, residuals, edits, first)

    def score_cell(cell: Cell) -> Array:
        memory = encode_cell({site: place_at(edit, cell, *frames)})
        return score_memory(model, tokens, memory, scored, metric)

    with full_precision(model):
        if len(jax.tree.leaves(cells)[0]) == 1:
            # Without `vmap` a single cell runs as a plain pass.
            return score_cell(jax.tree.map(lambda column: column[0], cells))[None]
        return jax.vmap(score_cell)(cells)
