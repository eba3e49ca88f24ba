"""Describes the device that programs are compiled for, which a plan replaces by another one."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

import jax


@dataclasses.dataclass(frozen=True)
class TargetDevice:
    """A device that programs are compiled for.

    Attributes:
        platform: "cpu", "gpu" or "tpu".
        memory_bytes: bytes of its memory; None if JAX does not know them.
    """

    platform: str
    memory_bytes: int | None


_PLANNED: contextvars.ContextVar[TargetDevice | None] = contextvars.ContextVar(
    "planned device", default=None
)


def target_device() -> TargetDevice:
    """Returns the device of `planning_for`, or the default device of JAX outside of a plan.

    Example:
        >>> from jaxasr.target_device import target_device
        >>> target_device().platform
        'cpu'
    """
    planned = _PLANNED.get()
    if planned is not None:
        return planned
    device = jax.devices()[0]
    platform = device.platform if device.platform in ("cpu", "tpu") else "gpu"
    stats = None if platform == "cpu" else device.memory_stats()
    return TargetDevice(platform, (stats or {}).get("bytes_limit"))


@contextlib.contextmanager
def planning_for(device: TargetDevice) -> Iterator[None]:
    """Within this context, sizes and kernels are chosen for `device`.

    Example:
        >>> from jaxasr.target_device import TargetDevice, planning_for, target_device
        >>> with planning_for(TargetDevice("tpu", 16 << 30)):
        ...     target_device().platform
        'tpu'
    """
    token = _PLANNED.set(device)
    try:
        yield
    finally:
        _PLANNED.reset(token)
