"""Memory budget of computations that run cells or fits in chunks."""

import jax

# Cells that are computed together on a CPU should fit its caches.
_CPU_BUDGET = 64 << 20  # bytes
_FREE_SHARE = 0.4  # of an accelerator's free memory


def budget(given: int | None, cpu: int = _CPU_BUDGET) -> int:
    """Bytes for what is computed together.

    Args:
        given: the user's budget, which wins.
        cpu: the budget on a CPU.

    Returns:
        `given`, else `cpu` on a CPU, else a share of the accelerator's free memory.
    """
    if given is not None:
        return given
    device = jax.devices()[0]
    if device.platform == "cpu":
        return cpu
    stats = device.memory_stats() or {}
    return int(_FREE_SHARE * (stats.get("bytes_limit", 8 << 30) - stats.get("bytes_in_use", 0)))
