"""Counts the cells, bytes and floating-point operations of a sweep."""

from interventions.patching.workload import (
    DecoderBatch,
    Workload,
    cell_bytes,
    chunk_size,
    decoder_batches,
    row_bytes,
)
from jaxasr.config import Config

# Operations for one token in a decoder layer that follow the edit of each site. The first number
# counts products with weight matrices, in units of D². The second counts cross-attention, in units
# of (audio frames) · D. A multiply-add is two operations. Together, the query, key, value and
# output of an attention take 8 D². Cross-attention takes only 4 D², because its keys and values are
# stored. Each of the two products of the MLP takes 8 D².
_OPERATIONS_AFTER_EDIT = {
    "resid_pre": (28, 4),
    "attn.q": (22, 4),
    "attn.k": (22, 4),
    "attn.v": (22, 4),
    "attn.scores": (22, 4),
    "attn.pattern": (22, 4),
    "attn.z": (22, 4),
    "attn_out": (20, 4),
    "resid_mid": (20, 4),
    "cross_attn.q": (18, 4),
    "cross_attn.k": (18, 4),
    # Scores and patterns of unedited queries and keys are computed once for all cells.
    "cross_attn.v": (18, 2),
    "cross_attn.scores": (18, 2),
    "cross_attn.pattern": (18, 2),
    "cross_attn.z": (18, 0),
    "cross_attn_out": (16, 0),
    "resid_mid_cross": (16, 0),
    "mlp.pre": (8, 0),
    "mlp.post": (8, 0),
    "mlp_out": (0, 0),
    "resid_post": (0, 0),
}


def describe_cost(work: Workload) -> str:
    """Formats cells, chunk size, bytes and floating-point operations on one line."""
    grid, n_cells = work.grid, work.grid.size
    if work.resumes_decoder:
        batches = [batch for _, batch in _layer_batches(work)]
        n_computed = sum(len(batch.edited) * work.cells_per_position for batch in batches)
        chunk = max((batch.cells_per_chunk * len(batch.edited) for batch in batches), default=0)
        n_rows = max((batch.cells_per_chunk * batch.n_rows for batch in batches), default=0)
        n_bytes = n_rows * row_bytes(work)
    else:
        n_computed, chunk = n_cells, chunk_size(work)
        n_bytes = chunk * cell_bytes(work)
    dims = " × ".join(f"{dim} {size}" for dim, size in zip(grid.dims, grid.shape))
    return (
        f"{grid.site} over {dims}: {n_cells} cells of {work.n_examples} example(s); "
        f"{n_cells - n_computed} need no computing; chunks of {chunk} cells of "
        f"{work.recordings_per_device} example(s), "
        f"{work.recordings_per_device * n_bytes / 2**20:.0f} MiB; {flops(work) / 1e9:.1f} GFLOP"
    )


def flops(work: Workload) -> float:
    """Counts the floating-point operations of all cells that are computed.

    The count excludes norms, convolutions, scores of decoder self-attention, the unembedding,
    padding, and the unedited passes that cells share.
    """
    if work.resumes_decoder:
        per_example = sum(_batch_flops(work, *pair) for pair in _layer_batches(work))
    else:
        layers = work.grid.layers
        cells_per_layer = work.grid.size / len(layers)
        per_example = sum(_cell_flops(work, layer) for layer in layers) * cells_per_layer
    return float(work.n_examples * per_example)


def _layer_batches(work: Workload) -> list[tuple[int, DecoderBatch]]:
    """Returns the batches of every swept layer, each with its layer."""
    layers = [layer for layer in work.grid.layers if layer is not None]
    return [(layer, batch) for layer in layers for batch in decoder_batches(work, layer)]


def _token_flops(c: Config, site: str = "resid_pre") -> int:
    """Counts the operations for one token in one decoder layer that follow the edit of `site`.

    By default these are all operations of the layer.
    """
    n_squares, n_frame_products = _OPERATIONS_AFTER_EDIT[site]
    return n_squares * c.n_text_state**2 + n_frame_products * c.n_audio_ctx * c.n_text_state


def _batch_flops(work: Workload, layer: int, batch: DecoderBatch) -> float:
    """Counts the operations of the cells of one batch.

    In the edited layer, operations before the edit are shared by the cells of a chunk. Operations
    after the edit are done for every cell.
    """
    c, per_token = work.config, _token_flops(work.config)
    after_edit = _token_flops(c, work.grid.site.removeprefix("decoder."))
    n_columns, kv_flops = len(batch.edited), 4 * c.n_text_state**2
    edited_rows = n_columns if work.changes_one_position else batch.n_rows
    layers_between = max(0, c.n_text_layer - 2 - layer)
    # The last layer computes keys and values for every row, and everything else only for the
    # scored row of each column.
    last_layer_flops = batch.n_rows * kv_flops + n_columns * (per_token - kv_flops)
    per_cell = (
        edited_rows * after_edit
        + layers_between * batch.n_rows * per_token
        + (last_layer_flops if batch.layers_above else 0)
    )
    before_edit = per_token - after_edit
    if work.changes_one_position:
        before_edit -= kv_flops  # stored, because the edit does not change them
    n_chunks = -(-work.cells_per_position // batch.cells_per_chunk)  # rounded up
    return n_chunks * edited_rows * before_edit + work.cells_per_position * per_cell


def _cell_flops(work: Workload, layer: int | None) -> float:
    """Counts the operations of one cell that shares none with other cells.

    Args:
        work: the sweep.
        layer: the edited layer; None if the cell edits all layers.
    """
    c = work.config
    decoder_flops = _token_flops(c) * (work.scored_position + 1) * c.n_text_layer
    if work.in_decoder:
        return decoder_flops
    first_layer = (layer or 0) if work.resumes else 0
    # A cell that edits the output of a layer starts at the next layer.
    skips_edited = work.grid.site == "encoder.resid_post" and work.resumes
    per_frame = 24 * c.n_audio_state**2 + 4 * c.n_audio_ctx * c.n_audio_state
    layers = c.n_audio_layer - first_layer - skips_edited
    # Every decoder layer computes keys and values of every frame.
    per_frame_kv = 4 * c.n_text_layer * c.n_text_state**2
    return c.n_audio_ctx * (layers * per_frame + per_frame_kv) + decoder_flops
