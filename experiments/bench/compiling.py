"""Counts and times the compilations of JAX, from the events that JAX reports."""

import dataclasses


@dataclasses.dataclass
class Compiling:
    """Number and time of compilations so far.

    Attributes:
        seconds: time of tracing, lowering and compiling. It includes the time to read a compiled
            program from disk.
        programs: number of programs that were compiled or read from disk.
    """

    seconds: float = 0.0
    programs: int = 0


def count_compilations() -> Compiling:
    """Starts counting, and returns the counts. Every later compilation updates them.

    Example:
        ```python
        compiling = count_compilations()
        asr.transcribe(audio)
        print(compiling.programs)
        ```
    """
    import jax

    total = Compiling()

    def update(event: str, duration_secs: float, **_: str | int) -> None:
        # JAX reports an event for each step of a compilation. The step of the backend is the last.
        if event.startswith("/jax/core/compile/"):
            total.seconds += duration_secs
            total.programs += event.endswith("backend_compile_duration")

    jax.monitoring.register_event_duration_secs_listener(update)
    return total
