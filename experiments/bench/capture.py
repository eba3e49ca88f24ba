"""Compares readouts of jaxasr with torch hooks: `python -m experiments.bench capture`.

A case is a set of sites that a forward pass reads. A reader is a library that reads them.
"""

import contextlib
import statistics
import tempfile
from typing import Annotated, Any

import typer
from rich.table import Table

from experiments.bench import machine, options, recordings
from experiments.bench.models import Job
from experiments.bench.readers import CASES
from experiments.bench.worker import Worker

# Name and class (in `experiments.bench.readers`) of the reader of each library.
READERS = {"jax": ("jaxasr", "JaxasrReader"), "torch": ("torch hooks", "TorchReader")}
Firsts = dict[str, dict[str, float]]  # [reader][case]: seconds of the first pass
Rounds = dict[str, dict[str, list[dict[str, float]]]]  # [reader][case][round]: `Reader.run`


def measure(workers: dict[str, Worker], rounds: int) -> tuple[Rounds, Firsts, int, dict[str, Any]]:
    """Measures every case with every reader, in turn.

    Returns:
        The measurements of each reader, case and round.
        The seconds of the first pass of each reader and case, which compiles.
        The number of programs that jaxasr compiled after the first use of each case.
        The bytes of temporary memory of jaxasr's programs (`JaxasrReader.temporary`).
    """
    measured: Rounds = {name: {case: [] for case in CASES} for name in workers}
    first_s: Firsts = {name: {} for name in workers}
    for name, worker in workers.items():
        for case in CASES:
            first_s[name][case] = worker.ask("run", case=case)["seconds"]  # compiles
            worker.ask("run", case=case)  # warms up
    earlier_programs = workers["jaxasr"].ask("programs")
    for _ in range(rounds):
        for case in CASES:
            for name, worker in workers.items():
                measured[name][case].append(worker.ask("run", case=case))
    late_programs = workers["jaxasr"].ask("programs") - earlier_programs
    return measured, first_s, late_programs, workers["jaxasr"].ask("temporary")


def summary(measured: Rounds, first_s: Firsts) -> list[dict[str, Any]]:
    """Returns a row per case and reader, which compares the case with the case "nothing".

    `over_plain_s` is the time in seconds minus that of "nothing", and `over_plain` is the time
    divided by that of "nothing".
    """
    rows = []
    for case in CASES:
        for name, cases in measured.items():
            plain_seconds = statistics.median(run["seconds"] for run in cases["nothing"])
            seconds = statistics.median(run["seconds"] for run in cases[case])
            peaks = [run["peak_growth"] for run in cases[case]]
            ratio = statistics.median(
                run["seconds"] / without["seconds"]
                for run, without in zip(cases[case], cases["nothing"])
            )
            rows.append({
                "case": case,
                "reader": name,
                "seconds": seconds,
                "first_s": first_s[name][case],
                "over_plain_s": seconds - plain_seconds,
                "over_plain": ratio,
                "peak_growth": None if None in peaks else max(peaks),
                "magnitude": cases[case][0]["magnitude"],
                "rounds": cases[case],
            })  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> Table:
    """Returns a table with one row per case and reader."""
    columns = ("read", "", "s", "first s", "× no capture", "peak MB", "mean |value|")
    lines = Table(*columns, box=None, pad_edge=False, header_style="dim")
    for row in rows:
        peak = "" if row["peak_growth"] is None else f"{row['peak_growth'] / 1e6:.0f}"
        lines.add_row(
            CASES[row["case"]],
            row["reader"],
            f"{row['seconds']:.4f}",
            f"{row['first_s']:.1f}",
            f"{row['over_plain']:.2f}",
            peak,
            f"{row['magnitude']:.5f}",
        )
    return lines


def main(
    model: Annotated[str, typer.Option(help="tiny.en, base, ... or random:large-v3.")] = "tiny.en",
    batch: Annotated[int, typer.Option(help="Recordings per pass.")] = 1,
    n_tokens: Annotated[int, typer.Option(help="Tokens that the decoder reads.")] = 32,
    rounds: Annotated[int, typer.Option(help="How often each case is measured.")] = 5,
    dtype: options.Dtype = "float32",
    data: options.Data = None,
    out: options.Out = None,
) -> None:
    """Measures forward passes with different readouts, in jaxasr and torch in turn.

    Fails if JAX compiles a program after the first use of a readout. Also fails if readouts whose
    activations are discarded change the temporary memory of a pass.
    """
    options.set_data_folder(data)
    console = options.make_console()
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        job = _prepare_job(
            {"model": model, "clips": batch, "folder": scratch, "dtype": dtype}, n_tokens
        )
        description = machine.describe_machine()
        workers = {
            name: stack.enter_context(Worker(f"experiments.bench.readers:{kind}", job))
            for name, kind in (READERS[library] for library in machine.libraries())
        }
        measured, first_s, late_programs, temporary = measure(workers, rounds)
    rows = summary(measured, first_s)
    console.print(machine.title(description))
    console.print(
        f"\n{model}, {dtype}, batch {batch}, {n_tokens} tokens, medians of {rounds} rounds"
    )
    console.print(table(rows))
    console.print(f"\nPrograms compiled after the first use of each readout: {late_programs}")
    for name, sizes in temporary.items():
        stacks = ", ".join(f"{stack} {size:,} bytes" for stack, size in sizes.items())
        console.print(f"Compiled temporary memory, {name}: {stacks}")
    numbers = {
        "model": model,
        "dtype": dtype,
        "batch": batch,
        "results": rows,
        "late_programs": late_programs,
        "temporary_bytes": temporary,
    }
    options.save(out, {**machine.report(description), **numbers})
    if late_programs or temporary["read, unused"] != temporary["no capture"]:
        raise typer.Exit(1)


def _prepare_job(job: Job, n_tokens: int) -> Job:
    """Prepares a job whose tokens are the prompt and one repeated word token."""
    prepared = recordings.prepare_job(job)
    # 262 is an arbitrary token of a word, because the time does not depend on the tokens.
    tokens = (prepared["prompt"] + [262] * n_tokens)[:n_tokens]
    return {**prepared, "batch": prepared["clips"], "tokens": [tokens] * prepared["clips"]}
