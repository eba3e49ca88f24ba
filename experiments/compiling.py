"""Counts and times the compilations of JAX, from the events that JAX reports."""

import dataclasses
import functools


@dataclasses.dataclass
class Compiling:
    """Number and time of compilations so far.

    Attributes:
        seconds: time of tracing, lowering and compiling, added over threads. It includes the time
            to read a compiled program from disk.
        programs: number of programs that were compiled or read from disk.
        looked_up: number of programs that were looked up on disk.
        read: number of programs that were read from disk.
    """

    seconds: float = 0.0
    programs: int = 0
    looked_up: int = 0
    read: int = 0

    def __str__(self) -> str:
        return f"{self.programs} programs: {self.programs - self.read} compiled, {self.read} read"

    def copy(self) -> "Compiling":
        """Returns the counts of now, which later compilations do not change.

        Example:
            >>> Compiling(programs=2).copy().programs
            2
        """
        return dataclasses.replace(self)

    def to_dict(self) -> dict[str, float]:
        """Returns the counts as plain values.

        Example:
            >>> Compiling(programs=3, looked_up=3, read=2).to_dict()["compiled"]
            1
        """
        return {
            "programs": self.programs,
            "compiled": self.programs - self.read,
            "read_from_disk": self.read,
            "compile_s": self.seconds,
        }


@functools.cache
def count_compilations() -> Compiling:
    """Starts counting, and returns the counts. Every later compilation updates them.

    A second call returns the same counts.

    Example:
        ```python
        compiling = count_compilations()
        asr.transcribe(audio)
        print(compiling.programs)
        ```
    """
    import jax

    total = Compiling()

    def add_duration(event: str, duration_secs: float, **_: str | int) -> None:
        # JAX reports an event for each step of a compilation. The step of the backend is the last.
        if event.startswith("/jax/core/compile/"):
            total.seconds += duration_secs
            total.programs += event.endswith("backend_compile_duration")

    def add_look_up(event: str, **_: str | int) -> None:
        total.looked_up += event == "/jax/compilation_cache/compile_requests_use_cache"
        total.read += event == "/jax/compilation_cache/cache_hits"

    jax.monitoring.register_event_duration_secs_listener(add_duration)
    jax.monitoring.register_event_listener(add_look_up)
    return total
