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

# Products for one token in a decoder layer, in the order of the forward pass.
_PRODUCTS = (
    "keys_values",
    "query",
    "out",
    "cross_query",
    "cross_scores",
    "cross_values",
    "cross_out",
    "mlp_in",
    "mlp_out",
)
# The first product that follows the edit of each site. Scores and patterns of unedited queries and
# keys are computed once for all cells.
_FIRST_AFTER_EDIT = {
    "resid_pre": "keys_values",
    **dict.fromkeys(("attn.q", "attn.k", "attn.q_rot", "attn.k_rot", "attn.v"), "out"),
    **dict.fromkeys(("attn.scores", "attn.pattern", "attn.z"), "out"),
    **dict.fromkeys(("attn_out", "resid_mid"), "cross_query"),
    **dict.fromkeys(("cross_attn.q", "cross_attn.k"), "cross_scores"),
    **dict.fromkeys(("cross_attn.v", "cross_attn.scores", "cross_attn.pattern"), "cross_values"),
    "cross_attn.z": "cross_out",
    **dict.fromkeys(("cross_attn_out", "resid_mid_cross"), "mlp_in"),
    **dict.fromkeys(("mlp.pre", "mlp.up", "mlp.post"), "mlp_out"),
}
_WITHOUT_PRODUCTS_AFTER_EDIT = ("mlp_out", "resid_post")


def describe_cost(work: Workload) -> str:
    """Formats cells, chunk size, bytes and floating-point operations on one line."""
    grid, n_cells = work.grid, work.grid.size
    if work.resumes_decoder:
        batches = [batch for _, batch in _layer_batches(work)]
        n_computed = sum(len(batch.places) * work.cells_per_place for batch in batches)
        chunk = max((batch.cells_per_chunk * len(batch.places) for batch in batches), default=0)
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


def _product_flops(c: Config) -> dict[str, int]:
    """Counts the operations of each product for one token. A multiply-add is two operations."""
    shape, is_whisper = c.decoder, c.audio_language is None
    width, n_queries, n_keys = (
        shape.width,
        shape.n_head * shape.d_head,
        shape.n_kv_head * shape.d_head,
    )
    cross, of_frames = (2 * width**2, 2 * c.n_audio_ctx * width) if is_whisper else (0, 0)
    mlp = 2 * width * shape.n_mlp
    n_in = 1 if is_whisper else 2  # the MLP of a language model has a gate
    numbers = 4 * width * n_keys, 2 * width * n_queries, 2 * width * n_queries
    numbers += cross, of_frames, of_frames, cross, n_in * mlp, mlp
    return dict(zip(_PRODUCTS, numbers, strict=True))


def _token_flops(c: Config, site: str = "resid_pre") -> int:
    """Counts the operations for one token in one decoder layer that follow the edit of `site`.

    By default these are all operations of the layer.
    """
    if site in _WITHOUT_PRODUCTS_AFTER_EDIT:
        return 0
    first = _PRODUCTS.index(_FIRST_AFTER_EDIT[site])
    return sum(list(_product_flops(c).values())[first:])


def _batch_flops(work: Workload, layer: int, batch: DecoderBatch) -> float:
    """Counts the operations of the cells of one batch.

    In the edited layer, operations before the edit are shared by the cells of a chunk. Operations
    after the edit are done for every cell.
    """
    c, per_token = work.config, _token_flops(work.config)
    after_edit = _token_flops(c, work.grid.site.removeprefix("decoder."))
    n_columns, kv_flops = len(batch.places), _product_flops(c)["keys_values"]
    edited_rows = batch.n_edited if work.changes_only_edited else batch.n_rows
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
    if work.changes_only_edited:
        before_edit -= kv_flops  # stored, because the edit does not change them
    n_chunks = -(-work.cells_per_place // batch.cells_per_chunk)  # rounded up
    return n_chunks * edited_rows * before_edit + work.cells_per_place * per_cell


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
    shape, first_layer = c.encoder, (layer or 0) if work.resumes else 0
    if work.resumes and work.follows_encoder_layers:
        first_layer = shape.n_layer
    # A cell that edits the output of a layer starts at the next layer.
    skips_edited = work.grid.site == "encoder.resid_post" and work.resumes
    per_frame = 4 * shape.width * (2 * shape.width + shape.n_mlp + c.n_audio_ctx)
    layers = shape.n_layer - first_layer - skips_edited
    return c.n_audio_ctx * layers * per_frame + _flops_of_reading(c) + decoder_flops


def _flops_of_reading(c: Config) -> int:
    """Counts the operations between the encoder's layers and the decoder's, for all frames."""
    family, width = c.audio_language, c.n_text_state
    if family is None:  # every decoder layer computes keys and values
        return c.n_audio_ctx * 4 * c.n_text_layer * width**2
    n_pooled = family.frames_per_token if family.pool == "stack" else 1
    first, others = c.n_audio_state * n_pooled * width, (family.projector_layers - 1) * width**2
    return 2 * c.n_audio_tokens * (first + others)
