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

    The count excludes norms, decoder self-attention scores, the unembedding, and the unedited
    passes that cells share.
    """
    if work.resumes_decoder:
        per_example = sum(_batch_flops(work, *pair) for pair in _layer_batches(work))
    else:
        layers = work.grid.layers
        cells_per_layer = work.grid.size / len(layers)
        per_example = sum(_cell_flops(work, layer) for layer in layers) * cells_per_layer
    return float(work.n_examples * per_example)


def _layer_batches(work: Workload) -> list[tuple[int, DecoderBatch]]:
    layers = [layer for layer in work.grid.layers if layer is not None]
    return [(layer, batch) for layer in layers for batch in decoder_batches(work, layer)]


def _token_flops(c: Config) -> int:
    """Counts the operations for one token in one decoder layer. A multiply-add counts twice."""
    return 28 * c.n_text_state**2 + 4 * c.n_audio_ctx * c.n_text_state


def _flops_after_edit(work: Workload) -> int:
    """Counts the operations for one token in the edited layer, after the edited site."""
    name, squared_width = work.grid.site.removeprefix("decoder."), work.config.n_text_state**2
    if name.startswith("mlp"):
        return 8 * squared_width
    if "cross" in name:
        return 18 * squared_width
    return 0 if name == "resid_post" else _token_flops(work.config)


def _batch_flops(work: Workload, layer: int, batch: DecoderBatch) -> float:
    """Counts the operations of one batch of columns, each the cells of one position.

    Activations that no edit changes are computed once per column, not once per cell.
    """
    c, per_token = work.config, _token_flops(work.config)
    n_columns, kv_flops = len(batch.edited), 4 * c.n_text_state**2
    edited_rows = n_columns if work.position_local else batch.n_rows
    layers_between = max(0, c.n_text_layer - 2 - layer)
    # The last layer computes keys and values for every row, and everything else only for the
    # scored row of each column.
    last_layer_flops = batch.n_rows * kv_flops + n_columns * (per_token - kv_flops)
    per_cell = (
        edited_rows * _flops_after_edit(work)
        + layers_between * batch.n_rows * per_token
        + (last_layer_flops if batch.layers_above else 0)
    )
    return edited_rows * per_token + work.cells_per_position * per_cell


def _cell_flops(work: Workload, layer: int | None) -> float:
    """Counts the operations of one cell that is computed by a pass of its own."""
    c = work.config
    decoder_flops = _token_flops(c) * (work.scored + 1) * c.n_text_layer
    if work.in_decoder:
        return decoder_flops
    first_layer = (layer or 0) if work.resumes else 0
    skips_edited = work.grid.site == "encoder.resid_post" and work.resumes
    per_frame = 24 * c.n_audio_state**2 + 4 * c.n_audio_ctx * c.n_audio_state
    layers = c.n_audio_layer - first_layer - skips_edited
    return (
        c.n_audio_ctx * (layers * per_frame + 4 * c.n_text_layer * c.n_text_state**2)
        + decoder_flops
    )
