"""Runs an object in a separate process, so that its memory and start-up time can be measured.

`Worker("package.module:Class", job)` starts a process that creates the object `Class(job)`.
`worker.ask("method", ...)` calls a method of the object through a pipe.
"""

import ctypes
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Worker:
    """A process that creates `Class(job)` and calls its methods.

    The process ends at the end of the `with` block.

    Args:
        target: the class, as "package.module:Class".
        job: argument of the class. JSON must be able to represent its values.
        environment: additional environment variables of the process.

    Example:
        ```python
        with Worker("experiments.bench.machine:Machine", {}) as worker:
            print(worker.ask("describe"))
        ```
    """

    def __init__(self, target: str, job: Mapping[str, Any], **environment: str):
        self.target, self.started = target, time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "experiments.bench.worker", target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Several processes share the accelerator, so no process may reserve all of its memory.
            env={
                **os.environ,
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
                "TOKENIZERS_PARALLELISM": "false",
                **environment,
            },
        )
        self._send(dict(job))

    def __repr__(self) -> str:
        return f"Worker({self.target}, process {self.process.pid})"

    def ask(self, method: str, **arguments: Any) -> Any:
        """Calls a method of the object, and returns the result.

        Args:
            method: name of the method.
            arguments: arguments of the method. JSON must be able to represent them.

        Raises:
            RuntimeError: the process has failed. The reason is on standard error.
        """
        self._send({"method": method, "arguments": arguments})
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{self.target}.{method}: the process ended with code {self.process.wait()}; "
                "see the error message above."
            )
        return json.loads(line)

    def seconds_since_start(self) -> float:
        """Returns the seconds since the process was started."""
        return time.perf_counter() - self.started

    def _send(self, value: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(value) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return  # the process has failed, and `ask` raises the error

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def peak_rss() -> int:
    """Returns the peak memory of this process in bytes (resident set size)."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike `getrusage`, this excludes the memory of the parent process
        lines = status.read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux counts kB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_rss() -> int:
    """Resets the peak of `peak_rss`, and returns the memory of this process in bytes.

    Returns 0 and resets nothing on systems other than Linux with glibc.
    """
    try:
        # Returns freed memory to the system, because the peak would not rise if it were used again.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # 5 resets the peak, VmHWM
    except (OSError, AttributeError):
        return 0
    return peak_rss()


def threads() -> int:
    """Returns the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve(target: str) -> None:
    """Answers requests of the parent process until the parent closes the pipe."""
    # Answers go to standard output. What libraries print there goes to standard error instead.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, name = target.split(":")
    job = json.loads(sys.stdin.readline())
    instance = getattr(importlib.import_module(module), name)(job)
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(instance, request["method"])(**request["arguments"])
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
