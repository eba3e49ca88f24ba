"""Compiles programs for devices that this machine does not have.

`record` finds the programs that a function calls, from the shapes of its arguments alone. `trace`
prepares one of them for the compiler.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, SingleDeviceSharding

from jaxasr import compiled


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A compiled program, and how often a function calls it.

    Attributes:
        name: name of the Python function that the program computes.
        call: the first call. Its arrays are shapes.
        n_calls: number of calls.
    """

    name: str
    call: compiled.Call
    n_calls: int


def shapes_of(tree: Any) -> Any:
    """Returns a pytree with a `ShapeDtypeStruct` in place of every array.

    Example:
        >>> shapes_of({"x": jnp.zeros(3)})
        {'x': ShapeDtypeStruct(shape=(3,), dtype=float32)}
    """
    arrays, structure = compiled.split(tree)
    return structure.join(list(map(_shape_of, arrays)))


def _shape_of(array: Any) -> jax.ShapeDtypeStruct:
    aval = jax.typeof(array)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)


def record(fn: Callable[..., Any], *arguments: Any) -> list[Program]:
    """Finds the programs that `fn` calls. Runs and compiles nothing.

    JAX traces `fn`, so the arrays of its arguments have shapes, but no values. The record ends
    where `fn` reads a value.

    Args:
        fn: a function of pytrees that calls methods of a model, sweeps, or other functions that
            compile themselves.
        arguments: pytrees of arrays or of `ShapeDtypeStruct`.

    Returns:
        The programs in the order of their first calls.

    Example:
        >>> mel = jax.ShapeDtypeStruct((1, asr.config.n_mels, 3000), jnp.float32)
        >>> [program.name for program in record(asr.model.encode, mel)]
        ['_encode']
    """
    calls: dict[Any, list[compiled.Call]] = {}

    def record_call(call: compiled.Call) -> Any:
        avals = jax.tree.map(jax.typeof, call.arrays)
        key = call.program, call.structures, call.options, tuple(jax.tree.leaves(avals))
        calls.setdefault(key, []).append(
            call._replace(arrays=tuple(list(map(_shape_of, part)) for part in call.arrays))
        )
        with compiled.recorder(None):  # a program that calls others is one program
            return call.run(call.arrays)

    def run(arrays: list[Any]) -> None:
        with compiled.recorder(record_call):
            fn(*structure.join(arrays))

    arrays, structure = compiled.split(arguments)
    with contextlib.suppress(jax.errors.TracerArrayConversionError):
        jax.eval_shape(run, list(map(_shape_of, arrays)))
    return [Program(same[0].fn.__name__, same[0], len(same)) for same in calls.values()]


def trace(program: Program, device: Any = None) -> Any:
    """Traces a program for other devices than those of this machine.

    Args:
        program: a program from `record`.
        device: the device of a program without a mesh, such as one of
            `jax.experimental.topologies`; None for the default device of JAX. A program with a mesh
            runs on the devices of the mesh.

    Returns:
        The traced program, with its `jaxpr`. `trace(...).lower(lowering_platforms=("tpu",))` and
        then `.compile()` give its memory and its HLO.

    Example:
        >>> mel = jax.ShapeDtypeStruct((1, asr.config.n_mels, 3000), jnp.float32)
        >>> (program,) = record(asr.model.encode, mel)
        >>> "stablehlo" in trace(program).lower().as_text()
        True
    """
    call = program.call
    if call.mesh is None or call.specs is None:
        sharding = None if device is None else SingleDeviceSharding(device)
        place: Any = [[sharding] * len(part) for part in call.arrays]
    else:
        place = [[NamedSharding(call.mesh, spec) for spec in part] for part in call.specs]
    arrays = tuple(
        [x.update(sharding=sharding) for x, sharding in zip(part, shardings, strict=True)]
        for part, shardings in zip(call.arrays, place, strict=True)
    )
    return call.program.trace(arrays, call.structures, call.options)
