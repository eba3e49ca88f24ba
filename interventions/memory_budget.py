"""Decides how many bytes a chunk of sweep cells or probe fits may take."""

from jaxasr.target_device import target_device

# 64 MiB, so that the cells that a CPU computes together fit into its caches.
_CPU_BUDGET = 64 << 20
# Share of an accelerator's memory. The rest holds the weights, the recordings and a reserve.
_DEVICE_SHARE = 0.4
# Bytes of an accelerator that does not report its memory: 8 GiB.
_DEFAULT_MEMORY = 8 << 30


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
    device = target_device()
    if device.platform == "cpu":
        return cpu
    return int(_DEVICE_SHARE * (device.memory_bytes or _DEFAULT_MEMORY))
