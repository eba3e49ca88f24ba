"""Replaces files and folders atomically, and locks folders for one writer.

New files are written to a hidden staging folder inside the folder that they belong to. The staging
folder is renamed when all files in it are complete. If a process was killed, the name of its
staging folder shows the next writer whether to move the files into place or to remove them.
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
except ImportError:  # Windows has no flock, so several processes may write into one folder there
    fcntl = None

# The prefix of a staging folder's name, before and after its files are complete.
_WRITING, _COMPLETE = ".writing-", ".complete-"
_LOCK_NAME = ".lock"  # the name, or the end of the name, of a lock file


@contextmanager
def staging(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a staging folder. Its entries are moved into `folder` when the block ends.

    Each entry replaces the entry of the same name in `folder`. If the block raises an error,
    `folder` is unchanged. If the process is killed, the next call for `folder` cleans up (see
    `clean_up_staging`).

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
        stage = stage.rename(folder / stage.name.replace(_WRITING, _COMPLETE, 1))
        _move_entries(stage, folder)
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path. The file or folder there replaces `path` when the block ends.

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

    Creates the folder if needed, and calls `clean_up_staging`. The operating system releases the lock of a
    killed process.

    Args:
        folder: the folder to lock.
        wait_s: how many seconds to wait for another process to finish.

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
            "Wait until it ends, or choose another."
        )
    with lock:
        try:
            clean_up_staging(folder)
            yield
        finally:
            path.unlink(missing_ok=True)


def remove_stale_lock(folder: str | os.PathLike[str]) -> None:
    """Removes the lock file of `folder` if a killed process left it.

    Args:
        folder: a complete folder. Nothing writes into it again, so `only_writer` will not remove
            its lock file.
    """
    path = _lock_path(Path(folder))
    if path.exists() and (lock := _try_lock(path)) is not None:
        with lock:
            path.unlink(missing_ok=True)


def clean_up_staging(folder: Path) -> None:
    """Removes the staging folders that killed processes left in `folder`.

    Complete entries are moved into `folder` first. The staging folder of a running process is
    locked and remains.
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
    """Returns whether `path` is named like a lock file or staging folder of this module."""
    return path.name == _LOCK_NAME or path.name.startswith((_WRITING, _COMPLETE))


def _add_folder_to_error(problem: OSError, folder: Path) -> None:
    """Adds `folder` to an error that names no file, such as that of a full disk."""
    if problem.errno is not None and problem.filename is None:
        problem.filename = str(folder)


def _lock_path(folder: Path) -> Path:
    """Returns the path of the lock file of `folder`.

    It is next to the folder, because some formats refuse unknown files in it. If the parent is not
    writable, it is inside the folder.
    """
    absolute = folder.resolve()
    if os.access(absolute.parent, os.W_OK):
        return absolute.parent / f".{absolute.name}{_LOCK_NAME}"
    return absolute / _LOCK_NAME


def _try_lock(path: Path) -> BinaryIO | None:
    """Opens and locks the file `path`; returns None if another process has locked it."""
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
        try:
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        file.close()  # the process that held the lock has removed this file, so try again


def _create_stage(folder: Path) -> tuple[Path, BinaryIO]:
    """Creates a staging folder with its lock.

    Another process may take the new folder for that of a killed process, and remove it before it is
    locked. The loop then creates another one.
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
    """Moves the complete entries of a staging folder into `folder`.

    The call may be repeated after an interruption. It then moves the remaining entries, and none if
    the folder `new` is already removed.
    """
    (stage / "old").mkdir(exist_ok=True)
    for entry in sorted((stage / "new").glob("*")):
        target = folder / entry.name
        # A file cannot replace a folder, and a folder cannot replace anything. In these cases the
        # old entry is moved away first.
        if target.exists() and (target.is_dir() or entry.is_dir()):
            target.rename(stage / "old" / entry.name)
        entry.replace(target)
