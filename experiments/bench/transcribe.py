"""Compares the speed of transcription with `transformers` and faster-whisper.

Run it with `python -m experiments.bench transcribe --model tiny.en`.
"""

import contextlib
import dataclasses
import importlib.util
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from experiments.bench import machine, options
from experiments.bench.flops import encoder_flops
from experiments.bench.models import RANDOM, Job
from experiments.bench.worker import Worker

# Name of each contender: its class in `experiments.bench.contenders`.
CONTENDERS = {
    "jaxasr": "JaxasrContender",
    "transformers": "TorchContender",
    "faster-whisper": "FasterWhisperContender",
}
_PARTS = ("window_s", "encode_s", "decode_s")  # seconds per window: both, encoder, decoder


@dataclasses.dataclass
class Measurement:
    """The measurements of one contender at one batch size.

    Attributes:
        name: a key of `CONTENDERS`.
        batch: number of recordings per pass.
        first_s: seconds from the start of the process to the first result.
        warm_first_s: the same if compiled programs are already on disk. None: not measured.
        rounds: for each round, the seconds of encoder, decoder and both for all recordings.
        tokens: generated tokens of every row.
        numbers: peak memory and compile time.
    """

    name: str
    batch: int
    first_s: float
    warm_first_s: float | None = None
    rounds: list[dict[str, float]] = dataclasses.field(default_factory=list)
    tokens: list[list[int]] = dataclasses.field(default_factory=list)
    numbers: dict[str, float] = dataclasses.field(default_factory=dict)

    def seconds(self, part: str = "total_s") -> float:
        """Returns the median of one part over the rounds."""
        return statistics.median(times[part] for times in self.rounds)


def usable(job: Job, backend: str) -> list[str]:
    """Returns the names of the contenders that can run on this machine, "jaxasr" first.

    Another contender needs its library. faster-whisper also needs weights in its format, and is
    comparable only on a CPU in float32.

    Args:
        job: from `experiments.bench.recordings`.
        backend: backend of JAX, such as "cpu".
    """
    names = ["jaxasr", "transformers"] if importlib.util.find_spec("torch") else ["jaxasr"]
    is_comparable = job["ctranslate2"] and backend == "cpu" and job["dtype"] == "float32"
    if is_comparable and importlib.util.find_spec("faster_whisper"):
        names.append("faster-whisper")
    return names


def measure(
    job: Job, names: list[str], batch: int, rounds: int, machine_worker: Worker
) -> tuple[list[Measurement], list[dict[str, float]]]:
    """Measures all contenders in turn, so that changes of the machine's speed affect all of them.

    Args:
        job: from `experiments.bench.recordings`.
        names: names of the contenders, "jaxasr" first.
        batch: number of recordings per pass.
        rounds: number of rounds.
        machine_worker: worker that measures matrix products.

    Returns:
        The measurements, and the FLOP/s of matrix products by library in each round.
    """
    batches = _make_batches(len(job["seconds"]), batch)
    with contextlib.ExitStack() as stack:
        workers, measured = {}, []
        for name in names:
            workers[name], first_s = _start_contender(name, job, batches[0], stack)
            measured.append(Measurement(name, batch, first_s))
        rates = []
        for _ in range(rounds):
            for contender in measured:
                _measure_round(contender, workers[contender.name], batches)
            rates.append({
                library: machine_worker.ask("matmul_rate", library=library, dtype=job["dtype"])
                for library in machine.libraries()
            })  # fmt: skip
        # Peaks of memory and numbers of compilations include all rounds.
        for contender in measured:
            contender.numbers = workers[contender.name].ask("numbers")
    with contextlib.ExitStack() as stack:
        measured[0].warm_first_s = _start_contender("jaxasr", job, batches[0], stack)[1]
    return measured, rates


def _make_batches(n: int, batch: int) -> list[list[int]]:
    """Returns the rows of each batch. Fills up the last batch with the first rows."""
    return [[row % n for row in range(start, start + batch)] for start in range(0, n, batch)]


def _start_contender(
    name: str, job: Job, rows: list[int], stack: contextlib.ExitStack
) -> tuple[Worker, float]:
    """Starts a contender, and transcribes once. Returns its worker and the seconds until then."""
    worker = stack.enter_context(Worker(f"experiments.bench.contenders:{CONTENDERS[name]}", job))
    worker.ask("transcribe", rows=rows)
    return worker, worker.seconds_since_start()


def _measure_round(contender: Measurement, worker: Worker, batches: list[list[int]]) -> None:
    results = [worker.ask("transcribe", rows=rows) for rows in batches]
    encode, decode = (sum(result[part] for result in results) for part in ("encode_s", "decode_s"))
    contender.rounds.append({"encode_s": encode, "decode_s": decode, "total_s": encode + decode})
    contender.tokens = [row for result in results for row in result["tokens"]]


