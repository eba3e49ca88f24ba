"""Transcription against `transformers` on torch and faster-whisper: `python -m experiments.bench transcribe --model tiny.en`."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from experiments.bench import machine
from experiments.bench.flops import encoder_flops
from experiments.bench.models import RANDOM
from experiments.bench.worker import Worker

CONTENDERS = {"jaxasr": "Ours", "transformers": "Torch", "faster-whisper": "FasterWhisper"}
MODULE = {"transformers": "torch", "faster-whisper": "faster_whisper"}


@dataclasses.dataclass
class Measured:
    """One contender at one batch size. `rounds` hold seconds of encoder and decoder over all recordings."""

    name: str
    batch: int
    first_s: float
    warm_first_s: float | None = None
    rounds: list[dict[str, float]] = dataclasses.field(default_factory=list)
    tokens: list[list[int]] = dataclasses.field(default_factory=list)
    numbers: dict[str, float] = dataclasses.field(default_factory=dict)

    def seconds(self, part: str = "total_s") -> float:
        return statistics.median(r[part] for r in self.rounds)


def usable(job: dict[str, Any], backend: str) -> list[str]:
    """The contenders that can run here, the first of them ours; the others need their library and weights in their format."""
    names = ["jaxasr", "transformers"] if importlib.util.find_spec("torch") else ["jaxasr"]
    if (
        importlib.util.find_spec("faster_whisper")
        and job["ctranslate2"]
        and backend == "cpu"
        and job["dtype"] == "float32"
    ):
        names.append("faster-whisper")
    return names


def measure(
    job: dict[str, Any], names: list[str], batch: int, rounds: int, gemm: Worker
) -> tuple[list[Measured], list[dict[str, float]]]:
    """Rounds of all contenders in turn, so that a change of the machine's speed hits each; and its GEMM rate in each."""
    batches = _batches(len(job["seconds"]), batch)
    with contextlib.ExitStack() as stack:
        workers, measured = {}, []
        for name in names:
            workers[name], first = _started(name, job, batches[0], stack)
            measured.append(Measured(name, batch, first))
        rates = []
        for _ in range(rounds):
            for one in measured:
                _round(one, workers[one.name], batches)
            rates.append(
                {
                    library: gemm.ask("gemm", library=library, dtype=job["dtype"])
                    for library in machine.libraries()
                }
            )
        for one in measured:
            one.numbers = workers[one.name].ask("numbers")
    with contextlib.ExitStack() as stack:
        measured[0].warm_first_s = _started("jaxasr", job, batches[0], stack)[1]
    return measured, rates


def _batches(n: int, batch: int) -> list[list[int]]:
    """Full batches only, the last filled up from the first recordings."""
    return [[row % n for row in range(start, start + batch)] for start in range(0, n, batch)]


def _started(
    name: str, job: dict[str, Any], rows: list[int], stack: contextlib.ExitStack
) -> tuple[Worker, float]:
    """A contender that has transcribed once, and the seconds from its process's start to that first result."""
    worker = stack.enter_context(Worker(f"experiments.bench.contenders:{CONTENDERS[name]}", job))
    worker.ask("transcribe", rows=rows)
    return worker, worker.since_start()


def _round(one: Measured, worker: Worker, batches: list[list[int]]) -> None:
    results = [worker.ask("transcribe", rows=rows) for rows in batches]
    encode, decode = (sum(result[part] for result in results) for part in ("encode_s", "decode_s"))
    one.rounds.append({"encode_s": encode, "decode_s": decode, "total_s": encode + decode})
    one.tokens = [row for result in results for row in result["tokens"]]


