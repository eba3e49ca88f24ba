"""Holds what a plan says about each program, and the sums over all programs."""

import contextlib
import dataclasses
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from interventions.planning.devices import Chip, PlannedDevice
from interventions.planning.operations import count_operations
from jaxasr import ahead_of_time

# Operations of HLO by which devices exchange data.
_COLLECTIVE = re.compile(
    r"\b(all-reduce|all-gather|collective-permute|all-to-all|reduce-scatter)(?:-start)?\("
)


@dataclasses.dataclass(frozen=True)
class ProgramCost:
    """What one device needs for one program.

    Attributes:
        name: name of the Python function that the program computes.
        n_calls: number of calls.
        flops: floating-point operations per call.
        n_reads: how often a call reads its arguments.
        argument_bytes: bytes of the arguments, weights included.
        output_bytes: bytes of the results.
        temporary_bytes: bytes that the program needs while it runs; None if it is not compiled.
        code_bytes: bytes of the program itself; None if it is not compiled.
        collectives: number of exchanges between devices, by kind; None if it is not compiled.
        compile_s: seconds that this machine took to compile it.
        error: why the compiler refused it, for example for lack of memory.
    """

    name: str
    n_calls: int
    flops: float
    n_reads: float
    argument_bytes: int
    output_bytes: int
    temporary_bytes: int | None = None
    code_bytes: int | None = None
    collectives: dict[str, int] | None = None
    compile_s: float | None = None
    error: str | None = None

    @property
    def total_bytes(self) -> int:
        """Bytes of arguments, results, temporary memory and code."""
        known = self.argument_bytes + self.output_bytes
        return known + (self.temporary_bytes or 0) + (self.code_bytes or 0)


@dataclasses.dataclass(frozen=True)
class Report:
    """The plan of some work on some devices.

    Attributes:
        title: the work.
        device: name of the devices.
        n_devices: number of devices.
        memory_bytes: memory of a device; None if unknown.
        programs: what each program needs.
        seconds: lower bound of the time, at the peak rates of the device; None if unknown.
        notes: the plan of a sweep, and the assumptions.
    """

    title: str
    device: str
    n_devices: int
    memory_bytes: int | None
    programs: tuple[ProgramCost, ...]
    seconds: float | None
    notes: tuple[str, ...] = ()

    @property
    def flops(self) -> float:
        """Floating-point operations of one device."""
        return sum(program.n_calls * program.flops for program in self.programs)

    @property
    def peak_bytes(self) -> int:
        """Bytes of the largest program on one device."""
        return max(program.total_bytes for program in self.programs)

    @property
    def collectives(self) -> int | None:
        """Number of exchanges between devices in all programs; None if not compiled."""
        counts = [p.collectives for p in self.programs]
        if any(count is None for count in counts):
            return None
        return sum(sum(count.values()) for count in counts if count is not None)

    @property
    def fits(self) -> bool | None:
        """Whether every program fits the memory; None if unknown."""
        if any(program.error for program in self.programs):
            return False
        if self.memory_bytes is None or any(p.temporary_bytes is None for p in self.programs):
            return None
        return self.peak_bytes <= self.memory_bytes

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain values."""
        sums = {
            "flops_per_device": self.flops,
            "peak_bytes_per_device": self.peak_bytes,
            "collectives": self.collectives,
            "fits": self.fits,
        }
        return dataclasses.asdict(self) | sums


def cost_of(
    program: ahead_of_time.Program, device: PlannedDevice, loop_steps: float, rereads: bool
) -> ProgramCost:
    """Counts the operations of a program, and compiles it if the device has a compiler.

    Args:
        program: the program.
        device: the planned device.
        loop_steps: steps of each loop whose number of steps is known only when it runs.
        rereads: whether each of these steps reads all arguments again, as a decoding step does.
    """
    traced = ahead_of_time.trace(program, device.place)
    flops = count_operations(traced.jaxpr, loop_steps)
    has_loop = flops > count_operations(traced.jaxpr, 0)
    # Without a shared model, the program is that of one device.
    n_sharing = device.n_devices // device.n_models
    counted = ProgramCost(
        name=program.name,
        n_calls=program.n_calls,
        flops=flops / n_sharing,
        n_reads=loop_steps if rereads and has_loop else 1,
        argument_bytes=_bytes_of(program.call.arrays),
        output_bytes=_bytes_of(traced.out_info),
    )
    return _compiled_cost(counted, traced) if device.devices else counted


def _compiled_cost(counted: ProgramCost, traced: Any) -> ProgramCost:
    start = time.perf_counter()
    try:
        with _persistent_cache_off():
            compiled = traced.lower(lowering_platforms=("tpu",)).compile()
    except jax.errors.JaxRuntimeError as error:
        # XLA reports that the memory is too small by this status code.
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).partition("\n")[0]
        return dataclasses.replace(counted, collectives={}, error=reason)
    memory, found = compiled.memory_analysis(), _COLLECTIVE.findall(compiled.as_text())
    return dataclasses.replace(
        counted,
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        collectives={kind: found.count(kind) for kind in sorted(set(found))},
        compile_s=round(time.perf_counter() - start, 1),
    )


@contextlib.contextmanager
def _persistent_cache_off() -> Iterator[None]:
    """Turns the cache on disk off, because JAX cannot read programs for devices that are absent."""
    was_on = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # JAX otherwise keeps its first choice
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", was_on)
        compilation_cache.reset_cache()


def least_seconds(programs: Iterable[ProgramCost], chip: Chip, dtype: str) -> float | None:
    """Returns the least time of all calls: of the operations at the peak, or of the bytes."""
    peak = chip.peak_flops_float32 if dtype == "float32" else chip.peak_flops
    if peak is None or chip.bytes_per_s is None:
        return None
    seconds = 0.0
    for program in programs:
        n_bytes = program.n_reads * program.argument_bytes + program.output_bytes
        seconds += program.n_calls * max(n_bytes / chip.bytes_per_s, program.flops / peak)
    return seconds


def _bytes_of(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
