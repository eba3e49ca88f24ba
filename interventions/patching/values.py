"""Collects the metrics of a sweep, and saves the cells of a layer when all are computed."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Int

from interventions.patching.cell_chunks import CellChunk
from interventions.patching.chunks import Deferred
from interventions.patching.compute import RecordingChunk
from interventions.patching.finished_groups import FinishedGroups
from interventions.patching.plan import Plan

SweepProgress = Callable[[int, int], None]


class SweepValues:
    """The metrics of a sweep over B rows of the target and the n cells of a flattened grid.

    Attributes:
        cells: [B, n], the metric after each patch; NaN until it is computed.
        baseline: [B], the metric without an edit.
        source: [B], the metric of the source; NaN without a source run.
    """

    def __init__(self, plan: Plan, finished: FinishedGroups, progress: SweepProgress | None):
        n_examples = plan.work.n_examples
        self.cells = np.full((n_examples, plan.work.grid.size), np.nan)
        self.baseline, self.source = np.full((2, n_examples), np.nan)
        self._plan, self._finished, self._progress, self._n_done = plan, finished, progress, 0

    def load(self, rows: Int[np.ndarray, "r"], layer: int | None, indices: np.ndarray) -> bool:
        """Loads the cells of a layer. Returns whether they were finished for all `rows`."""
        loaded = [self._finished.load(int(row), layer, len(indices)) for row in rows]
        values = [x for x in loaded if x is not None]
        if len(values) == len(rows):
            self.cells[np.ix_(rows, indices)] = values
        return len(values) == len(rows)

    def finish(self, rows: Int[np.ndarray, "r"], layer: int | None, indices: np.ndarray) -> None:
        """Saves the cells of a layer, and reports progress."""
        for row in rows:
            self._finished.save(int(row), layer, self.cells[row, indices])
        self.count(rows, indices)

    def count(self, rows: Int[np.ndarray, "r"], indices: np.ndarray) -> None:
        """Reports progress by the cells of a layer."""
        self._n_done += len(rows) * len(indices)
        if self._progress:
            n_rows = sum(map(len, self._plan.row_chunks()))
            self._progress(self._n_done, n_rows * self._plan.work.grid.size)


@dataclasses.dataclass(frozen=True, eq=False)
class PendingRows:
    """Rows of the target whose cells are being computed.

    Attributes:
        rows: indices of the rows.
        recordings: their unedited passes.
        values: where the results go.
        indices: flat grid indices of the cells of each layer that is to be computed.
        n_chunks: number of chunks of each layer that are not stored.
    """

    rows: Int[np.ndarray, "r"]
    recordings: RecordingChunk
    values: SweepValues
    indices: dict[int | None, np.ndarray]
    n_chunks: Counter[int | None]

    @classmethod
    def of(
        cls,
        rows: Int[np.ndarray, "r"],
        recordings: RecordingChunk,
        values: SweepValues,
        indices: dict[int | None, np.ndarray],
        chunks: Iterable[CellChunk],
    ) -> "PendingRows":
        """Prepares to store `chunks`."""
        return cls(rows, recordings, values, indices, Counter(chunk.layer for chunk in chunks))

    def store_baseline(self) -> None:
        """Waits for the unedited passes. Cells that cannot change the logits keep the baseline."""
        n, values = len(self.rows), self.values
        values.baseline[self.rows] = np.asarray(self.recordings.baseline, np.float64)[:n]
        if self.recordings.source_metric is not None:
            values.source[self.rows] = np.asarray(self.recordings.source_metric, np.float64)[:n]
        for layer, indices in self.indices.items():
            values.cells[np.ix_(self.rows, indices)] = values.baseline[self.rows, None]
            if not self.n_chunks[layer]:
                values.finish(self.rows, layer, indices)

    def store_chunks(self, chunks: Sequence[CellChunk], metrics: Deferred) -> None:
        """Waits for the metrics of chunks, and saves every layer that is then finished."""
        computed = metrics()[: len(self.rows)]
        for chunk, of_chunk in zip(chunks, np.moveaxis(computed, 1, 0)):
            n_cells, n_positions = chunk.indices.shape
            cells = of_chunk[:, :n_cells, :n_positions]  # without padding
            self.values.cells[self.rows[:, None, None], chunk.indices] = cells
            self.n_chunks[chunk.layer] -= 1
            if not self.n_chunks[chunk.layer]:
                self.values.finish(self.rows, chunk.layer, self.indices[chunk.layer])
