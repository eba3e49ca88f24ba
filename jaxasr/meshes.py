"""Places models and recordings on a mesh of devices.

A mesh has the axes "data" and "cells", or one of them. Recordings are divided along "data", and the
cells of a sweep along "cells". Every device runs the program that one device would run, through
`jax.shard_map`, so no device waits for another.
"""

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

from jaxasr.cache import EncodedAudio, Memory, Prefix
from jaxasr.taps import is_traced

DATA, CELLS = "data", "cells"
# Number of devices for which the work on a mesh is divided at least.
SHARES = 8

# Placement of parameters: the first pattern that occurs in the name decides. Every device holds all
# weights. `jaxasr.divided_weights` divides a model that one device cannot hold.
PARAMETER_RULES: tuple[tuple[str, P], ...] = (("", P()),)


def make_mesh(n_devices: int | None = None, *, cells: int = 1) -> Mesh:
    """Makes a mesh of the devices of this process, for `mesh=` of sweeps.

    Args:
        n_devices: number of devices. Default: all devices of this process.
        cells: devices that share the cells of the same recordings. The others divide the
            recordings.

    Returns:
        A mesh with the axes "data" and "cells".

    Raises:
        ValueError: there are fewer devices, or `cells` does not divide their number.

    Example:
        >>> from jaxasr.meshes import make_mesh
        >>> dict(make_mesh(1).shape)
        {'data': 1, 'cells': 1}
    """
    devices = jax.local_devices()
    n_devices = len(devices) if n_devices is None else n_devices
    if not 1 <= n_devices <= len(devices):
        raise ValueError(
            f"n_devices: expected 1 to {len(devices)}, the devices of this process, "
            f"got {n_devices}."
        )
    if cells < 1 or n_devices % cells:
        raise ValueError(f"cells: expected a divisor of {n_devices} devices, got {cells}.")
    shape = (n_devices // cells, cells)
    automatic = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(shape, (DATA, CELLS), automatic, devices=devices[:n_devices])


def resolve_mesh(mesh: Mesh | None) -> Mesh | None:
    """Returns `mesh`, or the mesh of `jax.set_mesh` if it is None; None if there is neither.

    Raises:
        ValueError: the mesh has another axis than "data" and "cells".
    """
    if mesh is None:
        try:
            mesh = jax.sharding.get_mesh()
        except ValueError:  # JAX is tracing, and has no mesh of devices then
            return None
        if mesh.empty:
            return None
    if unknown := sorted(set(mesh.axis_names) - {DATA, CELLS}):
        raise ValueError(
            f"mesh: expected the axes 'data' and 'cells', got {', '.join(map(repr, unknown))}. "
            "Make one by jaxasr.meshes.make_mesh()."
        )
    # An axis that the mesh lacks has one device.
    names = (*mesh.axis_names, *sorted({DATA, CELLS} - set(mesh.axis_names)))
    devices = np.reshape(mesh.devices, [axis_size(mesh, name) for name in names])
    # `shard_map` handles all axes itself, so JAX must not track explicit ones.
    return Mesh(devices, names, axis_types=(AxisType.Auto,) * len(names))


def axis_size(mesh: Mesh | None, axis: str) -> int:
    """Returns the number of devices along an axis; 1 without this axis."""
    return 1 if mesh is None else mesh.shape.get(axis, 1)


def equal_chunk_size(n: int, max_size: int) -> int:
    """Returns the size of equal chunks that hold `n` items, at most `max_size`.

    There are as few chunks as possible, and as little padding.
    """
    # -(-a // b) is a / b, rounded up.
    n_chunks = -(-n // max(1, max_size))
    return -(-n // n_chunks)


def size_per_device(n: int, n_devices: int, max_size: int) -> int:
    """Returns how many of `n` items each device computes in one call, at most `max_size`.

    On a mesh, the items are divided as for eight devices, so that fewer devices compute the same
    chunks and give the same bits.

    Args:
        n: number of items, such as recordings.
        n_devices: number of devices that divide them; 0 without a mesh.
        max_size: most items that fit the memory of a device.
    """
    shares = max(SHARES, n_devices) if n_devices else 1
    return equal_chunk_size(n, min(max_size, -(-n // shares)))


def axes_of_memory(memory: EncodedAudio, unstacked: bool | None = None) -> EncodedAudio:
    """Returns the axis of recordings of every array of a memory.

    Args:
        memory: stacked or unstacked.
        unstacked: for which layout; None for that of `memory`.
    """
    if isinstance(memory, Prefix):
        return Prefix(0, 0)  # pyright: ignore[reportArgumentType]
    n_layers = len(memory.k)
    if isinstance(memory.k, tuple) if unstacked is None else unstacked:
        layers: Any = (0,) * n_layers
        return Memory(0, layers, layers)  # pyright: ignore[reportArgumentType]
    return Memory(0, 1, 1)  # pyright: ignore[reportArgumentType]


def specs_of(axes: Any) -> Any:
    """Returns the `PartitionSpec` that divides every array along its axis of recordings."""
    return jax.tree.map(lambda axis: P(*[None] * axis, DATA), axes)


def parameter_spec(name: str) -> P:
    """Returns the placement of a parameter by `PARAMETER_RULES`."""
    return next(spec for pattern, spec in PARAMETER_RULES if re.search(pattern, name))


def place_parameters(tree: Any, mesh: Mesh | None) -> Any:
    """Copies the weights of a pytree to the devices of a mesh, by `PARAMETER_RULES`."""
    if mesh is None or is_traced(jax.tree.leaves(tree)):
        return tree

    def place(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        return jax.device_put(leaf, NamedSharding(mesh, parameter_spec(jax.tree_util.keystr(path))))

    return jax.tree_util.tree_map_with_path(place, tree)
