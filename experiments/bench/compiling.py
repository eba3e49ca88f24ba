"""Counts and times JAX's compilations from the events that JAX reports."""

import dataclasses


@dataclasses.dataclass
class Compiling:
    """Number and time of compilations so far.

    Attributes:
        seconds: time of tracing, lowering and compiling. Compiling includes reading a program from
            disk.
        programs: number of compiled programs.
    """

    seconds: float = 0.0
    programs: int = 0


def count_compilations() -> Compiling:
    """Starts counting and returns the count, which is updated until the process ends."""
    import jax

    total = Compiling()

    def update(event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            total.seconds += duration_secs
            total.programs += event.endswith("backend_compile_duration")

    jax.monitoring.register_event_duration_secs_listener(update)
    return total
