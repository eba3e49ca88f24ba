"""Replaces files and folders atomically, and locks folders for one writer.

A writer puts new files into a hidden staging folder inside their target folder. When all files are
complete, the writer renames the staging folder and then moves the files into place. A killed
process leaves its staging folder. If the process had renamed this folder, the next writer moves the
files into place. Otherwise the next writer removes the folder.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows has no flock, so folders are not locked there
    fcntl = None

# Prefixes of the name of a staging folder: the first until its files are complete, then the second.
_WRITING, _COMPLETE = ".writing-", ".complete-"
# Name of a lock file inside the locked folder. If the lock file is next to the locked folder, its
# name has this end.
_LOCK_NAME = ".lock"


@contextmanager
def staging(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a staging folder, and moves its entries into `folder` when the block ends.

    Each entry replaces the entry of the same name in `folder`. If the block raises an error,
    `folder` is unchanged. If the process is killed, the next call for the same `folder` calls
    `clean_up_staging`.

    Args:
        folder: the folder to write into. It is created if needed.

    Yields:
        The staging folder, which is empty.

    Raises:
        OSError: `folder` cannot be created or written, or the disk is full.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with staging(folder) as new:
        ...         _ = (new / "a.txt").write_text("both files")
        ...         _ = (new / "b.txt").write_text("appear together")
        ...     sorted(os.listdir(folder))
        ['a.txt', 'b.txt']
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    clean_up_staging(folder)
    stage, lock = _create_stage(folder)
    with lock:
        try:
            yield stage / "new"
        except BaseException as problem:
            shutil.rmtree(stage, ignore_errors=True)
            if isinstance(problem, OSError):
                _add_folder_to_error(problem, folder)
            raise
        # From here on, the next writer completes the move if this process is killed.
        stage = stage.rename(folder / stage.name.replace(_WRITING, _COMPLETE, 1))
        _move_entries(stage, folder)
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path, and moves its file or folder to `path` when the block ends.

    If the block raises an error, `path` is unchanged (see `staging`).

    Args:
        path: the file or folder to replace. Its parent is created if needed.

    Yields:
        The temporary path, which has the same name in a staging folder.

    Raises:
        OSError: the parent of `path` cannot be created or written, or the disk is full.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(f"{folder}/a.txt") as temporary:
        ...         _ = temporary.write_text("complete")
        ...     Path(folder, "a.txt").read_text()
        'complete'
    """
    path = Path(path)
    with staging(path.parent) as new:
        yield new / path.name


@contextmanager
def only_writer(folder: str | os.PathLike[str], wait_s: float = 0.0) -> Iterator[None]:
    """Locks `folder` while the block runs, so that no other process can lock it.

    Creates the folder if needed, and calls `clean_up_staging`. If a process is killed, the
    operating system releases its lock.

    Args:
        folder: the folder to lock.
        wait_s: longest time in seconds to wait until another process unlocks the folder.

    Raises:
        BlockingIOError: another process has locked `folder`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, only_writer(folder):
        ...     _ = Path(folder, "a.txt").write_text("one writer at a time")
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, deadline = _lock_path(folder), time.monotonic() + wait_s
    while (lock := _try_lock(path)) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if lock is None:
        raise BlockingIOError(
            f"{str(folder)!r}: another process is writing into this folder. "
            "Wait until it ends, or choose another folder."
        )
    with lock:
        try:
            clean_up_staging(folder)
            yield
        finally:
            path.unlink(missing_ok=True)


def remove_stale_lock(folder: str | os.PathLike[str]) -> None:
    """Removes the lock file of `folder` if a killed process left it.

    Call this function for a complete folder, into which no process writes again. In other folders,
    the next call of `only_writer` removes the file.

    Args:
        folder: the folder whose lock file is removed, unless a process holds the lock.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     remove_stale_lock(folder)  # does nothing without a lock file
    """
    path = _lock_path(Path(folder))
    if path.exists() and (lock := _try_lock(path)) is not None:
        with lock:
            path.unlink(missing_ok=True)


def clean_up_staging(folder: Path) -> None:
    """Removes the staging folders that killed processes left in `folder`.

    If the entries of a staging folder are complete, moves them into `folder` first. Skips the
    staging folder of a running process, because it is locked.

    Args:
        folder: the folder to clean up. Nothing happens if it does not exist.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, ".writing-1").mkdir()  # as a killed process leaves it
        ...     clean_up_staging(Path(folder))
        ...     os.listdir(folder)
        []
    """
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        stages = [
            folder / entry.name
            for entry in entries
            if entry.name.startswith((_WRITING, _COMPLETE)) and entry.is_dir()
        ]
    for stage in stages:
        try:
            lock = _try_lock(stage / _LOCK_NAME)
        except OSError:  # the folder is not accessible, or another process has removed it
            continue
        if lock is not None:
            with lock:
                if stage.name.startswith(_COMPLETE):
                    _move_entries(stage, folder)
                shutil.rmtree(stage, ignore_errors=True)


def is_lock_or_staging(path: Path) -> bool:
    """Returns whether `path` is named like a lock file or staging folder of this module.

    Example:
        >>> is_lock_or_staging(Path("results/.bank.lock"))
        True
    """
    is_lock = path.name.startswith(".") and path.name.endswith(_LOCK_NAME)
    return is_lock or path.name.startswith((_WRITING, _COMPLETE))


def _add_folder_to_error(problem: OSError, folder: Path) -> None:
    """Adds `folder` to an error that names no file, such as that of a full disk."""
    if problem.errno is not None and problem.filename is None:
        problem.filename = str(folder)


def _lock_path(folder: Path) -> Path:
    """Returns the path of the lock file of `folder`.

    The lock file is next to `folder`, because some formats refuse unknown files inside a folder.
    If the parent of `folder` is not writable, the lock file is inside `folder`.
    """
    absolute = folder.resolve()
    if os.access(absolute.parent, os.W_OK):
        return absolute.parent / f".{absolute.name}{_LOCK_NAME}"
    return absolute / _LOCK_NAME


def _try_lock(path: Path) -> BinaryIO | None:
    """Opens and locks the file `path`, or returns None if another process has locked it."""
    while True:
        file = path.open("ab")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:  # a file system without locks
            return file
        # Between opening and locking, the previous holder may have removed the file. Then the lock
        # is on a removed file and protects nothing, so try again.
        try:
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        file.close()


def _create_stage(folder: Path) -> tuple[Path, BinaryIO]:
    """Creates a staging folder and locks it.

    Before the lock, another process may mistake the new folder for one that a killed process left,
    and remove the folder. The loop then creates another one.
    """
    while True:
        stage = Path(tempfile.mkdtemp(dir=folder, prefix=_WRITING))
        try:
            lock = _try_lock(stage / _LOCK_NAME)
            if lock is not None:
                (stage / "new").mkdir()
                return stage, lock
        except FileNotFoundError:
            continue
        except OSError:
            shutil.rmtree(stage, ignore_errors=True)
            raise


def _move_entries(stage: Path, folder: Path) -> None:
    """Moves the entries of a complete staging folder into `folder`.

    After an interruption, a second call moves the remaining entries.
    """
    (stage / "old").mkdir(exist_ok=True)
    for entry in sorted((stage / "new").glob("*")):
        target = folder / entry.name
        # `replace` cannot overwrite a folder, or a file by a folder. In both cases the old entry is
        # moved away first.
        if target.exists() and (target.is_dir() or entry.is_dir()):
            target.rename(stage / "old" / entry.name)
        entry.replace(target)
