"""Which positions of the target the cells of a decoder sweep compute, and what these see of each other. Numbers of the host.

Cells that start at one position are a column; all columns of a part lie side by side as rows of one product, without padding between
them. A row sees the rows of its own column up to itself and, of everything else before it, what the unedited target left behind.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Array, Bool, Int

from jaxasr import pytrees

Ints = Int[np.ndarray, "..."] | Int[Array, "..."]
Bools = Bool[np.ndarray, "..."] | Bool[Array, "..."]


@pytrees.dataclass
class Rows:
    """P columns of together R rows over N stored slots.

    start: [P], where each column starts. begins, ends: [P], its rows of that position and of the scored one; `begins` is R for a
    column that only fills up. position: [R]. starting: [R], whether a row is where its column starts. mask: [R, N + R], which stored
    slots and which rows a row sees. keys: [N + R], their positions.
    """

    start: Ints
    begins: Ints
    ends: Ints
    position: Ints
    starting: Bools
    mask: Bools
    keys: Ints

    @property
    def n_slots(self) -> int:
        return self.keys.shape[0] - self.position.shape[0]

    @classmethod
    def of(cls, columns: Sequence[np.ndarray], n_slots: int, n_columns: int, n_rows: int) -> "Rows":
        """Rows for `columns`, each the positions that are computed, the scored one last; filled up to fixed numbers."""
        sizes = np.array([len(column) for column in columns])
        ends = sizes.cumsum() - 1
        fill = n_rows - sizes.sum()
        position = np.pad(np.concatenate(columns), (0, fill)).astype(np.int32)
        column = np.pad(np.repeat(np.arange(len(columns)), sizes), (0, fill), constant_values=-1)
        begins = np.pad(
            ends - sizes + 1, (0, n_columns - len(columns)), constant_values=n_rows
        ).astype(np.int32)
        slots, real = np.arange(n_slots, dtype=np.int32), (column >= 0)[:, None]
        own = np.array([np.isin(slots, one) for one in columns])[column]
        past = (slots <= position[:, None]) & ~own & real
        beside = (column[:, None] == column) & (position <= position[:, None]) & real
        return cls(
            start=np.pad([one[0] for one in columns], (0, n_columns - len(columns))).astype(
                np.int32
            ),
            begins=begins,
            ends=np.pad(ends, (0, n_columns - len(columns))).astype(np.int32),
            position=position,
            starting=np.isin(np.arange(n_rows), begins),
            mask=np.concatenate([past, beside | np.eye(n_rows, dtype=bool)], 1),
            keys=np.concatenate([slots, position]),
        )


def packed(columns: Sequence[np.ndarray], most: int) -> Iterator[list[int]]:
    """The indices of `columns` in consecutive parts of at most `most` rows, at least one column each."""
    part: list[int] = []
    for index, column in enumerate(columns):
        if part and sum(len(columns[i]) for i in part) + len(column) > most:
            yield part
            part = []
        part.append(index)
    if part:
        yield part