def summary(
    job: Job,
    contender: Measurement,
    ours: Measurement,
    texts: dict[str, list[str]],
    rates: list[dict[str, float]],
) -> dict[str, Any]:
    """Returns the numbers of a contender at one batch size.

    `ratio` is the contender's time divided by ours, so jaxasr is faster if it is above 1.

    Args:
        job: from `experiments.bench.recordings`.
        contender: measurement of the contender.
        ours: measurement of jaxasr.
        texts: texts of each contender, by name.
        rates: FLOP/s of matrix products by library, for each round.
    """
    batches = _make_batches(len(job["seconds"]), contender.batch)
    audio_s = sum(job["seconds"][row] for rows in batches for row in rows)
    n_windows, n_tokens = sum(map(len, batches)), sum(map(len, contender.tokens))
    ratios = [
        theirs["total_s"] / mine["total_s"] for theirs, mine in zip(contender.rounds, ours.rounds)
    ]
    peak = max(max(rate.values()) for rate in rates)
    size = job["model"].removeprefix(RANDOM)
    flops = encoder_flops(size, n_windows, with_memory=contender is ours)
    return {
        "contender": contender.name,
        "batch": contender.batch,
        "real_time_factor": contender.seconds() / audio_s,
        "window_s": contender.seconds() / n_windows,
        "encode_s": contender.seconds("encode_s") / n_windows,
        "decode_s": contender.seconds("decode_s") / n_windows,
        "tokens_per_s": n_tokens / contender.seconds("decode_s"),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "encoder_share_of_gemm": flops / contender.seconds("encode_s") / peak,
        "first_result_s": contender.first_s,
        "first_result_warm_s": contender.warm_first_s,
        "texts_differ": sum(
            theirs != mine for theirs, mine in zip(texts[contender.name], texts[ours.name])
        ),
        "n_texts": len(texts[ours.name]),
        **contender.numbers,
        "rounds": contender.rounds,
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """Returns the table of one model, with a row per batch size and contender."""
    # RTF: seconds per second of audio. "encode" and "decode": seconds per window. "of peak": FLOP/s
    # of the encoder, as a share of those of a large matrix product.
    speed = ("batch", "", "RTF", "s/window", "encode", "decode", "tokens/s", "× ours", "of peak")
    # "again": seconds to the first result if compiled programs are on disk. "GB": peak memory.
    # "differ": texts that differ from ours.
    costs = ("first s", "again s", "compile s", "GB", "differ")
    lines = Table(*speed, *costs, box=None, pad_edge=False, header_style="dim")
    for row in rows:
        warm = row["first_result_warm_s"]
        lines.add_row(
            str(row["batch"]),
            row["contender"],
            f"{row['real_time_factor']:.4f}",
            *(f"{row[part]:.3f}" for part in _PARTS),
            f"{row['tokens_per_s']:.0f}",
            f"{row['ratio']:.2f}",
            f"{100 * row['encoder_share_of_gemm']:.0f} %",
            f"{row['first_result_s']:.1f}",
            "" if warm is None else f"{warm:.1f}",
            f"{row['compile_s']:.1f}",
            f"{max(row['peak_rss'], row.get('peak_device', 0)) / 1e9:.2f}",
            f"{row['texts_differ']}/{row['n_texts']}",
        )
    return lines


def main(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="tiny.en, base, ... or random:large-v3; may be repeated. Default: tiny.en."
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Recordings per pass; may be repeated. Default: 1 and 8."),
    ] = None,
    clips: Annotated[int, typer.Option(help="Number of recordings.")] = 8,
    rounds: Annotated[
        int, typer.Option(help="How often each contender transcribes all recordings.")
    ] = 5,
    dtype: options.Dtype = "float32",
    data: options.Data = None,
    out: options.Out = None,
) -> None:
    """Measures greedy transcription without timestamps in every installed library.

    A text has at most 224 tokens.
    """
    options.set_data_folder(data)
    console, results = options.make_console(), {}
    with Worker("experiments.bench.machine:Machine", {}) as machine_worker:
        description = machine_worker.ask("describe")
        console.print(machine.title(description))
        for name in model or ["tiny.en"]:
            job = {"model": name, "dtype": dtype, "clips": clips}
            results[name] = _measure_model(
                job, batch or [1, 8], rounds, machine_worker, description["backend"]
            )
            console.print(
                f"\n{name}, {dtype}: {clips} recordings, {rounds} rounds, "
                f"load {machine.load_average()}. If × ours is above 1, jaxasr is faster."
            )
            console.print(table(results[name]["results"]))
            options.save(out, {**machine.report(description), "models": results})


def _measure_model(
    job: Job, batches: list[int], rounds: int, machine_worker: Worker, backend: str
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        job = {**job, "folder": scratch, "cache": str(Path(scratch) / "cache")}
        # The preparer also decodes texts, so it runs all the time. It uses the CPU, so that it does
        # not occupy the accelerator.
        with Worker("experiments.bench.recordings:Preparer", job, JAX_PLATFORMS="cpu") as preparer:
            job = preparer.ask("prepare")
            results, rates = [], []
            for batch in batches:
                names = usable(job, backend)
                measured, rate = measure(job, names, batch, rounds, machine_worker)
                texts = {
                    contender.name: preparer.ask("texts", tokens=contender.tokens)
                    for contender in measured
                }
                results += [
                    summary(job, contender, measured[0], texts, rate) for contender in measured
                ]
                rates += rate
    return {
        "sha256": job.get("sha256"),
        "seconds": job["seconds"],
        "gemm_flops": rates,
        "load": machine.load_average(),
        "results": results,
    }
