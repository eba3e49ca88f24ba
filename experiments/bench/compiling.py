"""Counts JAX's compilations and their time, from JAX's own events."""

import dataclasses


@dataclasses.dataclass
class Compiling:
    """Compilation so far.

    Attributes:
        seconds: time of tracing, lowering, and compiling or reading a compiled program from disk.
        programs: the number of programs.
    """

    seconds: float = 0.0
    programs: int = 0


def count_compilations() -> Compiling:
    """Returns a count that is updated from now on, for as long as the process lives."""
    import jax

    total = Compiling()

    def update(event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            total.seconds += duration_secs
            total.programs += event.endswith("backend_compile_duration")

    jax.monitoring.register_event_duration_secs_listener(update)
    return total
