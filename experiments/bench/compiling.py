"""How long JAX compiles, and how often, told by JAX itself."""

import dataclasses


@dataclasses.dataclass
class Compiling:
    """Seconds of tracing, lowering and compiling (or reading a compiled program from disk), and the programs so far."""

    seconds: float = 0.0
    programs: int = 0


def listen() -> Compiling:
    """Counts from now on, for as long as the process lives."""
    import jax

    total = Compiling()

    def hear(event: str, seconds: float, **_: object) -> None:
        if event.startswith("/jax/core/compile/"):
            total.seconds += seconds
            total.programs += event.endswith("backend_compile_duration")

    jax.monitoring.register_event_duration_secs_listener(hear)
    return total
