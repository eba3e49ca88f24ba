"""Files and folders that appear complete or not at all, and folders with one writer at a time."""

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
except ImportError:  # Windows has no flock: writers are not kept from each other there
    fcntl = None

_WRITING, _COMPLETE = (
    ".writing-",
    ".complete-",
)  # what a staging folder is called before and after everything is written
_LOCK = ".lock"


@contextmanager
def staging(folder: str | os.PathLike) -> Iterator[Path]:
    """Yields an empty folder whose entries replace their namesakes in `folder` when the block ends without an error.

    After an error `folder` is as it was. The next `staging` of the same folder clears up after a process that was killed, see `clear_up`.

    Raises:
        OSError: `folder` cannot be made or written; the disk is full.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    clear_up(folder)
    place, lock = _new(folder)
    with lock:
        try:
            yield place / "new"
        except BaseException as problem:
            shutil.rmtree(place, ignore_errors=True)
            if (
                isinstance(problem, OSError)
                and problem.errno is not None
                and problem.filename is None
            ):
                problem.filename = str(folder)  # a full disk does not name what was written
            raise
        place = place.rename(folder / place.name.replace(_WRITING, _COMPLETE, 1))
        _move(place, folder)
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a path to write a file or folder at, which replaces `path` when the block ends without an error. See `staging`."""
    path = Path(path)
    with staging(path.parent) as new:
        yield new / path.name


@contextmanager
def only_writer(folder: str | os.PathLike, wait_s: float = 0.0) -> Iterator[None]:
    """Makes `folder` if it is not there, and keeps other processes that ask for the same out of it while the block runs.

    Waits up to `wait_s` seconds for another process that is writing there. Clears up first, see `clear_up`.

    The lock ends with the process that holds it, so that a killed one blocks nobody.

    Raises:
        BlockingIOError: another process is writing into `folder`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock, end = _lock_of(folder), time.monotonic() + wait_s
    while (held := _claim(lock)) is None and time.monotonic() < end:
        time.sleep(0.05)
    if held is None:
        raise BlockingIOError(
            f"{str(folder)!r}: another process is writing into this folder. Wait until it ends, or choose another."
        )
    with held:
        try:
            clear_up(folder)
            yield
        finally:
            lock.unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    """Beside the folder, as some formats do not like what is not theirs in it; inside where that cannot be written."""
    whole = folder.resolve()
    return (
        whole.parent / f".{whole.name}{_LOCK}"
        if os.access(whole.parent, os.W_OK)
        else whole / _LOCK
    )


def is_bookkeeping(path: Path) -> bool:
    """Whether `path` is one of the hidden entries that this module makes in a folder that is being written."""
    return path.name == _LOCK or path.name.startswith((_WRITING, _COMPLETE))


def _claim(lock: Path) -> BinaryIO | None:
    """The file `lock`, open and locked; None when another process has locked it."""
    while True:
        file = lock.open("ab")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:  # a file system without locks
            return file
        try:
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                return file
        except FileNotFoundError:
            pass
        file.close()  # whoever held it has removed it meanwhile


def _new(folder: Path) -> tuple[Path, BinaryIO]:
    """A staging folder with its lock. Made again when another process took it for a dead one's before it was locked."""
    while True:
        place = Path(tempfile.mkdtemp(dir=folder, prefix=_WRITING))
        try:
            lock = _claim(place / _LOCK)
            if lock is not None:
                (place / "new").mkdir()
                return place, lock
        except FileNotFoundError:
            continue
        except OSError:
            shutil.rmtree(place, ignore_errors=True)
            raise


def clear_up(folder: Path) -> None:
    """Clears up after processes that were killed while they wrote into `folder`, where it is there.

    Removes what they had half-written, and moves into place what was complete. What a living process writes has a lock and stays.
    """
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        left = [
            folder / entry.name
            for entry in entries
            if entry.name.startswith((_WRITING, _COMPLETE)) and entry.is_dir()
        ]
    for place in left:
        try:
            lock = _claim(place / _LOCK)
        except OSError:
            continue
        if lock is not None:
            with lock:
                if place.name.startswith(_COMPLETE):
                    _move(place, folder)
                shutil.rmtree(place, ignore_errors=True)


def _move(place: Path, folder: Path) -> None:
    """Moves what is complete in the staging folder `place` into `folder`. A second time it goes on where the first ended."""
    (place / "old").mkdir(exist_ok=True)
    for entry in sorted(
        (place / "new").glob("*")
    ):  # no folder: the first was killed when all had been moved
        target = folder / entry.name
        if target.exists() and (
            target.is_dir() or entry.is_dir()
        ):  # neither replaces a folder, nor a folder a file
            target.rename(place / "old" / entry.name)
        entry.replace(target)
