"""What this machine can do at most, and what it is: `python -m experiments.bench machine`."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from experiments.bench.worker import Worker, threads
from interventions.storage.provenance import commit, provenance, versions

OTHERS = ("torch", "ctranslate2", "faster-whisper")  # beside the packages that provenance names


class Machine:
    """A worker: matrix products in either library, and the devices by name."""

    def __init__(self, job: dict[str, Any]):
        self.size = job.get("size")
        self._products: dict[tuple[str, str], Callable[[], object]] = {}

    def gemm(self, library: str = "jax", dtype: str = "float32", seconds: float = 0.5) -> float:
        """The fastest of the square products that fit into `seconds`, FLOP/s. The first call warms up."""
        product, n = self._product(library, dtype)
        best, end = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            product()
            best = min(best, time.perf_counter() - start)
        return 2 * n**3 / best

    def describe(self) -> dict[str, Any]:
        import jax

        others = {
            name: importlib.metadata.version(name)
            for name in OTHERS
            if importlib.util.find_spec(name.replace("-", "_"))
        }
        devices = [device.device_kind for device in jax.devices()]
        return {
            "devices": devices,
            "backend": jax.default_backend(),
            "processor": processor(),
            "threads": threads(),
            "versions": versions() | others,
        }

    def _product(self, library: str, dtype: str) -> tuple[Callable[[], object], int]:
        import jax

        n = self.size or (1536 if jax.default_backend() == "cpu" else 8192)
        if (library, dtype) not in self._products:
            product = {"jax": _jax_product, "torch": _torch_product}[library](n, dtype)
            product()
            self._products[library, dtype] = product
        return self._products[library, dtype], n


def described() -> dict[str, Any]:
    """`Machine.describe`, of a process that ends at once: it must not hold the accelerator."""
    with Worker("experiments.bench.machine:Machine", {}) as worker:
        return worker.ask("describe")


def _jax_product(n: int, dtype: str) -> Callable[[], object]:
    import jax
    import jax.numpy as jnp

    a, b = (jax.random.normal(jax.random.key(seed), (n, n), jnp.dtype(dtype)) for seed in (0, 1))
    precision = "default" if dtype == "bfloat16" else "highest"
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))
    return lambda: product(a, b).block_until_ready()


def _torch_product(n: int, dtype: str) -> Callable[[], object]:
    import torch

    torch.set_num_threads(threads())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(n, n, device=device).to(getattr(torch, dtype)) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()

    return product


def libraries() -> list[str]:
    return ["jax", "torch"] if importlib.util.find_spec("torch") else ["jax"]


def processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    names = (
        [
            line.split(":")[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def load() -> str:
    """What else the machine was doing, of which a reader should know."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def report(machine: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The head of a file of measurements: machine and provenance in one."""
    machine = dict(machine)
    return provenance(**more) | {"versions": machine.pop("versions"), "machine": machine}


def title(machine: dict[str, Any]) -> str:
    names = ", ".join(
        f"{name} {machine['versions'][name]}"
        for name in ("jax", *OTHERS)
        if name in machine["versions"]
    )
    revision = (commit() or "unknown")[:9]
    return f"{machine['devices'][0]}, {machine['processor']}, {machine['threads']} threads; {names}; commit {revision}"


def main(
    rounds: Annotated[int, typer.Option(help="Times that each product is measured.")] = 5,
    size: Annotated[
        int | None,
        typer.Option(help="Rows of the square matrices; default 1536, on accelerators 8192."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A file for the numbers, JSON.")] = None,
) -> None:
    """Prints the rate of large matrix products, the bound for everything else, with device and versions."""
    with Worker("experiments.bench.machine:Machine", {"size": size}) as worker:
        machine = worker.ask("describe")
        dtypes = ["float32"] if machine["backend"] == "cpu" else ["float32", "bfloat16"]
        cases = [(library, dtype) for library in libraries() for dtype in dtypes]
        rates = [
            [worker.ask("gemm", library=library, dtype=dtype) for library, dtype in cases]
            for _ in range(rounds)
        ]
    table = Table("library", "dtype", "best GFLOP/s", "median", title=title(machine))
    found = {f"{library} {dtype}": column for (library, dtype), column in zip(cases, zip(*rates))}
    for (library, dtype), column in zip(cases, found.values()):
        table.add_row(
            library, dtype, f"{max(column) / 1e9:.0f}", f"{statistics.median(column) / 1e9:.0f}"
        )
    Console().print(table)
    if out:
        out.write_text(json.dumps({**report(machine), "gemm_flops": found}, indent=1))
