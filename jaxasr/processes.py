"""Divides recordings between processes that run the same program, such as those of a cluster.

Every process computes its share on its own devices and writes its own part of the result. No
process waits for another inside a computation, so a killed process can be started again.
"""

import dataclasses

import jax


def share(n: int, index: int, count: int) -> range:
    """Returns the items that one of several processes computes.

    The shares of all processes are contiguous, in order, and differ in size by at most one item.

    Args:
        n: number of items.
        index: number of the process, from 0 on.
        count: number of processes.

    Returns:
        The indices of the items.

    Raises:
        ValueError: `n` is negative, or `index` is not below `count`.

    Example:
        >>> [list(share(5, index, 2)) for index in range(2)]
        [[0, 1], [2, 3, 4]]
    """
    if n < 0:
        raise ValueError(f"n: expected 0 or more items, got {n}.")
    if not 0 <= index < count:
        raise ValueError(f"index: expected a number from 0 to below {count}, got {index}.")
    return range(n * index // count, n * (index + 1) // count)


@dataclasses.dataclass(frozen=True)
class Process:
    """One of several processes that divide the recordings of a computation.

    Attributes:
        index: number of the process, from 0 on.
        count: number of processes.

    Raises:
        ValueError: `index` is not below `count`.

    Example:
        >>> Process(1, 4).name
        'process-1-of-4'
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        share(0, self.index, self.count)

    @property
    def name(self) -> str:
        """Name of the process, for files and messages."""
        return f"process-{self.index}-of-{self.count}"

    @property
    def is_first(self) -> bool:
        """Whether the process writes the files that all processes share."""
        return self.index == 0

    def share(self, n: int) -> range:
        """Returns the indices of those of `n` items that this process computes."""
        return share(n, self.index, self.count)

    def others(self) -> "list[Process]":
        """Returns all other processes."""
        return [Process(i, self.count) for i in range(self.count) if i != self.index]


def this_process() -> Process:
    """Returns the number of this process and the number of processes, as JAX knows them.

    Call `jax.distributed.initialize()` before, if there are several.

    Example:
        >>> this_process()
        Process(index=0, count=1)
    """
    return Process(jax.process_index(), jax.process_count())
