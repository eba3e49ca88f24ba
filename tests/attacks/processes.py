"""Runs computations in two processes, kills one of them, and compares with a single process.

`python -m tests.attacks.processes` prints one line per job and victim. The processes are connected
by `jax.distributed`, as a launcher would start them. The victim is killed by SIGKILL at a change of
a file. Then the processes that ended are started again, as a launcher would.
"""

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1]))  # to import helper modules in tests/

from attacks import jobs
from attacks.kills import KillAtChange

COUNT = 2  # processes
_MODULE = "tests.attacks.processes"
_LIMIT_S = 600  # longest time in seconds of one job
# Folders with the parts of processes, which a single process does not have.
_PARTS = ("cells", "items", "activations", "store", "sweep")


def library(folder: Path) -> None:
    """Sweeps five recordings and extracts a store. The first process saves what it reads back."""
    import jax
    import numpy as np
    from golden.tiny import tiny_model
    from small_speech import small_recogniser, tones
    from small_stores import LENGTHS_S, SITE, STORE_OPTIONS

    import interventions as iv
    from experiments import store
    from jaxasr.processes import this_process

    process, model = this_process(), tiny_model()
    mel = jax.random.normal(jax.random.key(1), (2, 5, 80, 22))
    tokens = jax.random.randint(jax.random.key(2), (5, 6), 0, 101)
    target, source = (iv.Run(mel=x, tokens=tokens) for x in mel)
    options = {"site": "decoder.attn.z", "over": ("layer", "head", "position"), "recordings": 1}
    metric = iv.logit_diff(3, 5)
    iv.sweep(
        model, target, source, metric=metric, store=folder / "sweep", process=process, **options
    )
    store.extract(
        small_recogniser(), tones(LENGTHS_S), folder / "store", process=process, **STORE_OPTIONS
    )
    if process.is_first:
        cells = iv.open_sweep(folder / "sweep", process=process)
        activations = store.open(folder / "store", process=process)
        activations.verify()
        frames, offsets = activations.frames(SITE)
        arrays = {"cells": cells.values, "baseline": cells.baseline, "source": cells.source}
        arrays |= {"frames": frames, "offsets": offsets, "mel": activations.mel()}
        arrays |= {pool: activations.activations(SITE, pool) for pool in ("speech", "last", "3")}
        np.savez(folder / "done.npz", ids=np.array(activations.ids), **arrays)


def patch(folder: Path) -> None:
    """Runs `jaxasr patch` for one token of three recordings."""
    from small_speech import tone, write

    paths = [folder.parent / f"tone-{hz}.flac" for hz in (300, 400, 500)]
    for path, hz in zip(paths, (300, 400, 500)):
        if not path.exists():
            write(path, tone(hz, 0.6))
    options = (
        "--source snr:0 --site decoder.mlp_out --over layer,position --answer three --foil four "
        "--recordings 1"
    )
    texts = ["--text", "one two", "--out", str(folder / "out")]
    jobs._run("patch", *map(str, paths), *options.split(), *texts)


JOBS: dict[str, Callable[[Path], None]] = {
    "library": library,
    "patch": patch,
    "texts": jobs.texts,
    "probe": jobs.probe,
    "reproduce": jobs.reproduce,
}


def results(folder: Path) -> dict[str, object]:
    """Returns the contents of all files except times, provenance and the parts of processes."""
    return {
        name: content
        for name, content in jobs.contents(folder).items()
        # `command.json` also lists the folder of the parts of a single process.
        if not name.endswith(".error")
        and Path(name).name != "command.json"
        and not any(part.split("-")[0] in _PARTS for part in Path(name).parts[:-1])
    }


