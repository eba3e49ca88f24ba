"""Contenders in processes of their own, so that memory and the time to a first result are theirs alone.

`Worker("package.module:Class", job)` starts one; `worker.ask("method", ...)` calls a method of its instance, over a pipe.
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
    """A process holding `Class(job)`. A context manager: leaving it ends the process."""

    def __init__(self, target: str, job: Mapping[str, Any], **environment: str):
        self.target, self.started = target, time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "experiments.bench.worker", target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Several processes share the accelerator: none may take all of its memory at once.
            env={
                **os.environ,
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
                "TOKENIZERS_PARALLELISM": "false",
                **environment,
            },
        )
        self._send(dict(job))

    def ask(self, method: str, **arguments: Any) -> Any:
        """What the method returns. Raises RuntimeError when the process has failed; its own message is on standard error."""
        self._send({"method": method, "arguments": arguments})
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{self.target}.{method}: its process ended with code {self.process.wait()}; see its message above."
            )
        return json.loads(line)

    def since_start(self) -> float:
        """Seconds since the process was started."""
        return time.perf_counter() - self.started

    def _send(self, value: dict[str, Any]) -> None:
        try:
            self.process.stdin.write(json.dumps(value) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return  # it has failed already: `ask` says so

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def peak_rss() -> int:
    """Bytes of memory this process has held at most; of the kernel's two records the one that a parent process does not enter."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * next(
            int(line.split()[1])
            for line in status.read_text().splitlines()
            if line.startswith("VmHWM")
        )
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def reset_peak_rss() -> int:
    """Forgets the peak (Linux with glibc), so that `peak_rss` tells that of what follows; the bytes held now."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what is free already would hide what is taken next
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return 0
    return peak_rss()


def threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve(target: str) -> None:
    """Answers the parent until it closes the pipe. What a library prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, name = target.split(":")
    job = json.loads(sys.stdin.readline())
    contender = getattr(importlib.import_module(module), name)(job)
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(contender, request["method"])(**request["arguments"])
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
