"""Decides how many bytes a chunk of sweep cells or probe fits may take."""

import jax

# 64 MiB, so that the cells that a CPU computes together fit into its caches.
_CPU_BUDGET = 64 << 20
# Share of an accelerator's memory. The rest holds the weights, the recordings and a reserve.
_DEVICE_SHARE = 0.4


def memory_budget(given: int | None, cpu: int = _CPU_BUDGET) -> int:
    """Returns the bytes that cells or fits may take when they are computed together.

    Args:
        given: the budget in bytes that the user chose, or None.
        cpu: the default budget in bytes on a CPU.

    Returns:
        `given`, unless it is None. Otherwise `cpu` on a CPU, and 40% of the memory of an
        accelerator. The number does not depend on what the memory holds, because chunks of another
        size would change the last bits of results.

    Example:
        >>> memory_budget(1_000_000)
        1000000
    """
    if given is not None:
        return given
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return cpu
    stats = device.memory_stats() or {}
    # A device that does not report its memory counts as one of 8 GiB.
    return int(_DEVICE_SHARE * stats.get("bytes_limit", 8 << 30))
