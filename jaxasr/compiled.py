"""Compiles a function once for each *structure* of its edits and readout; their numbers never retrace.

This is the only place of the library where `jax.jit` caches something for the caller.
"""
import functools
from collections.abc import Callable, Hashable
from typing import Any

import flax.struct
import jax
import numpy as np


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int | complex)


def split(tree: Any) -> tuple[list[Any], Hashable]:
    """Arrays of a pytree apart from the rest: its structure and the functions among its leaves, which must hash."""
    leaves, treedef = jax.tree.flatten(tree)
    arrays = [leaf for leaf in leaves if _is_array(leaf)]
    return arrays, (treedef, tuple(_ARRAY if _is_array(leaf) else leaf for leaf in leaves))


def join(arrays: list[Any], static: Any) -> Any:
    treedef, leaves = static
    rest = iter(arrays)
    return jax.tree.unflatten(treedef, [next(rest) if leaf is _ARRAY else leaf for leaf in leaves])


class _Array:
    pass


_ARRAY = _Array()


@flax.struct.dataclass
class Frozen:
    """A pytree taken apart once for many calls: a module takes longer to flatten than a small program to run."""

    leaves: list[Any]
    structure: Any = flax.struct.field(pytree_node=False)

    @classmethod
    def of(cls, tree: Any) -> "Frozen":
        return cls(*jax.tree.flatten(tree))

    @property
    def whole(self) -> Any:
        return jax.tree.unflatten(self.structure, self.leaves)


@functools.cache
def _jitted(fn: Callable) -> Callable:
    def call(dynamic: Any, arrays: list[Any], static: Any, options: tuple) -> Any:
        return fn(*dynamic, join(arrays, static), **dict(options))

    return jax.jit(call, static_argnums=(2, 3))


def call(fn: Callable, *dynamic: Any, taps: Any, **options: Hashable) -> Any:
    """`fn(*dynamic, taps, **options)`, compiled: `dynamic` are pytrees of arrays, `taps` any pytree of edits and readouts."""
    arrays, static = split(taps)
    return _jitted(fn)(dynamic, arrays, static, tuple(sorted(options.items())))


def n_compiled(fn: Callable) -> int:
    """How many executables `fn` has had: the number that must not grow while values change."""
    return _jitted(fn)._cache_size()
