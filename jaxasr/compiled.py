"""Compiles a function once for each *structure* of its arguments; their numbers never retrace.

This is the only place of the library where `jax.jit` caches something for the caller. Which program a call gets is decided
by `program_keys`, not by JAX's comparison of structures.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxasr import pytrees
from jaxasr.program_keys import Key

_ARRAYS = (jax.Array, np.ndarray, np.generic, float, int, complex)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, _ARRAYS)


class Structure:
    """All of a pytree but its arrays: the structure, and the functions among its leaves.

    Two structures are equal only if a program of one serves the other.
    """

    def __init__(self, treedef: Any, leaves: tuple[Any, ...], key: Hashable):
        self.treedef, self.leaves, self._key = treedef, leaves, key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def join(self, arrays: list[Any]) -> Any:
        """Returns the pytree with these arrays, in the order in which `split` gave them."""
        rest = iter(arrays)
        return jax.tree.unflatten(
            self.treedef, [next(rest) if leaf is _Array else leaf for leaf in self.leaves]
        )


class _Array:
    """Takes the place of an array among leaves."""


def split(tree: Any) -> tuple[list[Any], Structure]:
    """Splits a pytree into its arrays and the rest."""
    leaves, treedef = jax.tree.flatten(tree)
    others = tuple([_Array if _is_array(leaf) else leaf for leaf in leaves])
    arrays = [leaf for leaf, other in zip(leaves, others, strict=True) if other is _Array]
    # Reading all of a module takes longer than a small program. The hash differs between types of nodes even where `==` does not.
    key = (
        (hash(treedef), treedef, others) if isinstance(tree, nnx.Module) else Key((treedef, others))
    )
    return arrays, Structure(treedef, others, key)


@pytrees.dataclass
class Frozen:
    """A pytree split once for many calls: flattening a module takes longer than running a small program."""

    arrays: list[Any]
    structure: Structure = pytrees.field(pytree_node=False)

    @classmethod
    def of(cls, tree: Any) -> "Frozen":
        return cls(*split(tree))

    @property
    def whole(self) -> Any:
        return self.structure.join(self.arrays)


@functools.cache
def _jitted(fn: Callable) -> Callable:
    def call(
        arrays: tuple[list[Any], ...], structures: tuple[Structure, ...], options: "_Options"
    ) -> Any:
        arguments = [
            structure.join(part) for structure, part in zip(structures, arrays, strict=True)
        ]
        return fn(*arguments, **options.values)

    return jax.jit(call, static_argnums=(1, 2))


class _Options(Key):
    """Keyword arguments that a program is compiled for."""

    __slots__ = ("values",)

    def __init__(self, values: dict[str, Any]):
        super().__init__(sorted(values.items()))
        self.values = values


def call(fn: Callable, *arguments: Any, **options: Hashable) -> Any:
    """Calls `fn(*arguments, **options)`, compiled.

    Args:
        fn: a module-level function.
        arguments: pytrees. Their arrays are traced; the rest (edits' types, sites, functions) is
            static.
        options: static values.

    Returns:
        The result of `fn`. New arrays of the same shapes run the same program.
    """
    arrays, structures = zip(*map(split, arguments), strict=True)
    return _jitted(fn)(arrays, structures, _Options(options))


def n_compiled(fn: Callable) -> int:
    """Returns how many programs `fn` has been compiled to: the number that must not grow while values change."""
    return _jitted(fn)._cache_size()
