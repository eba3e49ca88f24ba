"""Divides the cells of a sweep into chunks, each of which a device computes in one call."""

import dataclasses
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jaxtyping import Int

from interventions.edits.cells import Coordinates
from interventions.patching.packing import PackedRows
from interventions.patching.workload import Workload, chunk_size, decoder_batches


@dataclasses.dataclass(frozen=True, eq=False)
class CellChunk:
    """Cells that edit the same layer and are computed in one call.

    Attributes:
        layer: the edited layer; None if cells edit all layers.
        cells: coordinates [K] by dimension, with padding at the end.
        indices: [k, p], flat grid indices of the k cells without padding, per place. Cells
            that are whole passes have p = 1.
        rows: the packed rows of the edited positions; None if cells are whole passes.
        layers_above: as in `DecoderBatch`; 0 if cells are whole passes.
    """

    layer: int | None
    cells: Coordinates
    indices: Int[np.ndarray, "k p"]
    rows: PackedRows | None = None
    layers_above: int = 0

    @property
    def program(self) -> tuple[object, ...]:
        """A key that is equal for chunks that the same program computes."""
        arrays = jax.tree.leaves((self.cells, self.rows))
        return self.layers_above, tuple(np.shape(array) for array in arrays)


def cell_chunks(work: Workload, layer: int | None) -> Iterator[CellChunk]:
    """Yields chunks of the cells that edit `layer` and can change the scored logits."""
    if layer is None or not work.resumes_decoder:
        indices, cells = work.grid.cells_of_layer(layer)
        for part in _parts(indices.size, size := chunk_size(work)):
            yield CellChunk(layer, _pad(cells, part, size), indices[part][:, None])
        return
    indices, cells = work.grid.cells_by_place(layer)
    for batch in decoder_batches(work, layer):
        for part in _parts(indices.shape[1], size := batch.cells_per_chunk):
            chunk_indices = indices[batch.places][:, part].T
            padded = _pad(cells, part, size)
            yield CellChunk(layer, padded, chunk_indices, batch.rows, batch.layers_above)


def group_by_program(chunks: Iterable[CellChunk], size: int) -> Iterator[list[CellChunk]]:
    """Groups consecutive chunks of the same program into groups of at most `size`."""
    group: list[CellChunk] = []
    for chunk in chunks:
        if group and (len(group) == size or chunk.program != group[0].program):
            yield group
            group = []
        group.append(chunk)
    if group:
        yield group


def _parts(n: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, n, size)]


def _pad(cells: Coordinates, part: slice, size: int) -> Coordinates:
    """Selects cells, and repeats the last one until there are `size`."""
    selected = {dim: values[part] for dim, values in cells.items()}
    return {dim: np.pad(x, (0, size - len(x)), mode="edge") for dim, x in selected.items()}
