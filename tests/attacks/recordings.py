"""Reads damaged recordings and prints one line per kind.

    python -m tests.attacks.recordings --n 1000 --seed 0

Each file is read in two processes, which fill newly allocated memory with different bytes. A
decoder that returns uninitialised memory then gives two different results.
"""

import argparse
import collections
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .limits import Outcome, Worker
from .sample_files import intact_recordings

FAULTS = ("other error", "crashed", "hung", "memory", "silent NaN", "differs")
_FILLS = ("0", "165")  # values of MALLOC_PERTURB_, which fills newly allocated memory


# Each mutation takes random numbers, the file to change, and another file.
Mutation = Callable[[np.random.Generator, bytearray, bytes], bytearray]
# Numbers to write to a header: small ones, and limits of integer types.
_NUMBERS = [0, 1, 2, 7, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF]


def _flip_bits(rng: np.random.Generator, file: bytearray, _: bytes) -> bytearray:
    for place in rng.integers(len(file), size=rng.integers(1, 30)):
        file[place] ^= 1 << rng.integers(8)
    return file


def _edit_header(rng: np.random.Generator, file: bytearray, _: bytes) -> bytearray:
    size = int(rng.choice([1, 2, 4, 8]))
    order = str(rng.choice(["little", "big"]))
    place = int(rng.integers(min(len(file) - size, 300)))
    number = int(rng.choice(_NUMBERS)) if rng.random() < 0.7 else int(rng.integers(1 << 32))
    file[place : place + size] = (number % (1 << 8 * size)).to_bytes(size, order)
    return file


def _truncate(rng: np.random.Generator, file: bytearray, _: bytes) -> bytearray:
    return file[: rng.integers(1, len(file))]


def _concatenate(rng: np.random.Generator, file: bytearray, other: bytes) -> bytearray:
    return file + (file if rng.random() < 0.5 else other)


def _append_garbage(rng: np.random.Generator, file: bytearray, _: bytes) -> bytearray:
    return file + rng.bytes(rng.integers(1, 20_000))


def _zero(rng: np.random.Generator, file: bytearray, _: bytes) -> bytearray:
    start = int(rng.integers(len(file)))
    size = min(int(rng.integers(1, 5_000)), len(file) - start)
    file[start : start + size] = bytes(size)
    return file


def _cut_out(rng: np.random.Generator, file: bytearray, _: bytes) -> bytearray:
    start = int(rng.integers(len(file)))
    return file[:start] + file[start + int(rng.integers(1, 5_000)) :]


# Headers are edited twice as often as any other part.
MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits,
    _edit_header,
    _edit_header,
    _truncate,
    _concatenate,
    _append_garbage,
    _zero,
    _cut_out,
)


def mutate_recording(intact: dict[str, bytes], number: int, seed: int) -> tuple[str, bytes]:
    """Returns the kind and content of mutated recording `number`."""
    rng = np.random.default_rng([seed, number])
    kind = list(intact)[number % len(intact)]
    file = bytearray(intact[kind])
    for mutation in rng.choice(len(MUTATIONS), size=rng.integers(1, 4)):
        other = intact[str(rng.choice(list(intact)))]
        if len(file) > 16:
            file = MUTATIONS[mutation](rng, file, other)
    return kind, bytes(file)


def read(path: Path) -> tuple[int, str, bool]:
    """Returns the number of samples, their hash, and whether samples and features are finite."""
    import jaxasr
    from jaxasr.audio import pad_or_trim

    audio = jaxasr.load_audio(path)
    mel = np.asarray(jaxasr.log_mel(pad_or_trim(audio), 80))
    finite = bool(np.isfinite(audio).all() and np.isfinite(mel).all())
    return len(audio), hashlib.sha256(audio.tobytes()).hexdigest(), finite


def verdict(outcomes: list[Outcome], path: Path) -> str:
    """Returns "read", "refused" (an error that names the file), or one of `FAULTS`."""
    for outcome in outcomes:
        if outcome.kind in ("crashed", "hung", "memory"):
            return outcome.kind
        if outcome.kind == "raised" and not outcome.value.startswith(
            f"ValueError: {path}: expected"
        ):
            return "other error"
        if outcome.kind == "returned" and not outcome.value[2]:
            return "silent NaN"
    if len({(outcome.kind, outcome.value) for outcome in outcomes}) > 1:
        return "differs"
    return "read" if outcomes[0].kind == "returned" else "refused"


def attack(
    files: Iterator[tuple[str, bytes]], folder: Path
) -> Iterator[tuple[str, Path, str, list[Outcome]]]:
    """Reads each file in both processes, and yields its kind, path, verdict and outcomes.

    Files without a fault are deleted from `folder`.
    """
    with (
        Worker({"MALLOC_PERTURB_": _FILLS[0]}) as first,
        Worker({"MALLOC_PERTURB_": _FILLS[1]}) as second,
    ):
        for number, (kind, content) in enumerate(files):
            path = folder / f"{number:05}-{kind.replace(' ', '-')}"
            path.write_bytes(content)
            outcomes = [worker.run(read, path) for worker in (first, second)]
            result = verdict(outcomes, path)
            yield kind, path, result, outcomes
            if result not in FAULTS:
                path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1000, help="number of mutated recordings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep", type=Path, help="folder for the files with a fault (default: a new one)"
    )
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="recordings-"))
    folder.mkdir(parents=True, exist_ok=True)
    intact = intact_recordings()
    counts = {kind: collections.Counter() for kind in intact}
    slowest, largest = 0.0, 0
    for kind, path, result, outcomes in attack(
        (mutate_recording(intact, i, options.seed) for i in range(options.n)), folder
    ):
        counts[kind][result] += 1
        slowest = max(slowest, *(outcome.seconds for outcome in outcomes))
        largest = max(largest, *(outcome.extra_bytes for outcome in outcomes))
        if result in FAULTS:
            print(
                f"{result}: {path} {[(outcome.kind, outcome.value) for outcome in outcomes]}",
                flush=True,
            )
    columns = ("read", "refused", *FAULTS)
    print(f"{'kind':15} {'tried':>6}", *(f"{column:>11}" for column in columns))
    for kind, count in {**counts, "all": sum(counts.values(), collections.Counter())}.items():
        print(f"{kind:15} {count.total():6}", *(f"{count[column]:11}" for column in columns))
    print(f"slowest read {slowest:.2f} s, largest extra memory {largest / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
