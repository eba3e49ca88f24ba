"""Packs the positions that cells of a decoder sweep compute, and masks attention between them.

A column is the list of positions that a cell computes. The first is the edited position, and the
last is the scored position. All cells that edit the same position share a column. The column of
cells that edit all positions starts at 0.

A batch concatenates columns, and each of their positions is a row. A row attends to the earlier
rows of its column. It also attends to the stored keys and values of the unedited target, at
earlier positions that the column does not compute. All arrays here are NumPy arrays.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Array, Bool, Int

from jaxasr import pytrees

Ints = Int[np.ndarray, "..."] | Int[Array, "..."]
Bools = Bool[np.ndarray, "..."] | Bool[Array, "..."]


@pytrees.dataclass
class PackedRows:
    """A batch of P columns with R rows in total, which attend to N stored positions.

    Attributes:
        first_positions: [P], first position of each column.
        first_rows: [P], index of the first row of each column; R for a padding column.
        scored_rows: [P], index of the row of the scored position in each column.
        positions: [R], position of each row.
        is_first: [R], whether a row is the first of its column.
        mask: [R, N + R], whether a row attends to each stored position, then to each row.
        key_positions: [N + R], the stored positions, followed by the positions of the rows.
    """

    first_positions: Ints
    first_rows: Ints
    scored_rows: Ints
    positions: Ints
    is_first: Bools
    mask: Bools
    key_positions: Ints

    @property
    def n_stored(self) -> int:
        """N, the number of stored positions."""
        return self.key_positions.shape[0] - self.positions.shape[0]

    @classmethod
    def of(
        cls, columns: Sequence[np.ndarray], n_stored: int, n_columns: int, n_rows: int
    ) -> "PackedRows":
        """Packs columns, and pads to a fixed number of columns and rows.

        Args:
            columns: the positions of each column, in ascending order.
            n_stored: N, the number of stored positions.
            n_columns: P after padding.
            n_rows: R after padding.
        """
        sizes = np.array([len(column) for column in columns])
        row_padding, column_padding = (0, n_rows - sizes.sum()), (0, n_columns - len(columns))
        first_positions = np.pad([column[0] for column in columns], column_padding)
        last_rows = sizes.cumsum() - 1
        first_rows = np.pad(last_rows - sizes + 1, column_padding, constant_values=n_rows)
        positions = np.pad(np.concatenate(columns), row_padding).astype(np.int32)
        column_of_row = np.repeat(np.arange(len(columns)), sizes)
        # -1 marks padding rows.
        column_of_row = np.pad(column_of_row, row_padding, constant_values=-1)
        is_real = (column_of_row >= 0)[:, None]
        stored = np.arange(n_stored, dtype=np.int32)
        # Whether the column of each row computes each stored position.
        is_computed = np.array([np.isin(stored, column) for column in columns])[column_of_row]
        attends_stored = (stored <= positions[:, None]) & ~is_computed & is_real
        is_same_column = column_of_row[:, None] == column_of_row
        attends_rows = is_same_column & (positions <= positions[:, None]) & is_real
        # Padding rows attend to themselves, because a softmax over no key would be NaN.
        attends_rows |= np.eye(n_rows, dtype=bool)
        return cls(
            first_positions=first_positions.astype(np.int32),
            first_rows=first_rows.astype(np.int32),
            scored_rows=np.pad(last_rows, column_padding).astype(np.int32),
            positions=positions,
            is_first=np.isin(np.arange(n_rows), first_rows),
            mask=np.concatenate([attends_stored, attends_rows], 1),
            key_positions=np.concatenate([stored, positions]),
        )


def pack_columns(columns: Sequence[np.ndarray], max_rows: int) -> Iterator[list[int]]:
    """Groups consecutive columns into batches of at most `max_rows` rows.

    A column of more than `max_rows` positions is a batch of its own.

    Yields:
        Indices of the columns of each batch.
    """
    batch: list[int] = []
    for index, column in enumerate(columns):
        if batch and sum(len(columns[i]) for i in batch) + len(column) > max_rows:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
