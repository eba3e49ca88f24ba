"""The worker process reports crashes, hangs and too much memory."""

import os
import time

import pytest

from attacks.limits import Worker


@pytest.fixture(scope="module")
def worker():
    with Worker({"MARK": "7"}, seconds=3, extra_bytes=100 << 20) as worker:
        yield worker


def test_a_call_returns_or_raises(worker):
    assert (worker.run(os.getenv, "MARK").value, os.getenv("MARK")) == ("7", None)
    raised = worker.run(int, "x")
    assert (raised.kind, raised.value[:11]) == ("raised", "ValueError:")


def test_the_process_is_replaced_after_a_crash_a_hang_and_too_much_memory(worker):
    assert worker.run(os.abort).kind == "crashed"
    assert worker.run(os._exit, 0).kind == "crashed"
    assert worker.run(time.sleep, 60).kind == "hung"
    assert worker.run(bytearray, 300 << 20).kind == "memory"
    small = worker.run(bytearray, 10 << 20)
    assert small.kind == "returned"
    assert 10 << 20 <= small.extra_bytes < 100 << 20
