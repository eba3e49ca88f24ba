"""Measures matrix products and describes the machine: `python -m experiments.bench machine`."""

import importlib.metadata
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from experiments.bench import options
from experiments.bench.worker import Worker, threads
from interventions.storage.provenance import commit, provenance, versions

# Packages whose versions provenance does not record.
OTHER_PACKAGES = ("torch", "ctranslate2", "faster-whisper")
Description = dict[str, Any]  # devices, backend, processor, threads, versions


class Machine:
    """A worker that times matrix products in JAX and torch, and describes the machine.

    Args:
        job: optionally has `size`, the number of rows of the square matrices.
    """

    def __init__(self, job: dict[str, Any]):
        self.size = job.get("size")
        self._products: dict[tuple[str, str], Callable[[], object]] = {}

    def matmul_rate(
        self, library: str = "jax", dtype: str = "float32", seconds: float = 0.5
    ) -> float:
        """Returns the largest FLOP/s of a product of square matrices.

        Args:
            library: "jax" or "torch".
            dtype: dtype of the matrices.
            seconds: for how long the product is repeated. Compilation does not count.
        """
        product, n = self._compile_product(library, dtype)
        best, end = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            product()
            best = min(best, time.perf_counter() - start)
        return 2 * n**3 / best  # n³ multiplications and n³ additions

    def describe(self) -> Description:
        """Returns devices, processor, threads and versions."""
        import jax

        other_versions = {
            name: importlib.metadata.version(name)
            for name in OTHER_PACKAGES
            if importlib.util.find_spec(name.replace("-", "_"))
        }
        return {
            "devices": [device.device_kind for device in jax.devices()],
            "backend": jax.default_backend(),
            "processor": processor(),
            "threads": threads(),
            "versions": versions() | other_versions,
        }

    def _compile_product(self, library: str, dtype: str) -> tuple[Callable[[], object], int]:
        """Returns a compiled matrix product, and the number of rows of the matrices."""
        import jax

        # The matrices are large, so that the overhead of a call does not matter.
        n = self.size or (1536 if jax.default_backend() == "cpu" else 8192)
        if (library, dtype) not in self._products:
            product = {"jax": _make_jax_product, "torch": _make_torch_product}[library](n, dtype)
            product()
            self._products[library, dtype] = product
        return self._products[library, dtype], n


def describe_machine() -> Description:
    """Describes the machine in another process, so that this process does not use the accelerator.

    Example:
        ```python
        print(title(describe_machine()))
        ```
    """
    with Worker("experiments.bench.machine:Machine", {}) as worker:
        return worker.ask("describe")


def _make_jax_product(n: int, dtype: str) -> Callable[[], object]:
    import jax
    import jax.numpy as jnp

    a, b = (jax.random.normal(jax.random.key(seed), (n, n), jnp.dtype(dtype)) for seed in (0, 1))
    precision = "default" if dtype == "bfloat16" else "highest"
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))
    return lambda: product(a, b).block_until_ready()


def _make_torch_product(n: int, dtype: str) -> Callable[[], object]:
    import torch

    from experiments.bench.models import torch_device, wait_for_torch

    torch.set_num_threads(threads())
    a, b = (torch.randn(n, n, device=torch_device()).to(getattr(torch, dtype)) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        wait_for_torch()

    return product


def libraries() -> list[str]:
    """Returns the installed libraries that compute matrix products."""
    return ["jax", "torch"] if importlib.util.find_spec("torch") else ["jax"]


def processor() -> str:
    """Returns the name of the processor, or its architecture if the name is unknown."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def load_average() -> str:
    """Returns the load average, because other processes slow down a measurement."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def report(machine: Description, **settings: Any) -> dict[str, Any]:
    """Returns the provenance of a measurement: settings, machine and versions of packages."""
    machine = dict(machine)
    return provenance(**settings) | {"versions": machine.pop("versions"), "machine": machine}


def title(machine: Description) -> str:
    """Returns one line that names the device, processor, versions and commit."""
    installed = machine["versions"]
    names = ", ".join(
        f"{name} {installed[name]}" for name in ("jax", *OTHER_PACKAGES) if name in installed
    )
    hardware = f"{machine['devices'][0]}, {machine['processor']}, {machine['threads']} threads"
    return f"{hardware}; {names}; commit {(commit() or 'unknown')[:9]}"


def main(
    rounds: Annotated[int, typer.Option(help="How often each product is measured.")] = 5,
    size: Annotated[
        int | None,
        typer.Option(
            help="Rows of the square matrices. Default: 1536 on CPUs, 8192 on accelerators."
        ),
    ] = None,
    out: options.Out = None,
) -> None:
    """Prints the FLOP/s of large matrix products, an upper bound for the FLOP/s of a model."""
    with Worker("experiments.bench.machine:Machine", {"size": size}) as worker:
        machine = worker.ask("describe")
        dtypes = ["float32"] if machine["backend"] == "cpu" else ["float32", "bfloat16"]
        cases = [(library, dtype) for library in libraries() for dtype in dtypes]
        rounds_of_rates = [
            [worker.ask("matmul_rate", library=library, dtype=dtype) for library, dtype in cases]
            for _ in range(rounds)
        ]
    table = Table("library", "dtype", "best GFLOP/s", "median", title=title(machine))
    rates = {}
    for (library, dtype), column in zip(cases, zip(*rounds_of_rates)):
        best, median = max(column) / 1e9, statistics.median(column) / 1e9
        table.add_row(library, dtype, f"{best:.0f}", f"{median:.0f}")
        rates[f"{library} {dtype}"] = column
    options.make_console().print(table)
    options.save(out, {**report(machine), "gemm_flops": rates})
