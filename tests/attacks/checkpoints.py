"""Loads damaged and hostile checkpoints, and generates one token with each that loads.

    python -m tests.attacks.checkpoints --n 10000 --seed 0

A case is one damaged checkpoint. A worker process loads one case after the other. If the worker
does not answer, it is killed. The command prints a line for every kind of mutation. `--case 17`
runs case 17 alone, in the process of the command.
"""

import argparse
import collections
import contextlib
import dataclasses
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from attacks import checkpoint_mutations as mutations

# Limits for one case: seconds of processor time to load it, and MB of memory beyond its files.
MAX_LOADING_S, MAX_EXTRA_MB = 10.0, 1000.0
# Seconds to wait for the worker, which may import, load and compile on a busy machine.
MAX_ANSWER_S = 120.0
# "code": the file ran code. "nan": a generated token has no finite probability.
FAULTS = ("crash", "hang", "memory", "code", "nan")
COLUMNS = ("tried", "loaded", "refused", *FAULTS)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of one case: whether it loaded, its `FAULTS`, and the text of an error."""

    loaded: bool
    faults: tuple[str, ...] = ()
    detail: str = ""


def make_case(
    number: int, seed: int, originals: dict[str, mutations.Files]
) -> tuple[str, mutations.Files]:
    """Returns the kind and the files of case `number`. `originals` are from `originals()`."""
    kinds = [(form, kind) for form in originals for kind in mutations.MUTATIONS]
    form, kind = kinds[number % len(kinds)]
    files = mutations.MUTATIONS[kind](dict(originals[form]), np.random.default_rng([seed, number]))
    return f"{form}: {kind}", files


def _resident_mb(field: str) -> float:
    """Returns the memory of this process in MiB, now ("VmRSS") or at its peak ("VmHWM")."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def load_and_generate(folder: Path, compiling: bool = True) -> Outcome:
    """Loads a checkpoint, generates one token, and measures memory and time.

    Compiles a program if a checkpoint has new dimensions. With `compiling=False`, generates only
    from checkpoints with the dimensions `SMALL_CONFIG`.
    """
    import jaxasr

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of memory
    before, start, loaded = _resident_mb("VmRSS"), time.process_time(), False
    faults, detail, seconds = [], "", 0.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            asr = jaxasr.load(folder)
            loaded, seconds = True, time.process_time() - start
            if (compiling or asr.config == mutations.SMALL_CONFIG) and not _generates_finite(asr):
                faults.append("nan")
    except (ValueError, OSError) as refused:
        detail = str(refused)[:300]
    except BaseException:  # a panic in Rust does not derive from Exception
        faults.append("crash")
        detail = traceback.format_exc()[-1500:]
    files_mb = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    if _resident_mb("VmHWM") - before - files_mb > MAX_EXTRA_MB:
        faults.append("memory")
    if (seconds if loaded else time.process_time() - start) > MAX_LOADING_S:
        faults.append("hang")
    return Outcome(loaded, tuple(faults), detail)


def _generates_finite(asr) -> bool:
    """Returns whether a generated token has a finite probability."""
    import jaxasr

    config = asr.config
    mel = (
        np.random.default_rng(0)
        .normal(size=(1, config.n_mels, config.n_mel_frames))
        .astype(np.float32)
    )
    memory, _ = asr.model.encode(mel)
    generation = jaxasr.generate(
        asr.model,
        memory,
        np.array([[asr.tokenizer.special.sot]]),
        max_new_tokens=1,
        eot=asr.tokenizer.special.eot,
    )
    asr.tokenizer.decode(generation.tokens[0])
    return bool(np.isfinite(generation.logprobs).all())


def _serve(pipe: Connection, scratch: Path) -> None:
    """Loads each folder whose path arrives in `pipe`, and sends back its outcome."""
    from experiments import compile_cache

    compile_cache.enable()
    os.chdir(scratch)
    while True:
        pipe.send(load_and_generate(Path(pipe.recv())))


class Worker:
    """A process that loads one checkpoint after the other."""

    def __init__(self, scratch: Path) -> None:
        self.pipe, worker_end = multiprocessing.get_context("spawn").Pipe()
        self.process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(worker_end, scratch), daemon=True
        )
        self.process.start()
        worker_end.close()  # this process uses only its own end

    def __call__(self, folder: Path) -> Outcome:
        self.pipe.send(str(folder))
        if not self.pipe.poll(MAX_ANSWER_S):
            self.end()
            return Outcome(False, ("hang",))
        try:
            return self.pipe.recv()
        except EOFError:
            self.end()
            return Outcome(False, ("crash",), f"the process ended with {self.process.exitcode}")

    def end(self) -> None:
        self.process.kill()
        self.process.join()


def write_files(files: mutations.Files, folder: Path) -> Path:
    """Writes a checkpoint to a new folder."""
    folder.mkdir()
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    return folder


def run(n: int, seed: int) -> bool:
    """Runs `n` cases, prints a line per kind, and returns whether all are without fault."""
    originals, counts = mutations.originals(), collections.defaultdict(collections.Counter)
    scratch = Path(tempfile.mkdtemp(prefix="attack-"))
    worker, canary = Worker(scratch), scratch / mutations.CANARY
    for number in range(n):
        kind, files = make_case(number, seed, originals)
        folder = write_files(files, scratch / str(number))
        outcome = worker(folder)
        shutil.rmtree(folder)
        if not worker.process.is_alive():
            worker = Worker(scratch)
        if canary.exists():
            canary.unlink()
            outcome = dataclasses.replace(outcome, faults=(*outcome.faults, "code"))
        counts[kind].update(("tried", "loaded" if outcome.loaded else "refused", *outcome.faults))
        if outcome.faults:
            print(
                f"case {number}, {kind}: {', '.join(outcome.faults)}\n{outcome.detail}", flush=True
            )
    worker.end()
    shutil.rmtree(scratch)
    _print_table(counts)
    return not any(row[fault] for row in counts.values() for fault in FAULTS)


def _print_table(counts: dict[str, collections.Counter]) -> None:
    print(f"{'kind':28}" + "".join(f"{column:>9}" for column in COLUMNS))
    total = sum(counts.values(), collections.Counter())
    for kind, row in [*sorted(counts.items()), ("all", total)]:
        print(f"{kind:28}" + "".join(f"{row[column]:9}" for column in COLUMNS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=10_000, help="number of cases")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the mutations")
    parser.add_argument("--case", type=int, help="run only this case, in this process")
    options = parser.parse_args()
    if options.case is None:
        sys.exit(0 if run(options.n, options.seed) else 1)
    kind, files = make_case(options.case, options.seed, mutations.originals())
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        print(kind, load_and_generate(write_files(files, Path(scratch) / "case")))


if __name__ == "__main__":
    main()
