"""Compiles programs before they are called, for this machine or for devices that it does not have.

`record` finds the programs that a function calls, from the shapes of its arguments alone. `lower`
prepares one of them for the compiler. `compile_in_threads` compiles several side by side.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding

from jaxasr import compiled
from jaxasr.compiled import is_array
from jaxasr.divided_weights import shardings_of_call

# Stack of a thread that compiles. The compiler recurses deeply, and some systems give threads
# little stack.
_STACK_BYTES = 64 << 20


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
    with contextlib.suppress(jax.errors.JAXTypeError):
        jax.eval_shape(run, list(map(_shape_of, arrays)))
    return [Program(same[0].fn.__name__, same[0], len(same)) for same in calls.values()]


def trace(program: Program, device: Any = None) -> Any:
    """Traces a program for other devices than those of this machine.

    Args:
        program: a program from `record`.
        device: the device of a program without a mesh, such as one of
            `jax.experimental.topologies`. A program with a mesh runs on the devices of the mesh.
            A mesh from `jaxasr.divided_weights` divides the weights. None: the device that a call
            in this process would use.

    Returns:
        The traced program, with its `jaxpr`.

    Example:
        >>> mel = jax.ShapeDtypeStruct((1, asr.config.n_mels, 3000), jnp.float32)
        >>> (program,) = record(asr.model.encode, mel)
        >>> "conv_general_dilated" in str(trace(program).jaxpr)
        True
    """
    call = program.call
    arrays = call.arrays
    if call.mesh is not None and call.specs is not None:
        place = [[NamedSharding(call.mesh, spec) for spec in part] for part in call.specs]
        arrays = _placed(arrays, place)
    elif isinstance(device, Mesh):
        arrays = _placed(arrays, _divided(call, device))
    elif device is not None:
        arrays = _placed(arrays, [[SingleDeviceSharding(device)] * len(part) for part in arrays])
    return call.program.trace(arrays, call.structures, call.options)


def _divided(call: compiled.Call, mesh: Mesh) -> list[list[NamedSharding]]:
    arguments = [
        structure.join(part) for structure, part in zip(call.structures, call.arrays, strict=True)
    ]
    # The names of weights show where they belong. A frozen argument has a list without names.
    whole = [x.whole if isinstance(x, compiled.Frozen) else x for x in arguments]
    return [
        [place for leaf, place in zip(*map(jax.tree.leaves, pair), strict=True) if is_array(leaf)]
        for pair in zip(whole, shardings_of_call(whole, mesh), strict=True)
    ]


def _placed(arrays: Sequence[list[Any]], place: Sequence[list[Any]]) -> tuple[list[Any], ...]:
    return tuple(
        [x.update(sharding=sharding) for x, sharding in zip(part, shardings, strict=True)]
        for part, shardings in zip(arrays, place, strict=True)
    )


def lower(program: Program, device: Any = None) -> jax.stages.Lowered:
    """Lowers a program for the compiler.

    Args:
        program: a program from `record`.
        device: as in `trace`.

    Returns:
        The lowered program. `lower(...).compile()` has its memory and its HLO. If `device` is None,
        a later call runs what `.compile()` made, and compiles nothing.

    Example:
        >>> mel = jax.ShapeDtypeStruct((1, asr.config.n_mels, 3000), jnp.float32)
        >>> (program,) = record(asr.model.encode, mel)
        >>> "stablehlo" in lower(program, jax.devices()[0]).as_text()
        True
    """
    traced = trace(program, device)
    if device is None:
        return traced.lower()
    return traced.lower(lowering_platforms=(device.platform,))


def compile_in_threads(programs: Sequence[Program]) -> list[Future[None]]:
    """Compiles programs side by side, for later calls in this process.

    Args:
        programs: programs from `record`.

    Returns:
        A future per program, which is done when the program is compiled. An error of the compiler
        is not raised here. The call of the program raises it.

    Example:
        >>> mel = jax.ShapeDtypeStruct((1, asr.config.n_mels, 3000), jnp.float32)
        >>> for compiled_program in compile_in_threads(record(asr.model.encode, mel)):
        ...     compiled_program.result()
    """
    # Lowered in this thread, because settings of JAX may differ between threads.
    return [_compile_in_thread(lower(program)) for program in programs]


def _compile_in_thread(lowered: jax.stages.Lowered) -> Future[None]:
    future: Future[None] = Future()

    def run() -> None:
        with contextlib.suppress(Exception):
            lowered.compile()
        future.set_result(None)

    size = threading.stack_size(_STACK_BYTES)
    try:
        # Not a daemon, because the end of Python would stop the compiler with a crash.
        threading.Thread(target=run).start()
    finally:
        threading.stack_size(size)
    return future
