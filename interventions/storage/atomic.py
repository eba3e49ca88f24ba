"""Writes files and folders that appear complete or not at all, and locks folders for one writer.

A write happens in a hidden staging folder inside the target's folder. The name of the staging
folder changes once everything in it is complete. After a process was killed, the next write
therefore knows which entries to move into place and which to remove.
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

_WRITING, _COMPLETE = ".writing-", ".complete-"  # prefixes of a staging folder's name
_LOCK = ".lock"


@contextmanager
def staging(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields an empty folder whose entries move into `folder` when the block ends without an error.

    Entries replace those of the same name. After an error `folder` is unchanged. If the process is
    killed, the next `staging` of the same folder cleans up, see `clean_up`.

    Args:
        folder: the folder to write into; it is created if needed.

    Yields:
        The staging folder.

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
    clean_up(folder)
    stage, lock = _new_stage(folder)
    with lock:
        try:
            yield stage / "new"
        except BaseException as problem:
            shutil.rmtree(stage, ignore_errors=True)
            if isinstance(problem, OSError):
                _name_folder(problem, folder)
            raise
        stage = stage.rename(folder / stage.name.replace(_WRITING, _COMPLETE, 1))
        _move(stage, folder)
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a path at which to write a file or folder that then replaces `path`.

    `path` is replaced when the block ends without an error, see `staging`.

    Args:
        path: the file or folder to replace; its parent is created if needed.

    Yields:
        A path of the same name in a staging folder.

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
    """Locks `folder` against other processes that call `only_writer` while the block runs.

    Creates the folder if needed and cleans up first, see `clean_up`. The lock ends with its
    process, so that a killed process blocks nothing.

    Args:
        folder: the folder to lock.
        wait_s: how many seconds to wait for another process to finish.

    Raises:
        BlockingIOError: another process is writing into `folder`.

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
            clean_up(folder)
            yield
        finally:
            path.unlink(missing_ok=True)


def remove_stale_lock(folder: str | os.PathLike[str]) -> None:
    """Removes the lock file that a killed process left for `folder`; keeps one that is in use.

    Args:
        folder: a folder that is complete, so that `only_writer` will not be called for it again.
    """
    path = _lock_path(Path(folder))
    if path.exists() and (lock := _try_lock(path)) is not None:
        with lock:
            path.unlink(missing_ok=True)


def clean_up(folder: Path) -> None:
    """Finishes or removes what killed processes left in `folder`.

    Moves complete entries into place and removes incomplete ones. The staging folder of a running
    process is locked and stays.
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
            lock = _try_lock(stage / _LOCK)
        except OSError:
            continue
        if lock is not None:
            with lock:
                if stage.name.startswith(_COMPLETE):
                    _move(stage, folder)
                shutil.rmtree(stage, ignore_errors=True)


def is_bookkeeping(path: Path) -> bool:
    """Returns whether `path` is a hidden entry that this module creates while it writes."""
    return path.name == _LOCK or path.name.startswith((_WRITING, _COMPLETE))


def _name_folder(problem: OSError, folder: Path) -> None:
    """Adds the folder to an error of a full disk, which names no file."""
    if problem.errno is not None and problem.filename is None:
        problem.filename = str(folder)


def _lock_path(folder: Path) -> Path:
    """The lock file: next to the folder, since some formats refuse unknown files in it.

    Inside the folder where its parent cannot be written.
    """
    absolute = folder.resolve()
    if os.access(absolute.parent, os.W_OK):
        return absolute.parent / f".{absolute.name}{_LOCK}"
    return absolute / _LOCK


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


def _new_stage(folder: Path) -> tuple[Path, BinaryIO]:
    """Creates a staging folder with its lock.

    Tries again if another process removed the folder as a killed one's before it was locked.
    """
    while True:
        stage = Path(tempfile.mkdtemp(dir=folder, prefix=_WRITING))
        try:
            lock = _try_lock(stage / _LOCK)
            if lock is not None:
                (stage / "new").mkdir()
                return stage, lock
        except FileNotFoundError:
            continue
        except OSError:
            shutil.rmtree(stage, ignore_errors=True)
            raise


def _move(stage: Path, folder: Path) -> None:
    """Moves the complete entries of a staging folder into `folder`.

    May be repeated after an interruption: entries that were moved are no longer in the stage, and
    `new` itself is gone if the process was killed while it removed the stage.
    """
    (stage / "old").mkdir(exist_ok=True)
    for entry in sorted((stage / "new").glob("*")):
        target = folder / entry.name
        # A file cannot replace a folder nor a folder anything, so the old entry moves away first.
        if target.exists() and (target.is_dir() or entry.is_dir()):
            target.rename(stage / "old" / entry.name)
        entry.replace(target)
