"""Kills long computations at random moments, takes them up again, and compares what is left with an uninterrupted run to the bit.

`python -m tests.attacks.kills --n 100` prints one line a kind: kills, how many of them came before the end, and what differed. Half of
the kills come after a random time, half at a random change of a file (a rename, a new file, a removed one), so that the moments in
which something is half-written are met as often as the others.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the tests' own modules are

from attacks.jobs import JOBS, contents

_CHANGES = (
    "os.rename",
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.truncate",
    "tempfile.mkdtemp",
    "shutil.rmtree",
)
_PRELOAD = (
    *(
        "jax",
        "flax.nnx",
        "jaxasr",
        "interventions",
        "experiments.cli",
        "experiments.store",
        "experiments.studies.reproduce",
        "pandas",
    ),
    *(
        "experiments.patch",
        "experiments.pages.patch_page",
        "experiments.probe",
        "matplotlib.figure",
        "matplotlib.backends.backend_agg",
    ),
)
_FAILED = 3


class Changes:
    """Counts the changes of files that this process makes in one folder, and kills the process at one of them."""

    def __init__(self, folder: Path, kill_at: int | None, counted: Any):
        self.folder, self.kill_at, self.counted = os.fspath(folder), kill_at, counted

    def __call__(self, event: str, arguments: tuple) -> None:
        writes = (
            event == "open"
            and isinstance(arguments[2], int)
            and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        if (event in _CHANGES or writes) and any(self.folder in str(one) for one in arguments[:2]):
            self.counted.value += 1
            if self.counted.value == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


def _child(
    job: str, folder: Path, log: Path, kill_at: int | None, counted: object, began: object
) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from experiments import compile_cache

    compile_cache.enable()
    sys.addaudithook(Changes(folder, kill_at, counted))
    began.value = time.monotonic()
    try:
        JOBS[job](folder)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(_FAILED)
    os._exit(0)


def run(
    job: str, folder: Path, log: Path, *, after: float | None = None, kill_at: int | None = None
) -> tuple[int, float, int]:
    """Runs a job in a process of its own, killed `after` seconds or at its `kill_at`th change of a file.

    Returns:
        The exit code (-9 when it was killed), the seconds it took, and the changes it made.
    """
    context = multiprocessing.get_context("forkserver")
    counted, began = context.Value("l", 0, lock=False), context.Value("d", 0.0, lock=False)
    process = context.Process(target=_child, args=(job, folder, log, kill_at, counted, began))
    process.start()
    while not began.value and process.is_alive():
        time.sleep(0.002)
    process.join(after if after is not None else 600)
    took = time.monotonic() - began.value
    if process.is_alive():
        process.kill()
        process.join()
    return int(process.exitcode), took, counted.value


def trials(
    job: str, n: int, scratch: Path, seed: int = 0, timed: bool = True
) -> Iterator[tuple[bool, str]]:
    """For each of `n` kills: whether it came before the end, and what was wrong after the job was taken up again, or "".

    timed: whether every other kill comes after a random time, not at a change of a file.
    """
    where, log, draw = scratch / job, scratch / f"{job}.log", random.Random(seed)
    (where / "whole").mkdir(parents=True)
    for _ in range(1 + timed):  # the second finds compiled programs, as the trials do
        shutil.rmtree(where / "whole")
        (where / "whole").mkdir()
        code, seconds, changes = run(job, where / "whole", log)
        if code != 0:
            raise RuntimeError(f"{job}: the uninterrupted run failed:\n{log.read_text()[-2000:]}")
    expected = contents(where / "whole")
    for trial in range(n):
        folder = where / f"trial-{trial}"
        folder.mkdir()
        how = (
            {"after": draw.uniform(0, seconds)}
            if timed and trial % 2
            else {"kill_at": draw.randint(1, changes)}
        )
        killed = run(job, folder, log, **how)[0] == -signal.SIGKILL
        code = run(job, folder, log)[0]
        yield killed, _wrong(code, expected, folder, log, how)
        shutil.rmtree(folder)


def _wrong(
    code: int, expected: dict[str, object], folder: Path, log: Path, how: dict[str, float]
) -> str:
    if code != 0:
        return f"{how}: did not go on: {log.read_text().strip().splitlines()[-1][:300]}"
    found = contents(folder)
    if hidden := [
        str(file.relative_to(folder))
        for file in folder.rglob(".*")
        if file.name not in (".zattrs", ".zarray", ".zgroup")
    ]:
        return f"{how}: left behind: {', '.join(hidden[:3])}"
    if different := [
        name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)
    ]:
        return f"{how}: differ: {', '.join(different[:3])}"
    return ""


def preload(modules: Sequence[str] = _PRELOAD) -> None:
    """Lets every process start with the libraries in memory."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(modules))


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Kills long computations and compares what they resume to."
    )
    parser.add_argument("--n", type=int, default=100, help="kills, over all kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(JOBS), choices=list(JOBS))
    options = parser.parse_args()
    preload()
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        for i, job in enumerate(options.kinds):
            n = options.n // len(options.kinds) + (i < options.n % len(options.kinds))
            start = time.monotonic()
            found = list(trials(job, n, Path(scratch), options.seed))
            wrong = [text for _, text in found if text]
            killed, seconds = sum(killed for killed, _ in found), time.monotonic() - start
            said = f"{job:<10} {n:3} trials, {killed:3} killed before the end, {len(wrong)} differ, {seconds:.0f} s"
            print(said, *wrong, sep="\n    ", flush=True)
            failed = failed or bool(wrong)
    sys.exit(failed)


if __name__ == "__main__":
    main()
