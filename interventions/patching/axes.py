"""Finds the axis of recordings of every array, for `vmap` and for the division over devices."""

from collections.abc import Iterable
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from jaxasr import sites
from jaxasr.cache import Memory
from jaxasr.meshes import DATA


def axes_of_memory(memory: Memory, unstacked: bool | None = None) -> Memory:
    """Returns the axis of recordings of every array of a memory.

    Args:
        memory: stacked or unstacked.
        unstacked: for which layout; None for that of `memory`.
    """
    n_layers = len(memory.k)
    if isinstance(memory.k, tuple) if unstacked is None else unstacked:
        layers: Any = (0,) * n_layers
        return Memory(0, layers, layers)  # pyright: ignore[reportArgumentType]
    return Memory(0, 1, 1)  # pyright: ignore[reportArgumentType]


def axes_of_acts(names: Iterable[str]) -> dict[str, int]:
    """Returns the axis of recordings of the activations at the sites `names`."""
    return {name: int(name in sites.LAYERED) for name in names}


def specs_of(axes: Any) -> Any:
    """Returns the `PartitionSpec` that divides every array along its axis of recordings."""
    return jax.tree.map(lambda axis: P(*[None] * axis, DATA), axes)
