"""Runs functions in a worker process under limits of time and memory."""

import contextlib
import dataclasses
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

_STARTUP_S = 180  # seconds to start Python and import the module of the function
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Attributes:
        kind: "returned", "raised", "crashed" (the process died), "hung" (too much time) or "memory"
            (too much memory).
        value: the returned value, the exception as "Type: message", or the exit code.
        seconds: wall time of the call.
        extra_bytes: peak of resident memory beyond that at the start of the call.
    """

    kind: str
    value: Any
    seconds: float
    extra_bytes: int


class Worker:
    """A process that runs functions, and is replaced if it exceeds a limit.

    Args:
        environment: environment variables of the process, such as `{"MALLOC_PERTURB_": "165"}`.
        seconds: limit per call. The import of the function's module does not count.
        extra_bytes: limit of resident memory beyond that at the start of a call.
    """

    def __init__(
        self,
        environment: Mapping[str, str] = {},
        *,
        seconds: float = 10,
        extra_bytes: int = 1 << 30,
    ) -> None:
        self._environment, self._seconds, self._extra_bytes = (
            dict(environment),
            seconds,
            extra_bytes,
        )
        self._process = self._pipe = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop()

    def run(self, function: Callable, *args: Any) -> Outcome:
        """Calls `function(*args)` in the process; arguments and result must be picklable."""
        if self._process is None:
            self._start()
        self._pipe.send((function, args))
        if not self._pipe.poll(_STARTUP_S):
            self._stop()
            raise TimeoutError(
                f"{function.__name__}: the worker process did not start in {_STARTUP_S} s."
            )
        start = time.perf_counter()
        try:
            before = self._pipe.recv()
            kind, value, extra = self._wait(start, before)
        except EOFError:
            self._process.join()
            kind, value, extra = "crashed", self._process.exitcode, 0
        seconds = time.perf_counter() - start
        if kind in ("crashed", "hung") or extra > self._extra_bytes:
            self._stop()
        if extra > self._extra_bytes or (kind == "raised" and value.startswith("MemoryError")):
            kind = "memory"
        return Outcome(kind, value, seconds, extra)

    def _wait(self, start: float, before: int) -> tuple[str, Any, int]:
        """Returns the kind, the value and the extra bytes of the call that started at `start`."""
        while not self._pipe.poll(0.05):
            extra = _resident(self._process.pid) - before
            if extra > self._extra_bytes:
                return "memory", None, extra
            if time.perf_counter() - start > self._seconds:
                return "hung", None, extra
        return self._pipe.recv()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, worker_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(worker_end,), daemon=True)
        with _environment(self._environment):
            self._process.start()
        worker_end.close()  # this process uses only its own end

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = self._pipe = None


def _serve(pipe: Any) -> None:
    """Runs in the worker: calls each function that arrives in `pipe`, and sends back its result."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            function, args = pipe.recv()  # imports the module of the function
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak of memory
            before = _resident("self")
            pipe.send(before)
            try:
                kind, value = "returned", function(*args)
            except Exception as error:
                kind, value = "raised", f"{type(error).__name__}: {error}"
            pipe.send((kind, value, _peak() - before))


def _resident(process: int | str) -> int:
    """Returns the resident memory of a process in bytes."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError, IndexError):  # the process has ended
        return 0


def _peak() -> int:
    """Returns the peak of the resident memory of this process in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables while the block runs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