class Launcher:
    """Starts the processes of one job in a folder."""

    def __init__(self, job: str, folder: Path, count: int):
        folder.mkdir(parents=True)
        self.job, self.folder, self.count, self.port = job, folder, count, _free_port()

    def start(self, index: int, kill_at: int = 0) -> subprocess.Popen:
        """Starts one process, which kills itself at its change `kill_at` of a file."""
        distributed = f"127.0.0.1:{self.port},{self.count},{index}" if self.count > 1 else "off"
        log = self.folder.parent / f"{self.folder.name}-{index}.log"
        with log.open("a") as output:
            job = ("--run", self.job, "--folder", str(self.folder), "--kill-at", str(kill_at))
            return subprocess.Popen(
                [sys.executable, "-m", _MODULE, *job],
                env=os.environ | {"JAXASR_DISTRIBUTED": distributed, "JAX_PLATFORMS": "cpu"},
                stdout=output,
                stderr=output,
                cwd=Path(__file__).parents[2],
            )

    def run(self, victim: int | None = None, kill_at: int = 0) -> bool:
        """Runs all processes, and starts those again that are killed.

        Returns:
            Whether a process was killed.

        Raises:
            RuntimeError: a process ended early twice, or is too slow.
        """
        running = {i: self.start(i, kill_at * (i == victim)) for i in range(self.count)}
        killed, restarts, deadline = False, 0, time.monotonic() + _LIMIT_S
        while running:
            time.sleep(0.1)
            for index, process in list(running.items()):
                if process.poll() is None and time.monotonic() < deadline:
                    continue
                del running[index]
                if process.returncode == 0:
                    continue
                killed |= process.returncode == -signal.SIGKILL
                restarts += 1
                if victim is None or restarts > self.count or process.returncode is None:
                    process.kill()
                    for other in running.values():
                        other.kill()
                    raise RuntimeError(f"{self.job}: process {index}: {process.returncode}")
                # Without the first process, which accepts connections, JAX ends the others.
                if index == 0:
                    for other in list(running):
                        running.pop(other).kill()
                        running[other] = self.start(other)
                running[index] = self.start(index)
        return killed


def _free_port() -> int:
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        return connection.getsockname()[1]


def compare(job: str, scratch: Path, victim: int | None, kill_at: int) -> tuple[bool, list[str]]:
    """Returns whether a process was killed, and the files that differ from a single process."""
    whole = scratch / f"{job}-whole"
    if not whole.exists():
        Launcher(job, whole, 1).run()
    folder = scratch / f"{job}-{victim}-{kill_at}"
    killed = Launcher(job, folder, COUNT).run(victim, kill_at)
    expected, actual = results(whole), results(folder)
    assert expected, f"{job} wrote no files"
    return killed, [
        name for name in sorted({*expected, *actual}) if expected.get(name) != actual.get(name)
    ]


def _run_job(job: str, folder: Path, kill_at: int) -> None:
    from experiments import cluster, compile_cache

    cluster.connect(os.environ["JAXASR_DISTRIBUTED"])
    compile_cache.enable()
    if kill_at:
        sys.addaudithook(KillAtChange(folder, kill_at, SimpleNamespace(value=0)))
    JOBS[job](folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs computations in two processes.")
    parser.add_argument("--kinds", nargs="*", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", choices=list(JOBS), help="run one process of a job")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--kill-at", type=int, default=0)
    parser.add_argument("--victims", nargs="*", type=int, default=(None, 1, 0))
    options = parser.parse_args()
    if options.run:
        return _run_job(options.run, options.folder, options.kill_at)
    failed, rng = False, random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        for job in options.kinds:
            for victim in options.victims:
                start, kill_at = time.monotonic(), rng.randint(5, 20)
                killed, differing = compare(job, Path(scratch), victim, kill_at)
                line = f"{job:<10} victim {victim}, killed {killed}, {len(differing)} differ"
                print(f"{line}, {time.monotonic() - start:.0f} s", *differing[:3], flush=True)
                failed = failed or bool(differing) or killed != (victim is not None)
    sys.exit(failed)


if __name__ == "__main__":
    main()
