"""Files appear complete or not at all, JSON is strict, and texts cannot act on a terminal."""

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import interventions
from interventions.storage.atomic import (
    is_lock_or_staging,
    only_writer,
    remove_stale_lock,
    replacing,
    staging,
)
from interventions.storage.text_files import printable, to_json, write_json, write_text


def texts_by_path(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): file.read_text()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def write_half_and_fail(path: Path) -> None:
    """Writes half of a file, then raises TypeError."""
    path.write_text("half")
    raise TypeError


def test_after_a_failure_only_the_old_file_exists(tmp_path):
    path = write_text(tmp_path / "new" / "a.txt", "old")
    with pytest.raises(TypeError), replacing(path) as new:
        write_half_and_fail(new)
    assert texts_by_path(path.parent) == {"a.txt": "old"}
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


def test_other_users_can_read_a_file(tmp_path):
    assert write_text(tmp_path / "a", "x").stat().st_mode & 0o444 == 0o444


def test_all_entries_move_into_place_together_and_replace_folders(tmp_path):
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / "old").write_text("old")
    (tmp_path / "a").write_text("old")
    with pytest.raises(TypeError), staging(tmp_path) as new:
        write_half_and_fail(new / "a")
    assert texts_by_path(tmp_path) == {"a": "old", "bank/old": "old"}
    with staging(tmp_path) as new:
        (new / "a").write_text("new")
        (new / "bank").mkdir()
        (new / "bank" / "new").write_text("new")
        assert texts_by_path(tmp_path)["a"] == "old"
    assert texts_by_path(tmp_path) == {"a": "new", "bank/new": "new"}
    assert not list(tmp_path.glob(".*"))


# Replaces the packages by empty modules, so that a child process imports `atomic` without JAX.
_IMPORT_ATOMIC = """
import os, signal, sys
from pathlib import Path
for name in ("interventions", "interventions.storage"):
    package = sys.modules[name] = type(sys)(name)
    package.__path__ = [str(Path(sys.argv[3]).parent.joinpath(*name.split(".")))]
from interventions.storage import atomic
"""
# Writes two entries, and kills itself at the given moment.
_KILLED_WRITER = (
    _IMPORT_ATOMIC
    + """
folder, when = Path(sys.argv[1]), sys.argv[2]
if when == "between":  # all entries are written, and one of two is in its place
    replace = Path.replace
    def once(self, target):
        replace(self, target)
        os.kill(os.getpid(), signal.SIGKILL)
    Path.replace = once
if when == "removing":  # all entries are in their place, and the staging folder is being removed
    import shutil
    rmtree = shutil.rmtree
    def half(place, **_):
        rmtree(place / "new")
        os.kill(os.getpid(), signal.SIGKILL)
    shutil.rmtree = half
with atomic.staging(folder) as new:
    (new / "a").write_text("new")
    (new / "b").mkdir()
    (new / "b" / "c").write_text("new")
    if when == "writing":
        os.kill(os.getpid(), signal.SIGKILL)
"""
)


