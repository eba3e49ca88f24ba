"""Kills computations at random moments, resumes them, and compares the files bitwise.

`python -m tests.attacks.kills --n 100` prints one line per job. The line gives the number of kills,
the number of kills before the end of the job, and the differences from an uninterrupted run. Half
of the kills come after a random time. The others come when a file is renamed, created or removed,
so that many kills find incomplete files.
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

sys.path.insert(0, str(Path(__file__).parents[1]))  # to import helper modules in tests/

from attacks.jobs import JOBS, contents

# Audit events of Python that change files. Opening a file for writing also counts.
_CHANGES = (
    "os.rename",
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.truncate",
    "tempfile.mkdtemp",
    "shutil.rmtree",
)
# Modules that the parent imports once, so that every forked process starts fast.
_PRELOAD = (
    "jax",
    "flax.nnx",
    "jaxasr",
    "interventions",
    "experiments.cli",
    "experiments.store",
    "experiments.studies.reproduce",
    "pandas",
    "experiments.analyses.patch",
    "experiments.pages.patch_page",
    "experiments.analyses.probe",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
)
_FAILED = 3  # exit code of a job that raised an error


class KillAtChange:
    """Counts the changes of files in one folder, and kills the process at one of them.

    Args:
        folder: the folder.
        kill_at: number of the change at which the process is killed. None: never.
        counted: the number of changes so far, which the parent process reads.
    """

    def __init__(self, folder: Path, kill_at: int | None, counted: Any):
        self.folder, self.kill_at, self.counted = os.fspath(folder), kill_at, counted

    def __call__(self, event: str, arguments: tuple) -> None:
        writes = (
            event == "open"
            and isinstance(arguments[2], int)
            and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        if (event in _CHANGES or writes) and any(
            self.folder in str(path) for path in arguments[:2]
        ):
            self.counted.value += 1
            if self.counted.value == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


def _child(
    job: str, folder: Path, log: Path, kill_at: int | None, counted: Any, start: Any
) -> None:
    """Runs a job in a new process, with its output in the file `log`."""
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from experiments import compile_cache

    compile_cache.enable()
    sys.addaudithook(KillAtChange(folder, kill_at, counted))
    start.value = time.monotonic()
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
    """Runs a job in a process that is killed `after` seconds or at change `kill_at` of a file.

    Returns:
        The exit code (-9 if the process was killed), the seconds, and the changes of files.
    """
    context = multiprocessing.get_context("forkserver")
    counted, start = context.Value("l", 0, lock=False), context.Value("d", 0.0, lock=False)
    process = context.Process(target=_child, args=(job, folder, log, kill_at, counted, start))
    process.start()
    # `after` counts from the start of the job, not from that of the process.
    while not start.value and process.is_alive():
        time.sleep(0.002)
    process.join(after if after is not None else 600)
    seconds = time.monotonic() - start.value
    if process.is_alive():
        process.kill()
        process.join()
    return int(process.exitcode or 0), seconds, counted.value


def trials(
    job: str, n: int, scratch: Path, seed: int = 0, timed: bool = True
) -> Iterator[tuple[bool, str]]:
    """Kills and resumes a job `n` times.

    Args:
        job: name of the job.
        n: number of kills.
        scratch: folder for all files.
        seed: random seed.
        timed: kills every other trial after a random time, and the rest at a change of a file.
            False: kills every trial at a change of a file.

    Yields:
        Whether the kill came before the job's end, and the fault of the resumed job, or "".
    """
    root, log, rng = scratch / job, scratch / f"{job}.log", random.Random(seed)
    (root / "whole").mkdir(parents=True)
    for _ in range(1 + timed):  # the second run reuses compiled programs, as the trials do
        shutil.rmtree(root / "whole")
        (root / "whole").mkdir()
        code, seconds, changes = run(job, root / "whole", log)
        if code != 0:
            raise RuntimeError(f"{job}: the uninterrupted run failed:\n{log.read_text()[-2000:]}")
    expected = contents(root / "whole")
    for trial in range(n):
        folder = root / f"trial-{trial}"
        folder.mkdir()
        moment = (
            {"after": rng.uniform(0, seconds)}
            if timed and trial % 2
            else {"kill_at": rng.randint(1, changes)}
        )
        killed = run(job, folder, log, **moment)[0] == -signal.SIGKILL
        code = run(job, folder, log)[0]
        yield killed, _describe_fault(code, expected, folder, log, moment)
        shutil.rmtree(folder)


def _describe_fault(
    code: int, expected: dict[str, object], folder: Path, log: Path, moment: dict[str, float]
) -> str:
    """Returns the fault of a job that was killed at `moment` and resumed, or ""."""
    if code != 0:
        return f"{moment}: did not resume: {log.read_text().strip().splitlines()[-1][:300]}"
    actual = contents(folder)
    if hidden := [
        str(file.relative_to(folder))
        for file in folder.rglob(".*")
        if file.name not in (".zattrs", ".zarray", ".zgroup")
    ]:
        return f"{moment}: left behind: {', '.join(hidden[:3])}"
    if different := [
        name for name in sorted({*actual, *expected}) if actual.get(name) != expected.get(name)
    ]:
        return f"{moment}: differ: {', '.join(different[:3])}"
    return ""


def preload(modules: Sequence[str] = _PRELOAD) -> None:
    """Imports libraries before processes are forked."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(modules))


def main() -> None:
    parser = argparse.ArgumentParser(description="Kills and resumes computations.")
    parser.add_argument("--n", type=int, default=100, help="number of kills, over all jobs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(JOBS), choices=list(JOBS))
    options = parser.parse_args()
    preload()
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        for i, job in enumerate(options.kinds):
            n = options.n // len(options.kinds) + (i < options.n % len(options.kinds))
            start = time.monotonic()
            results = list(trials(job, n, Path(scratch), options.seed))
            faults = [text for _, text in results if text]
            killed, seconds = sum(killed for killed, _ in results), time.monotonic() - start
            line = f"{job:<10} {n:3} trials, {killed:3} killed before the end, {len(faults)} differ"
            print(f"{line}, {seconds:.0f} s", *faults, sep="\n    ", flush=True)
            failed = failed or bool(faults)
    sys.exit(failed)


if __name__ == "__main__":
    main()
