"""Connects the processes that a cluster's launcher starts, one per host or per device.

JAX only gives each process its number here. The processes compute on their own devices and write
their own files, so a process that was killed can be started again while the others continue.
"""

import os
from collections.abc import Mapping
from typing import Any

# Values of --distributed besides ADDRESS,COUNT,INDEX.
AUTO, ON, OFF = "auto", "on", "off"
# Seconds to wait until the first process accepts connections.
_CONNECT_S = 300
# Seconds that a process waits for others when it exits. Nothing depends on a common exit.
_EXIT_S = 10


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Returns whether a launcher that JAX knows has started several processes.

    Args:
        environment: the environment variables.

    Example:
        >>> is_launched({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2", "TPU_WORKER_ID": "0"})
        True
    """
    hosts = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES", ""))
    counts = (
        # SLURM sets the number of tasks also for a script that srun did not start, but then the
        # script has no list of the nodes of its step.
        environment.get("SLURM_STEP_NUM_TASKS") if "SLURM_STEP_NODELIST" in environment else None,
        environment.get("OMPI_COMM_WORLD_SIZE"),
        environment.get("MEGASCALE_NUM_SLICES"),
        str(len(hosts.split(","))),
    )
    return any(count is not None and count.isdigit() and int(count) > 1 for count in counts)


def connect(distributed: str = AUTO) -> None:
    """Connects this process with the others. Call it before JAX uses a device.

    Args:
        distributed: "auto" connects if a launcher started several processes, "on" always, and "off"
            never. `ADDRESS,COUNT,INDEX` connects without a launcher: the address and port of the
            first process, the number of processes and the number of this process.

    Raises:
        ValueError: the text has another form, or JAX finds no launcher.

    Example:
        ```python
        connect("10.0.0.1:1234,2,0")  # on the first of two hosts
        ```
    """
    arguments: dict[str, Any] = _parse(distributed)
    if distributed == OFF or (distributed == AUTO and not is_launched()):
        return
    import jax

    if jax.distributed.is_initialized():
        return
    # Otherwise JAX ends all processes when one of them is killed or started again.
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(
            **arguments, initialization_timeout=_CONNECT_S, shutdown_timeout_seconds=_EXIT_S
        )
    except ValueError as error:
        raise ValueError(
            f"--distributed {distributed}: JAX finds no launcher ({error}). Give "
            "ADDRESS,COUNT,INDEX, such as 10.0.0.1:1234,2,0, to every process."
        ) from error


def _parse(distributed: str) -> dict[str, object]:
    """Returns the arguments of `jax.distributed.initialize`; none if JAX finds them itself."""
    if distributed in (AUTO, ON, OFF):
        return {}
    address, *numbers = distributed.split(",")
    if ":" not in address or len(numbers) != 2 or not all(n.isdigit() for n in numbers):
        raise ValueError(
            f"--distributed: expected {AUTO}, {ON}, {OFF} or ADDRESS,COUNT,INDEX, such as "
            f"10.0.0.1:1234,2,0, got {distributed!r}."
        )
    count, index = map(int, numbers)
    if index >= count:
        raise ValueError(
            f"--distributed: expected INDEX from 0 to {count - 1}, got {index} in {distributed!r}."
        )
    return {
        "coordinator_address": address,
        "num_processes": count,
        "process_id": index,
        "cluster_detection_method": "deactivate",
    }
