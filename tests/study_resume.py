"""Shows that studies give the same numbers again, also if they are killed and resumed.

    python -m tests.study_resume                  # all studies
    python -m tests.study_resume E4 E6 --model base
    python -m tests.study_resume E7 --data experiments/assets/speech

Each study runs twice with the preset "quick" and the same seed, in separate processes and folders.
The second run is killed (SIGKILL) when half of its items are stored, and the same command is run
again. Arrays, findings and numbers of both must be equal to the bit. Mined loops are computed
again, too; only compiled programs are kept. The exit status is 1 if a study differs.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import xarray as xr

from experiments.studies.registry import study_modules
from interventions.storage.results import load_result

COMPARED = ("findings", "numbers", "settings")  # parts of result.json
Arrays = dict[str, xr.Variable]
_POLL_S = 0.02
_LIMIT_S = 1800  # for one run


def command(name: str, options: list[str], out: Path) -> list[str]:
    """Returns the command of one run."""
    start = [sys.executable, "-m", "experiments.cli", "reproduce", name, "--quick"]
    return [*start, *options, "--out", str(out)]


def run(arguments: list[str], log: Path) -> None:
    """Runs a command to its end.

    Raises:
        CalledProcessError: the command failed. Its output is in `log`.
    """
    with log.open("a") as file:
        subprocess.run(arguments, check=True, stdout=file, stderr=file, timeout=_LIMIT_S)


def run_until(arguments: list[str], items: Path, n: int, log: Path) -> int | None:
    """Kills a command when n items are stored.

    Returns:
        The number of items that were stored then. None if the command ended before.
    """
    with log.open("a") as file:
        process = subprocess.Popen(arguments, stdout=file, stderr=file, start_new_session=True)
    start = time.perf_counter()
    while process.poll() is None and time.perf_counter() - start < _LIMIT_S:
        if count_items(items) >= n:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return count_items(items)
        time.sleep(_POLL_S)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return None


def count_items(folder: Path) -> int:
    """Returns the number of stored items."""
    return sum(1 for _ in folder.glob("items/**/*.part"))


def differences(first: Path, second: Path) -> list[str]:
    """Returns the names of arrays and parts of results that differ."""
    one, other = (_read_arrays(folder) for folder in (first, second))
    names = sorted({*one, *other})
    differing = [name for name in names if not _is_equal(one, other, name)]
    results = [json.loads((folder / "result.json").read_text()) for folder in (first, second)]
    return differing + [part for part in COMPARED if results[0][part] != results[1][part]]


def _read_arrays(folder: Path) -> Arrays:
    arrays = load_result(folder / "arrays.nc")
    assert isinstance(arrays, xr.Dataset)
    return {str(name): variable for name, variable in arrays.variables.items()}


def _is_equal(one: Arrays, other: Arrays, name: str) -> bool:
    return name in one and name in other and one[name].equals(other[name])


def check(name: str, options: list[str], folder: Path) -> dict[str, Any]:
    """Runs a study twice, the second time with an interruption, and compares the results."""
    whole, resumed, log = folder / "whole", folder / "resumed", folder / "log.txt"
    loops = Path(os.environ["JAXASR_CACHE"]) / "loops"
    run(command(name, options, whole), log)
    n_items = count_items(whole / name)
    shutil.rmtree(loops, ignore_errors=True)
    arguments = command(name, options, resumed)
    killed_at = run_until(arguments, resumed / name, max(1, n_items // 2), log)
    run(arguments, log)
    return {
        "study": name,
        "items": n_items,
        "killed at": killed_at,
        "differ": differences(whole / name, resumed / name),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Compares a study with a resumed one.")
    parser.add_argument("studies", nargs="*", default=list(study_modules()))
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", action="append", default=[], help="as of `jaxasr reproduce`")
    given = parser.parse_args()
    options = ["--model", given.model, "--seed", str(given.seed)]
    options += [part for path in given.data for part in ("--data", path)]
    is_equal = True
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("JAXASR_CACHE", str(Path(folder, "cache")))
        for name in given.studies:
            start = time.perf_counter()
            own = Path(folder, name)
            own.mkdir()
            row = check(name, options, own)
            row["seconds"] = round(time.perf_counter() - start)
            is_equal &= not row["differ"] and row["killed at"] is not None
            print(json.dumps(row), flush=True)
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
