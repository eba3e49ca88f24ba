"""Keeps the part of every process in a folder of its own, and waits for the parts of others.

Processes find each other's parts by files. They do not communicate, so a process that was killed
and started again continues while the others wait. A process that fails leaves a file with the
reason, so that the others stop waiting.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from interventions.storage.text_files import write_text
from jaxasr.processes import Process

# Environment variable with the longest time in seconds without a new file of an awaited process.
WAIT_VARIABLE = "JAXASR_WAIT_S"
_DEFAULT_WAIT_S = 3600.0
_NAME = re.compile(r"process-(\d+)-of-(\d+)")
_ERROR_SUFFIX = ".error"
_FIRST_POLL_S, _LONGEST_POLL_S = 0.02, 2.0
# Folders below a part whose modification times show that its process is running.
_DEPTH = 3


def part_folder(folder: str | os.PathLike[str], process: Process) -> Path:
    """Returns the folder of a process's part, which is `folder` itself for a single process.

    Example:
        >>> part_folder("cells", Process(1, 2)).as_posix()
        'cells/process-1-of-2'
    """
    return Path(folder) if process.count == 1 else Path(folder, process.name)


def find_parts(folder: str | os.PathLike[str]) -> dict[Process, Path]:
    """Returns the existing folders of parts by process, for any number of processes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "process-1-of-2").mkdir()
        ...     [process.index for process in find_parts(folder)]
        [1]
    """
    folder = Path(folder)
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    matches = [(path, _NAME.fullmatch(path.name)) for path in paths]
    parts = {
        Process(int(match[1]), int(match[2])): path
        for path, match in matches
        if match and int(match[1]) < int(match[2]) and path.is_dir()
    }
    return dict(sorted(parts.items(), key=lambda part: (part[0].count, part[0].index)))


def complete_parts(
    folder: str | os.PathLike[str], is_complete: Callable[[Path], bool]
) -> list[Path]:
    """Returns the parts of all processes in order, if all of one number of processes are complete.

    Raises:
        FileNotFoundError: there are no parts.
        ValueError: parts are missing or incomplete. The message names them.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for index in range(2):
        ...         Path(folder, f"process-{index}-of-2").mkdir()
        ...     [path.name for path in complete_parts(folder, Path.is_dir)]
        ['process-0-of-2', 'process-1-of-2']
    """
    found = find_parts(folder)
    missing: list[str] = []
    for count in sorted({process.count for process in found}):
        processes = [Process(index, count) for index in range(count)]
        unfinished = [p for p in processes if p not in found or not is_complete(found[p])]
        if not unfinished:
            return [found[process] for process in processes]
        missing += [process.name for process in unfinished]
    if not missing:
        raise FileNotFoundError(f"{str(folder)!r}: expected the parts of processes, found none.")
    raise ValueError(
        f"{str(folder)!r}: expected a finished part of every process, {', '.join(missing)} "
        "did not finish. Start these processes again."
    )


class OtherProcesses:
    """Waits for the other processes that write parts into a folder.

    Args:
        folder: the folder of all parts.
        process: this process.
        wait_s: longest time in seconds without a new file of an awaited process. Default: the
            environment variable `JAXASR_WAIT_S`, or else one hour.

    Example:
        ```python
        others = OtherProcesses(folder, process)
        with others.reporting_failure():
            compute_part(part_folder(folder, process))
        for other in process.others():
            others.wait(other, lambda: is_complete(part_folder(folder, other)))
        ```
    """

    def __init__(
        self, folder: str | os.PathLike[str], process: Process, wait_s: float | None = None
    ):
        self.folder, self.process = Path(folder), process
        self.wait_s = _wait_seconds() if wait_s is None else wait_s
        # An earlier run may have failed, so only later files show that a process failed.
        self._earlier = {other: self._error_time(other) for other in process.others()}

    @contextmanager
    def reporting_failure(self) -> Iterator[None]:
        """Writes the error of the block, if any, into a file, so that others stop waiting."""
        if self.process.count == 1:
            yield
            return
        path = self._error_path(self.process)
        path.unlink(missing_ok=True)
        try:
            yield
        except Exception as error:
            write_text(path, f"{type(error).__name__}: {error}")
            raise

    def wait(self, other: Process, is_complete: Callable[[], bool]) -> None:
        """Waits until `is_complete()` is true for a part of the process `other`.

        Raises:
            TimeoutError: the process wrote no new file for `wait_s` seconds.
            ChildProcessError: the process failed.
        """
        poll_s, activity, deadline = _FIRST_POLL_S, None, 0.0
        while not is_complete():
            if self._error_time(other) != self._earlier[other]:
                self._raise_failure(other)
            if (latest := _latest_change(part_folder(self.folder, other))) != activity:
                activity, deadline = latest, time.monotonic() + self.wait_s
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"{other.name}: wrote no file into {str(self.folder)!r} for {self.wait_s:g} s, "
                    f"and its part is not complete. Start it again, or set {WAIT_VARIABLE} to more "
                    "seconds."
                )
            time.sleep(poll_s)
            poll_s = min(1.5 * poll_s, _LONGEST_POLL_S)

    def _raise_failure(self, other: Process) -> None:
        path = self._error_path(other)
        try:
            reason = path.read_text(encoding="utf-8")
        except FileNotFoundError:  # the process has been started again
            self._earlier[other] = None
            return
        raise ChildProcessError(f"{other.name} failed: {reason}")

    def _error_path(self, process: Process) -> Path:
        return self.folder / f"{process.name}{_ERROR_SUFFIX}"

    def _error_time(self, process: Process) -> int | None:
        try:
            return self._error_path(process).stat().st_mtime_ns
        except FileNotFoundError:
            return None


def _wait_seconds() -> float:
    text = os.environ.get(WAIT_VARIABLE, str(_DEFAULT_WAIT_S))
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{WAIT_VARIABLE}: expected seconds, got {text!r}.") from None


def _latest_change(folder: Path, depth: int = _DEPTH) -> int:
    """Returns the latest modification time of a folder and the folders below it."""
    try:
        latest = folder.stat().st_mtime_ns
        below = [entry for entry in os.scandir(folder) if entry.is_dir()] if depth else []
    except OSError:  # not created yet, or just replaced
        return 0
    return max([latest, *(_latest_change(Path(entry.path), depth - 1) for entry in below)])
