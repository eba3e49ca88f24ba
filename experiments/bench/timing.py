"""Times calls, the first of which compiles."""

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

from experiments.bench.models import Job


def time_calls(call: Callable[..., Any], *arguments: Any, n: int = 3) -> dict[str, float]:
    """Returns the seconds of the first call, and the median of `n` later calls.

    Example:
        >>> sorted(time_calls(max, 1, 2))
        ['first_s', 'seconds']
    """
    import jax

    seconds = []
    for _ in range(n + 1):
        start = time.perf_counter()
        jax.block_until_ready(call(*arguments))
        seconds.append(time.perf_counter() - start)
    return {"first_s": seconds[0], "seconds": statistics.median(seconds[1:])}


def measures_torch(job: Job) -> bool:
    """Returns whether torch and transformers are installed, and the job is not `alone`.

    Example:
        >>> measures_torch({"alone": True})
        False
    """
    installed = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    return installed and not job["alone"]
