"""Describes the devices that work can be planned for."""

import dataclasses
import importlib.util
import math
import os
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxasr.config import Config
from jaxasr.divided_weights import make_model_mesh
from jaxasr.meshes import CELLS, DATA
from jaxasr.target_device import TargetDevice

_GIB = 1 << 30
_GRIDS = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
# Arrangements of chips that the compiler knows, by kind of TPU.
TOPOLOGIES = {"v5e": _GRIDS, "v6e": _GRIDS, "v5p": ("2x2x1", "2x2x2")}


@dataclasses.dataclass(frozen=True)
class Chip:
    """What the maker of a chip states about it.

    Attributes:
        platform: "cpu", "gpu" or "tpu".
        memory_bytes: bytes of its memory; None if unknown.
        peak_flops: bfloat16 operations per second; None if unknown.
        peak_flops_float32: operations per second in full float32 precision; None if unknown.
        bytes_per_s: bandwidth of its memory; None if unknown.
    """

    platform: str
    memory_bytes: int | None
    peak_flops: float | None
    peak_flops_float32: float | None
    bytes_per_s: float | None


# On a TPU, a float32 product of full precision takes six passes of bfloat16 products. The compiler
# for v5e and v6e leaves 15.75 and 31.25 GiB of the memory to programs.
CHIPS = {
    "v5e": Chip("tpu", int(15.75 * _GIB), 197e12, 197e12 / 6, 819e9),
    "v6e": Chip("tpu", int(31.25 * _GIB), 918e12, 918e12 / 6, 1640e9),
    "v5p": Chip("tpu", 95 * _GIB, 459e12, 459e12 / 6, 2765e9),
    "a100": Chip("gpu", 80 * _GIB, 312e12, 19.5e12, 2039e9),
    "h100": Chip("gpu", 80 * _GIB, 989e12, 67e12, 3350e9),
    "h200": Chip("gpu", 141 * _GIB, 989e12, 67e12, 4800e9),
    "cpu": Chip("cpu", None, None, None, None),
}
CHIPS["gpu"] = CHIPS["h100"]


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedDevice:
    """Devices that work is planned for. Made by `find_device`.

    Attributes:
        name: the name that the user gave.
        chip: what the maker states.
        devices: devices without a machine, which programs are compiled for; empty for a CPU and a
            GPU, whose programs are not compiled.
        shares_model: whether all devices share the weights of one model. If not, each holds all.

    Example:
        >>> find_device("cpu").n_devices
        1
    """

    name: str
    chip: Chip
    devices: tuple[Any, ...] = ()
    shares_model: bool = False

    @property
    def n_devices(self) -> int:
        """Number of devices that share the work."""
        return max(1, len(self.devices))

    @property
    def n_models(self) -> int:
        """Number of models on the devices. They divide the recordings."""
        return 1 if self.shares_model else self.n_devices

    @property
    def place(self) -> Any:
        """Where programs without a mesh are compiled for; see `jaxasr.ahead_of_time.trace`."""
        if self.shares_model:
            return make_model_mesh(self.devices)
        return next(iter(self.devices), None)

    @property
    def target(self) -> TargetDevice:
        """The device that sizes and kernels are chosen for."""
        return TargetDevice(self.chip.platform, self.chip.memory_bytes)

    def supported(self, config: Config) -> Config:
        """Returns the configuration with attention that the devices can divide, if they must."""
        if self.shares_model and self.chip.platform == "tpu":
            return config.replace(attention_kernel="xla")
        return config

    def mesh(self, n_recordings: int) -> Mesh | None:
        """Returns a mesh of the devices; None if there are none, or if they share a model.

        As many devices divide the recordings as there are recordings. The others share cells.
        """
        if not self.devices or self.shares_model:
            return None
        data = math.gcd(self.n_devices, 1 << (n_recordings.bit_length() - 1))
        return Mesh(np.array(self.devices).reshape(data, -1), (DATA, CELLS))


def find_device(name: str, model_axis: int = 1) -> PlannedDevice:
    """Finds the devices of a name.

    Args:
        name: "cpu", "gpu" (an H100), the name of a GPU, or kind and arrangement of TPU chips, such
            as "v5e:2x2". The arrangement is 2x2 by default.
        model_axis: number of devices that share the weights of one model: 1, or all devices.

    Raises:
        ValueError: the name is unknown, the compiler for TPUs is not installed, or another number
            of devices.

    Example:
        >>> find_device("h200").chip.platform
        'gpu'
    """
    kind, _, layout = name.partition(":")
    if kind not in CHIPS or (layout and kind not in TOPOLOGIES):
        raise ValueError(f"--device {name}: expected {_known()}.")
    if kind not in TOPOLOGIES:
        return _sharing(PlannedDevice(name, CHIPS[kind]), model_axis)
    layout = layout or TOPOLOGIES[kind][0]
    if layout not in TOPOLOGIES[kind]:
        raise ValueError(
            f"--device {name}: expected one of {', '.join(TOPOLOGIES[kind])} after {kind}:."
        )
    devices = _topology_devices(name, f"{kind}:{layout}")
    return _sharing(PlannedDevice(name, CHIPS[kind], devices), model_axis)


def _sharing(device: PlannedDevice, model_axis: int) -> PlannedDevice:
    """Returns the devices, `model_axis` of which share a model."""
    if model_axis == 1:
        return device
    if model_axis != device.n_devices:
        expected = "1" if device.n_devices == 1 else f"1 or {device.n_devices}"
        raise ValueError(
            f"--model-axis {model_axis}: expected {expected}, because {device.name} has "
            f"{device.n_devices} in all. Choose the number of chips by --device."
        )
    return dataclasses.replace(device, shares_model=True)


def _known() -> str:
    others = [kind for kind in CHIPS if kind not in TOPOLOGIES]
    tpus = [f"{kind}:{layout}" for kind, layouts in TOPOLOGIES.items() for layout in layouts]
    return ", ".join([*others, *tpus])


def _topology_devices(name: str, topology: str) -> tuple[Any, ...]:
    """Returns the devices of a topology, which exist for the compiler only."""
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"--device {name}: the compiler for TPUs is not installed. "
            "Run: pip install 'jaxasr[tpu]'"
        )
    # The library otherwise asks the network for the TPU of this machine, and waits for minutes.
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # Several processes may compile at the same time, because none of them uses a TPU.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    from jax.experimental import topologies

    description = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    return tuple(description.devices)
