"""Packs the positions that cells of a decoder sweep compute, and masks attention between them.

A column is the list of positions that a cell computes. Its first position is the edited one. All
cells that edit this position share the column. A batch concatenates columns, and each position is a
row. A row attends to earlier rows of its column. For positions that the column does not compute, it
attends to stored keys and values of the unedited target. All arrays here are NumPy, on the host.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Array, Bool, Int

from jaxasr import pytrees

Ints = Int[np.ndarray, "..."] | Int[Array, "..."]
Bools = Bool[np.ndarray, "..."] | Bool[Array, "..."]


@pytrees.dataclass
class PackedRows:
    """A batch of P columns with R rows in total, and the N stored positions that they attend to.

    Attributes:
        start: [P], first position of each column.
        first_row: [P], first row of each column; R for a padding column.
        scored_row: [P], row of the scored position in each column.
        position: [R], position of each row.
        is_first: [R], whether a row is the first of its column.
        mask: [R, N + R], the stored positions and the rows that each row attends to.
        keys: [N + R], positions of the stored keys, followed by those of the rows.
    """

    start: Ints
    first_row: Ints
    scored_row: Ints
    position: Ints
    is_first: Bools
    mask: Bools
    keys: Ints

    @property
    def n_slots(self) -> int:
        """N, the number of stored positions."""
        return self.keys.shape[0] - self.position.shape[0]

    @classmethod
    def of(
        cls, columns: Sequence[np.ndarray], n_slots: int, n_columns: int, n_rows: int
    ) -> "PackedRows":
        """Packs columns, and pads to a fixed number of columns and rows.

        Args:
            columns: the positions of each column in order. The scored position is the last.
            n_slots: N, the number of stored positions.
            n_columns: P after padding.
            n_rows: R after padding.
        """
        sizes = np.array([len(column) for column in columns])
        padding_rows, padding_columns = n_rows - sizes.sum(), (0, n_columns - len(columns))
        last_row = sizes.cumsum() - 1
        first_row = np.pad(last_row - sizes + 1, padding_columns, constant_values=n_rows)
        position = np.pad(np.concatenate(columns), (0, padding_rows)).astype(np.int32)
        column_of = np.repeat(np.arange(len(columns)), sizes)
        column_of = np.pad(column_of, (0, padding_rows), constant_values=-1)
        slots, is_real = np.arange(n_slots, dtype=np.int32), (column_of >= 0)[:, None]
        recomputed = np.array([np.isin(slots, column) for column in columns])[column_of]
        attends_slots = (slots <= position[:, None]) & ~recomputed & is_real
        attends_rows = (column_of[:, None] == column_of) & (position <= position[:, None]) & is_real
        # A padding row attends to itself, because a softmax over no key would be NaN.
        attends_rows |= np.eye(n_rows, dtype=bool)
        return cls(
            start=np.pad([column[0] for column in columns], padding_columns).astype(np.int32),
            first_row=first_row.astype(np.int32),
            scored_row=np.pad(last_row, padding_columns).astype(np.int32),
            position=position,
            is_first=np.isin(np.arange(n_rows), first_row),
            mask=np.concatenate([attends_slots, attends_rows], 1),
            keys=np.concatenate([slots, position]),
        )


def pack_columns(columns: Sequence[np.ndarray], max_rows: int) -> Iterator[list[int]]:
    """Groups consecutive columns into batches of at most `max_rows` rows.

    A column with more rows makes a separate batch.

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