@pytest.mark.parametrize(
    ("when", "left"), [("writing", "old"), ("between", "new"), ("removing", "new")]
)
def test_the_next_write_cleans_up_after_a_killed_one(tmp_path, when, left):
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_text("old")
    package = str(Path(interventions.__file__).parent)
    command = [sys.executable, "-c", _KILLED_WRITER, str(tmp_path), when, package]
    process = subprocess.run(command, timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert list(tmp_path.glob(".*"))
    write_text(tmp_path / "other", "x")
    assert texts_by_path(tmp_path) == {"a": left, "b/c": left, "other": "x"}
    assert not list(tmp_path.glob(".*"))


def test_the_staging_folder_of_a_running_writer_stays(tmp_path):
    with staging(tmp_path) as first:
        (first / "a").write_text("first")
        write_text(tmp_path / "a", "second")
        assert (first / "a").read_text() == "first"
    assert texts_by_path(tmp_path) == {"a": "first"}


@pytest.mark.parametrize(("name", "expected"), [
    (".lock", True), (".out.lock", True), (".writing-a1", True), (".complete-a1", True),
    ("out.lock", False), ("lock", False), (".out", False), ("poetry.lock", False),
])  # fmt: skip
def test_locks_and_staging_folders_are_recognised_by_name(name, expected):
    assert is_lock_or_staging(Path("folder", name)) is expected


def test_the_lock_in_use_is_recognised(tmp_path):
    with only_writer(tmp_path / "out"):
        assert [is_lock_or_staging(path) for path in tmp_path.glob(".*")] == [True]


def test_a_second_writer_is_refused(tmp_path):
    with only_writer(tmp_path / "out"):
        with (
            pytest.raises(BlockingIOError, match=r"out'.*another process is writing"),
            only_writer(tmp_path / "out"),
        ):
            pass
        with only_writer(tmp_path / "other"):
            pass
    with only_writer(tmp_path / "out"):
        pass
    assert not list(tmp_path.glob(".*"))


# Holds the lock of a folder until its standard input closes.
_LOCK_HOLDER = (
    _IMPORT_ATOMIC
    + """
with atomic.only_writer(Path(sys.argv[1])):
    print(flush=True)
    sys.stdin.read()
"""
)


@pytest.mark.parametrize("finished", [False, True])
def test_the_lock_of_a_killed_process_blocks_no_other(tmp_path, finished):
    command = [
        sys.executable,
        "-c",
        _LOCK_HOLDER,
        str(tmp_path / "out"),
        "",
        str(Path(interventions.__file__).parent),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(BlockingIOError), only_writer(tmp_path / "out"):
            pass
        remove_stale_lock(tmp_path / "out")
        assert list(tmp_path.glob(".*"))  # a lock in use is not removed
        holder.kill()
    if finished:
        remove_stale_lock(tmp_path / "out")
    else:
        with only_writer(tmp_path / "out"):
            pass
    assert not list(tmp_path.glob(".*"))


@pytest.fixture
def _small_files_only():
    """Limits files to 1,000 bytes. Larger writes fail like on a full disk, with another errno."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("_small_files_only")
def test_a_full_disk_leaves_the_old_file_and_names_the_folder(tmp_path):
    path = write_text(tmp_path / "a", "old")
    with pytest.raises(OSError, match=re.escape(str(tmp_path))) as problem:
        write_text(path, "x" * 100_000)
    assert problem.value.errno == errno.EFBIG
    assert texts_by_path(tmp_path) == {"a": "old"}
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=str(tmp_path)):
        write_text(tmp_path / "a", "x")


def test_json_encodes_arrays_and_replaces_nan_and_infinities():
    value = {
        "a": np.float32(0.5),
        "b": np.array([[1.0, np.nan]]),
        3: (True, None, np.int64(4), np.bool_(True)),
        "p": float("-inf"),
    }
    assert json.loads(to_json(value)) == {
        "a": 0.5,
        "b": [[1.0, None]],
        "3": [True, None, 4, True],
        "p": None,
    }


HOSTILE = "a\x1b[31m\x1b]0;title\x07 \u202egnp\u2066 \x9b2J \udc80\ud800 b\r\n"


def test_hidden_characters_are_escaped(tmp_path):
    assert (
        printable(HOSTILE) == r"a\x1b[31m\x1b]0;title\x07 \u202egnp\u2066 \x9b2J \udc80\ud800 b\r\n"
    )
    assert printable("one\ntwo\tü 好 \u200d", keep_lines=True) == "one\ntwo\tü 好 \u200d"
    text = to_json({HOSTILE: [HOSTILE]})
    assert text.isprintable()
    assert json.loads(text) == {HOSTILE: [HOSTILE]}
    assert json.loads(write_json(tmp_path / "a.json", HOSTILE).read_text("utf-8")) == HOSTILE
    assert write_text(tmp_path / "a.txt", "\udc80").read_text("utf-8") == r"\udc80"


def test_without_locks_of_the_system_everything_imports_and_writes(tmp_path):
    code = (
        "import sys; sys.modules['fcntl'] = None\n"  # as on Windows
        "import jaxasr, interventions\n"
        "from interventions.storage import atomic, text_files\n"
        "assert atomic.fcntl is None\n"
        f"with atomic.only_writer({str(tmp_path)!r}):\n"
        f"    text_files.write_text({str(tmp_path / 'a.txt')!r}, 'written')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert texts_by_path(tmp_path) == {"a.txt": "written"}
