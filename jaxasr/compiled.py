"""Compiles a function once for each *structure* of its arguments.

The structure of an argument is the argument without its arrays. New arrays of the same shapes run
the same program. This is the only place where the library caches programs. A call finds its program
by a key from `program_keys`, because JAX can treat two different structures as equal (decision 15).
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from jaxasr import pytrees
from jaxasr.program_keys import Key

# Types of leaves that are inputs of a program. All other leaves are constants of the program. A
# `ShapeDtypeStruct` takes the place of an array in programs that are compiled ahead of time.
_ARRAY_TYPES = (jax.Array, np.ndarray, np.generic, float, int, complex, jax.ShapeDtypeStruct)


def is_array(leaf: Any) -> bool:
    """Returns whether a leaf of an argument is an input of a program, and no constant of it.

    Example:
        >>> is_array(3.0), is_array("encoder.attn.z")
        (True, False)
    """
    return isinstance(leaf, _ARRAY_TYPES)


class Structure:
    """A pytree without its arrays: its treedef, and its other leaves, such as functions.

    Two structures are equal only if a program compiled for one is correct for the other.
    """

    def __init__(self, treedef: Any, leaves: tuple[Any, ...], key: Hashable):
        self.treedef, self.leaves, self._key = treedef, leaves, key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def join(self, arrays: list[Any]) -> Any:
        """Returns the pytree with `arrays`, which are in the order that `split` returned."""
        remaining = iter(arrays)
        return jax.tree.unflatten(
            self.treedef, [next(remaining) if leaf is _ArrayPlace else leaf for leaf in self.leaves]
        )


class _ArrayPlace:
    """Marks the place of an array among the leaves."""


def split(tree: Any) -> tuple[list[Any], Structure]:
    """Splits a pytree into its arrays and everything else."""
    leaves, treedef = jax.tree.flatten(tree)
    others = tuple([_ArrayPlace if is_array(leaf) else leaf for leaf in leaves])
    arrays = [leaf for leaf, other in zip(leaves, others, strict=True) if other is _ArrayPlace]
    if isinstance(tree, nnx.Module):
        # Building a `Key` of a whole module takes longer than running a small program. The hash of
        # the treedef distinguishes types of nodes that `==` on treedefs does not distinguish.
        return arrays, Structure(treedef, others, (hash(treedef), treedef, others))
    return arrays, Structure(treedef, others, Key((treedef, others)))


@pytrees.dataclass
class Frozen:
    """A pytree that is split once for many calls.

    Splitting a module takes longer than running a small program, so `Frozen` saves time.

    Attributes:
        arrays: the arrays of the pytree.
        structure: the pytree without its arrays.
    """

    arrays: list[Any]
    structure: Structure = pytrees.field(pytree_node=False)

    @classmethod
    def from_pytree(cls, tree: Any) -> "Frozen":
        """Splits a pytree."""
        return cls(*split(tree))

    @property
    def whole(self) -> Any:
        """The pytree that was split."""
        return self.structure.join(self.arrays)


@functools.cache
def _jitted(fn: Callable) -> Callable:
    """Returns `fn`, compiled, as a function of split arguments."""

    def call(
        arrays: tuple[list[Any], ...], structures: tuple[Structure, ...], options: "_StaticOptions"
    ) -> Any:
        arguments = [
            structure.join(part) for structure, part in zip(structures, arrays, strict=True)
        ]
        return fn(*arguments, **options.values)

    # JAX compares static arguments by `==`, which `Structure` and `Key` define exactly.
    return jax.jit(call, static_argnums=(1, 2))


class _StaticOptions(Key):
    """Keyword arguments that are constants of a compiled program."""

    __slots__ = ("values",)

    def __init__(self, values: dict[str, Any]):
        super().__init__(sorted(values.items()))
        self.values = values


def call(fn: Callable, *arguments: Any, **options: Hashable) -> Any:
    """Calls `fn(*arguments, **options)`, compiled.

    Args:
        fn: a module-level function.
        arguments: pytrees. Their arrays are traced; everything else in them (types of edits,
            sites, functions) is static.
        options: keyword arguments of `fn`, all static.

    Returns:
        The result of `fn`. New arrays of the same shapes run the same program.

    Example:
        >>> def scale(x, edit, *, times):
        ...     return times * edit(x)
        >>> float(call(scale, 3.0, lambda x: x + 1, times=2))
        8.0
    """
    return _run(Call.of(None, fn, arguments, None, None, options))


@functools.cache
def _jitted_on_mesh(fn: Callable, mesh: Mesh, in_specs: Any, out_specs: Any) -> Callable:
    """Returns `fn`, compiled for every device of `mesh`, as a function of split arguments."""

    def call(
        arrays: tuple[list[Any], ...], structures: tuple[Structure, ...], options: "_StaticOptions"
    ) -> Any:
        def call_on_device(*arrays: list[Any]) -> Any:
            arguments = [
                structure.join(part) for structure, part in zip(structures, arrays, strict=True)
            ]
            return fn(*arguments, **options.values)

        return jax.shard_map(
            call_on_device,
            mesh=mesh,
            in_specs=tuple(map(list, in_specs)),
            out_specs=out_specs.tree,
            check_vma=False,
        )(*arrays)

    return jax.jit(call, static_argnums=(1, 2))


class _Specs(Key):
    """PartitionSpecs of the result of a compiled program."""

    __slots__ = ("tree",)

    def __init__(self, tree: Any):
        super().__init__(jax.tree.flatten(tree))
        self.tree = tree


def call_on_mesh(
    mesh: Mesh | None,
    fn: Callable,
    *arguments: Any,
    specs: Sequence[Any],
    out_specs: Any,
    **options: Hashable,
) -> Any:
    """Calls `fn` on every device of a mesh, each with its part of the arguments.

    All devices run the program that one device would run, so their results do not depend on the
    number of devices.

    Args:
        mesh: the mesh; None calls `fn` on one device.
        fn: a module-level function of the part of one device.
        arguments: as in `call`.
        specs: a tree of `PartitionSpec` per argument, or one spec for all its arrays.
        out_specs: a tree of `PartitionSpec` for the result.
        options: as in `call`.

    Returns:
        The result of `fn`, joined over the devices.
    """
    return _run(Call.of(mesh, fn, arguments, specs, out_specs, options))


class Call(NamedTuple):
    """One call of a compiled program.

    Attributes:
        program: the compiled function of split arguments. `program.trace` compiles ahead of time.
        fn: the function that the program computes.
        mesh: the mesh that divides the arguments; None for one device.
        arrays: the arrays of every argument.
        specs: the `PartitionSpec` of every array; None without a mesh.
        structures: the arguments without their arrays.
        options: the options of `fn`.
    """

    program: Any
    fn: Callable
    mesh: Mesh | None
    arrays: tuple[list[Any], ...]
    specs: tuple[tuple[P, ...], ...] | None
    structures: tuple[Structure, ...]
    options: _StaticOptions

    @classmethod
    def of(
        cls,
        mesh: Mesh | None,
        fn: Callable,
        arguments: Sequence[Any],
        specs: Sequence[Any] | None,
        out_specs: Any,
        options: dict[str, Hashable],
    ) -> "Call":
        """Splits the arguments of `call` or `call_on_mesh`."""
        arrays, structures = zip(*map(split, arguments), strict=True)
        if mesh is None or specs is None:
            program, in_specs = _jitted(fn), None
        else:
            in_specs = tuple(map(_specs_of_arrays, arguments, specs))
            program = _jitted_on_mesh(fn, mesh, in_specs, _Specs(out_specs))
        options_key = _StaticOptions(options)
        return cls(program, fn, mesh, arrays, in_specs, structures, options_key)

    def run(self, arrays: tuple[list[Any], ...]) -> Any:
        """Runs the program on arrays that are in place."""
        return self.program(arrays, self.structures, self.options)


# Receives every call instead of running it; see `jaxasr.ahead_of_time`.
_RECORDER: contextvars.ContextVar[Callable[[Call], Any] | None] = contextvars.ContextVar(
    "recorder", default=None
)


@contextlib.contextmanager
def recorder(record: Callable[[Call], Any] | None) -> Iterator[None]:
    """Within this context, `record` receives every call and returns its result."""
    token = _RECORDER.set(record)
    try:
        yield
    finally:
        _RECORDER.reset(token)


def _run(call: Call) -> Any:
    record = _RECORDER.get()
    if record is not None:
        return record(call)
    if call.mesh is None or call.specs is None:
        return call.run(call.arrays)
    mesh = call.mesh
    shardings = tuple([NamedSharding(mesh, spec) for spec in part] for part in call.specs)
    # Does nothing for arrays that are in place already.
    return call.run(jax.device_put(call.arrays, shardings))


def _specs_of_arrays(argument: Any, spec: Any) -> tuple[P, ...]:
    """Returns one spec per array of `argument`, in the order of `split`."""
    leaves, treedef = jax.tree.flatten(argument)
    specs = [spec] * len(leaves) if isinstance(spec, P) else treedef.flatten_up_to(spec)
    return tuple(s for leaf, s in zip(leaves, specs, strict=True) if is_array(leaf))


def n_compiled(fn: Callable) -> int:
    """Returns how many programs `fn` has been compiled to.

    Tests assert that this number does not grow while only values change.
    """
    return _jitted(fn)._cache_size()