def summary(
    job: dict[str, Any],
    one: Measured,
    ours: Measured,
    texts: dict[str, list[str]],
    rates: list[dict[str, float]],
) -> dict[str, Any]:
    """What the table shows. `ratio` is this contender's time over ours, above 1 where ours is faster."""
    batches = _batches(len(job["seconds"]), one.batch)
    heard = sum(job["seconds"][row] for rows in batches for row in rows)
    n_windows, n_tokens = sum(map(len, batches)), sum(map(len, one.tokens))
    ratios = [theirs["total_s"] / mine["total_s"] for theirs, mine in zip(one.rounds, ours.rounds)]
    peak = max(max(rate.values()) for rate in rates)
    flops = encoder_flops(job["model"].removeprefix(RANDOM), n_windows, with_memory=one is ours)
    return {
        "contender": one.name,
        "batch": one.batch,
        "real_time_factor": one.seconds() / heard,
        "window_s": one.seconds() / n_windows,
        "encode_s": one.seconds("encode_s") / n_windows,
        "decode_s": one.seconds("decode_s") / n_windows,
        "tokens_per_s": n_tokens / one.seconds("decode_s"),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "encoder_share_of_gemm": flops / one.seconds("encode_s") / peak,
        "first_result_s": one.first_s,
        "first_result_warm_s": one.warm_first_s,
        "texts_differ": sum(a != b for a, b in zip(texts[one.name], texts[ours.name])),
        "n_texts": len(texts[ours.name]),
        **one.numbers,
        "rounds": one.rounds,
    }


def table(rows: list[dict[str, Any]]) -> Table:
    columns = [
        "batch",
        "",
        "RTF",
        "s/window",
        "encode",
        "decode",
        "tok/s",
        "× ours",
        "GEMM",
        "first s",
        "again",
        "compile",
        "GB",
        "differ",
    ]
    shown = Table(*columns, box=None, pad_edge=False, header_style="dim")
    for r in rows:
        again = f"{r['first_result_warm_s']:.1f}" if r["first_result_warm_s"] else ""
        shown.add_row(
            str(r["batch"]),
            r["contender"],
            f"{r['real_time_factor']:.4f}",
            *(f"{r[part]:.3f}" for part in ("window_s", "encode_s", "decode_s")),
            f"{r['tokens_per_s']:.0f}",
            f"{r['ratio']:.2f}",
            f"{100 * r['encoder_share_of_gemm']:.0f} %",
            f"{r['first_result_s']:.1f}",
            again,
            f"{r['compile_s']:.1f}",
            f"{max(r['peak_rss'], r.get('peak_device', 0)) / 1e9:.2f}",
            f"{r['texts_differ']}/{r['n_texts']}",
        )
    return shown


def main(
    model: Annotated[
        list[str] | None,
        typer.Option(help="tiny.en, base, ... or random:large-v3; repeatable. Default: tiny.en."),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Recordings at a time; may be given again. Default: 1 and 8."),
    ] = None,
    clips: Annotated[int, typer.Option(help="Recordings.")] = 8,
    rounds: Annotated[
        int, typer.Option(help="Times that each contender transcribes them all.")
    ] = 5,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder with manifest.jsonl; default: $JAXASR_DATA, else the demo recording."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A file for the numbers, JSON.")] = None,
) -> None:
    """Greedy transcription without timestamps, at most 224 tokens, by every implementation installed here, in turn."""
    if data:
        os.environ["JAXASR_DATA"] = str(data)
    console, found = Console(width=None if Console().is_terminal else 120), {}
    with Worker("experiments.bench.machine:Machine", {}) as gemm:
        described = gemm.ask("describe")
        console.print(machine.title(described))
        for name in model or ["tiny.en"]:
            found[name] = _one_model(
                {"model": name, "dtype": dtype, "clips": clips},
                batch or [1, 8],
                rounds,
                gemm,
                described["backend"],
            )
            console.print(
                f"\n{name}, {dtype}: {clips} recordings, {rounds} rounds, load {machine.load()}; × ours: above 1 ours is faster"
            )
            console.print(table(found[name]["results"]))
            if out:
                out.write_text(json.dumps({**machine.report(described), "models": found}, indent=1))


def _one_model(
    job: dict[str, Any], batches: list[int], rounds: int, gemm: Worker, backend: str
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        job = {**job, "folder": scratch, "cache": str(Path(scratch) / "cache")}
        # The preparer must not hold the accelerator.
        with Worker("experiments.bench.recordings:Preparer", job, JAX_PLATFORMS="cpu") as preparer:
            job = preparer.ask("prepare")
            results, rates = [], []
            for batch in batches:
                measured, rate = measure(job, usable(job, backend), batch, rounds, gemm)
                texts = {one.name: preparer.ask("texts", tokens=one.tokens) for one in measured}
                results += [summary(job, one, measured[0], texts, rate) for one in measured]
                rates += rate
    return {
        "sha256": job.get("sha256"),
        "seconds": job["seconds"],
        "gemm_flops": rates,
        "load": machine.load(),
        "results": results,
    }
