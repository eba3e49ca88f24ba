"""Options and recordings of small activation stores, and the files that a store consists of."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SITE = "encoder.resid_post"
LENGTHS_S = [0.5, 1.01, 0.3, 2.0, 0.7]  # seconds of each recording
# Options of a store with every kind of variable.
STORE_OPTIONS = {
    "sites": (SITE, "encoder.mlp.post", "encoder.ln_post"),
    "pool": ("speech", "all", "last", 3, "frames"),
    "batch": 2,
}


def variable_files(path: Path) -> dict[str, bytes]:
    """Reads the files of all variables, without the group's attributes.

    The attributes contain times and commands, which differ between equal stores.
    """
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.parent != path
    }


def kill_after_the_first_batch(code: str, *arguments: str, path: Path) -> None:
    """Runs Python code that writes a store at `path`, and kills it once a batch is written."""
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths})
    try:
        status = path / "status" / "c" / "0"  # written with the first batch
        deadline = time.monotonic() + 120
        while not status.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
