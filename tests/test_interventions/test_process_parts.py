"""Processes find each other's parts by files, and stop waiting for a process that failed."""

import threading
import time

import pytest

from interventions.storage.process_parts import (
    WAIT_VARIABLE,
    OtherProcesses,
    complete_parts,
    find_parts,
    part_folder,
)
from jaxasr.processes import Process

FIRST, SECOND = Process(0, 2), Process(1, 2)


def test_a_single_process_has_no_subfolder(tmp_path):
    assert part_folder(tmp_path, Process()) == tmp_path
    assert part_folder(tmp_path, SECOND) == tmp_path / "process-1-of-2"


def test_other_folders_are_not_parts(tmp_path):
    for name in ("process-0-of-2", "process-2-of-2", "process-1", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "process-1-of-2").write_text("a file")
    assert find_parts(tmp_path) == {FIRST: tmp_path / "process-0-of-2"}
    assert find_parts(tmp_path / "missing") == {}


def test_the_parts_of_one_number_of_processes_must_be_complete(tmp_path):
    for process in (FIRST, Process(0, 3), SECOND):
        part_folder(tmp_path, process).mkdir()
    (tmp_path / "process-0-of-2" / "done").touch()

    def is_complete(part):
        return (part / "done").exists()

    with pytest.raises(ValueError, match="process-1-of-2, process-0-of-3, process-1-of-3, proc"):
        complete_parts(tmp_path, is_complete)
    (tmp_path / "process-1-of-2" / "done").touch()
    assert [part.name for part in complete_parts(tmp_path, is_complete)] == [
        "process-0-of-2",
        "process-1-of-2",
    ]
    with pytest.raises(FileNotFoundError, match="expected the parts of processes, found none"):
        complete_parts(tmp_path / "missing", is_complete)


def test_waiting_ends_when_the_part_is_complete(tmp_path):
    file, others = tmp_path / "done", OtherProcesses(tmp_path, FIRST, wait_s=60)
    threading.Timer(0.1, file.touch).start()
    others.wait(SECOND, file.exists)
    assert file.exists()


def test_waiting_ends_after_a_time_without_new_files(tmp_path):
    part = part_folder(tmp_path, SECOND)
    part.mkdir()
    others, start = OtherProcesses(tmp_path, FIRST, wait_s=0.5), time.monotonic()
    # A new file shows that the process is running, so the time starts again.
    threading.Timer(0.3, (part / "item").touch).start()
    with pytest.raises(TimeoutError, match=r"process-1-of-2: wrote no file .* for 0.5 s"):
        others.wait(SECOND, lambda: False)
    assert time.monotonic() - start >= 0.75


def test_an_error_of_another_process_ends_the_wait(tmp_path):
    others = OtherProcesses(tmp_path, FIRST, wait_s=60)
    with pytest.raises(ZeroDivisionError), OtherProcesses(tmp_path, SECOND).reporting_failure():
        raise ZeroDivisionError("by zero")
    with pytest.raises(ChildProcessError, match="process-1-of-2 failed: ZeroDivisionError: by"):
        others.wait(SECOND, lambda: False)


def test_an_error_of_an_earlier_run_is_ignored(tmp_path):
    (tmp_path / "process-1-of-2.error").write_text("earlier")
    others = OtherProcesses(tmp_path, FIRST, wait_s=0.1)
    with pytest.raises(TimeoutError):
        others.wait(SECOND, lambda: False)
    with OtherProcesses(tmp_path, SECOND).reporting_failure():
        assert not (tmp_path / "process-1-of-2.error").exists()


def test_a_single_process_leaves_no_error_file(tmp_path):
    with (
        pytest.raises(ValueError, match="x"),
        OtherProcesses(tmp_path, Process()).reporting_failure(),
    ):
        raise ValueError("x")
    assert not list(tmp_path.iterdir())


def test_the_environment_sets_the_time(tmp_path, monkeypatch):
    monkeypatch.setenv(WAIT_VARIABLE, "7")
    assert OtherProcesses(tmp_path, FIRST).wait_s == 7
    monkeypatch.setenv(WAIT_VARIABLE, "long")
    with pytest.raises(ValueError, match="JAXASR_WAIT_S: expected seconds, got 'long'"):
        OtherProcesses(tmp_path, FIRST)
