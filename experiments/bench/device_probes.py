"""Measures the path of an accelerator for probes, on whichever device there is."""

import cProfile
import pstats
import time
from collections.abc import Callable
from typing import Any

from interventions.probes import device_path


def measure(fit: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Measures fits on the path of an accelerator.

    Args:
        fit: fits a bank.
        rounds: number of fits after the first.

    Returns:
        Seconds of the first and of the fastest fit, the share of the time of a fit in NumPy,
        and the largest optimality gap.
    """
    with device_path.force():
        first_s, bank = timed(fit)
        seconds = [timed(fit)[0] for _ in range(rounds)]
        share = share_in_numpy(fit)
    return {
        "first_s": first_s,
        "seconds": min(seconds),
        "fits_per_s": bank.objective.size / min(seconds),
        "share_in_numpy": share,
        "largest_gap": float(bank.optimality_gap.max()),
    }


def share_in_numpy(call: Callable[[], Any]) -> float:
    """Returns the share of the time of a call in NumPy, and in operators of the probes' own code.

    Example:
        >>> share_in_numpy(lambda: sum(range(100_000)))
        0.0
    """
    profile = cProfile.Profile()
    profile.runcall(call)
    statistics = pstats.Stats(profile)
    in_numpy = sum(
        own_seconds
        for (file, _, name), (_, _, own_seconds, _, _) in statistics.stats.items()  # pyright: ignore
        if "/numpy/" in file or "numpy" in name or "/interventions/probes/" in file
    )
    return in_numpy / statistics.total_tt  # pyright: ignore


def timed(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Returns the seconds and the result of a call.

    Example:
        >>> timed(max, 1, 2)[1]
        2
    """
    start = time.perf_counter()
    value = call(*arguments)
    return time.perf_counter() - start, value
