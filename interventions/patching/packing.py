"""Packs the positions that cells of a decoder sweep compute, and masks attention between them.

A column is the list of positions that a cell computes. The first is an edited position, and the
last is the scored position. All cells that edit the same positions share a column. The column of
cells that edit all positions starts at 0.

A batch concatenates columns, and each of their positions is a row. A row attends to the earlier
rows of its column. It also attends to the stored keys and values of the unedited target, at
earlier positions that the column does not compute. All arrays here are NumPy arrays.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Int

from jaxasr import pytrees

Ints = Int[np.ndarray, "..."] | Int[Array, "..."]
Bools = Bool[np.ndarray, "..."] | Bool[Array, "..."]


class Column(NamedTuple):
    """The positions that the cells of one place compute, in ascending order.

    Attributes:
        rows: all of them.
        edited: those that are edited.
    """

    rows: Int[np.ndarray, "r"]
    edited: Int[np.ndarray, "e"]


@pytrees.dataclass
class PackedRows:
    """A batch of P columns with R rows in total, which attend to N stored positions.

    Attributes:
        edited_positions: [Q], the edited positions of all columns, column by column.
        edited_rows: [Q], index of the row of each edited position; R for padding.
        scored_rows: [P], index of the row of the scored position in each column.
        positions: [R], position of each row.
        is_edited: [R], whether the position of a row is edited.
        mask: [R, N + R], whether a row attends to each stored position, then to each row.
        key_positions: [N + R], the stored positions, followed by the positions of the rows.
    """

    edited_positions: Ints
    edited_rows: Ints
    scored_rows: Ints
    positions: Ints
    is_edited: Bools
    mask: Bools
    key_positions: Ints

    @property
    def n_stored(self) -> int:
        """N, the number of stored positions."""
        return self.key_positions.shape[0] - self.positions.shape[0]

    @classmethod
    def of(
        cls, columns: Sequence["Column"], n_stored: int, n_columns: int, n_rows: int, n_edited: int
    ) -> "PackedRows":
        """Packs columns, and pads to a fixed number of columns, rows and edited positions.

        Args:
            columns: the positions of each column, in ascending order.
            n_stored: N, the number of stored positions.
            n_columns: P after padding.
            n_rows: R after padding.
            n_edited: Q after padding.
        """
        edited = np.concatenate([column.edited for column in columns])
        is_edited = np.concatenate([np.isin(column.rows, column.edited) for column in columns])
        edited_rows, edited_padding = np.flatnonzero(is_edited), (0, n_edited - len(edited))
        rows_of_columns = [column.rows for column in columns]
        sizes = np.array([len(rows) for rows in rows_of_columns])
        row_padding, column_padding = (0, n_rows - sizes.sum()), (0, n_columns - len(columns))
        last_rows = sizes.cumsum() - 1
        positions = np.pad(np.concatenate(rows_of_columns), row_padding).astype(np.int32)
        column_of_row = np.repeat(np.arange(len(columns)), sizes)
        # -1 marks padding rows.
        column_of_row = np.pad(column_of_row, row_padding, constant_values=-1)
        is_real = (column_of_row >= 0)[:, None]
        stored = np.arange(n_stored, dtype=np.int32)
        # Whether the column of each row computes each stored position.
        is_computed = np.array([np.isin(stored, rows) for rows in rows_of_columns])[column_of_row]
        attends_stored = (stored <= positions[:, None]) & ~is_computed & is_real
        is_same_column = column_of_row[:, None] == column_of_row
        attends_rows = is_same_column & (positions <= positions[:, None]) & is_real
        # Padding rows attend to themselves, because a softmax over no key would be NaN.
        attends_rows |= np.eye(n_rows, dtype=bool)
        return cls(
            edited_positions=np.pad(edited, edited_padding).astype(np.int32),
            edited_rows=np.pad(edited_rows, edited_padding, constant_values=n_rows).astype(
                np.int32
            ),
            scored_rows=np.pad(last_rows, column_padding).astype(np.int32),
            positions=positions,
            is_edited=np.pad(is_edited, row_padding),
            mask=np.concatenate([attends_stored, attends_rows], 1),
            key_positions=np.concatenate([stored, positions]),
        )


def pack_columns(sizes: Sequence[int], max_rows: int) -> list[list[int]]:
    """Divides columns into few batches of at most `max_rows` rows and of similar sizes.

    All batches are padded to the size of the largest, so unequal sizes would cost rows of padding.
    If a column has more than `max_rows` rows, batches have at most as many rows as the longest.

    Args:
        sizes: number of rows of each column.
        max_rows: most rows per batch.

    Returns:
        Indices of the columns of each batch.
    """
    most = max([max_rows, *sizes])
    for n_batches in range(-(-sum(sizes) // most), len(sizes)):
        batches: list[list[int]] = [[] for _ in range(n_batches)]
        loads = [0] * n_batches
        # The longest columns first, each into the emptiest batch.
        for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
            emptiest = loads.index(min(loads))
            batches[emptiest].append(index)
            loads[emptiest] += sizes[index]
        if max(loads) <= most:
            return [sorted(batch) for batch in batches]
    return [[index] for index in range(len(sizes))]
