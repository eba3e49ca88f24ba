"""What reading activations costs, beside torch with forward hooks: `python -m experiments.bench capture`."""

import contextlib
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from experiments.bench import machine, recordings
from experiments.bench.readers import CASES
from experiments.bench.worker import Worker

READERS = {"jax": ("jaxasr", "Ours"), "torch": ("torch hooks", "Torch")}


def measure(
    workers: dict[str, Worker], rounds: int
) -> tuple[dict[str, dict[str, list[dict[str, float]]]], int, dict[str, Any]]:
    """`{reader: {case: rounds}}`, all in turn; the programs compiled after the first round; and ours' account of its compiled programs."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {
        name: {case: [] for case in CASES} for name in workers
    }
    for worker in workers.values():
        for case in CASES:
            worker.ask("run", case=case)
            worker.ask("run", case=case)
    before = workers["jaxasr"].ask("programs")
    for _ in range(rounds):
        for case in CASES:
            for name, worker in workers.items():
                found[name][case].append(worker.ask("run", case=case))
    late = workers["jaxasr"].ask("programs") - before
    return found, late, workers["jaxasr"].ask("temporary")


def summary(found: dict[str, dict[str, list[dict[str, float]]]]) -> list[dict[str, Any]]:
    rows = []
    for case in CASES:
        for name, cases in found.items():
            plain = statistics.median(r["seconds"] for r in cases["nothing"])
            seconds = statistics.median(r["seconds"] for r in cases[case])
            peaks = [r["peak_growth"] for r in cases[case]]
            peak = None if None in peaks else max(peaks)
            ratio = statistics.median(
                r["seconds"] / p["seconds"] for r, p in zip(cases[case], cases["nothing"])
            )
            more = {
                "over_plain_s": seconds - plain,
                "over_plain": ratio,
                "peak_growth": peak,
                "magnitude": cases[case][0]["magnitude"],
            }
            rows.append(
                {"case": case, "reader": name, "seconds": seconds, **more, "rounds": cases[case]}
            )
    return rows


def table(rows: list[dict[str, Any]]) -> Table:
    shown = Table(
        "read",
        "",
        "s",
        "× no capture",
        "peak MB",
        "mean |value|",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    for row in rows:
        peak = "" if row["peak_growth"] is None else f"{row['peak_growth'] / 1e6:.0f}"
        numbers = (
            f"{row['seconds']:.4f}",
            f"{row['over_plain']:.2f}",
            peak,
            f"{row['magnitude']:.5f}",
        )
        shown.add_row(CASES[row["case"]], row["reader"], *numbers)
    return shown


def main(
    model: Annotated[str, typer.Option(help="tiny.en, base, ... or random:large-v3.")] = "tiny.en",
    batch: Annotated[int, typer.Option(help="Recordings at a time.")] = 1,
    n_tokens: Annotated[int, typer.Option(help="Tokens of the teacher-forced pass.")] = 32,
    rounds: Annotated[int, typer.Option(help="Times that each reading is measured.")] = 5,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    data: Annotated[
        Path | None,
        typer.Option(help="A folder with manifest.jsonl; default: as for `transcribe`."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A file for the numbers, JSON.")] = None,
) -> None:
    """Encodes and teacher-forces with different readings, here and in torch, in turn. Fails when anything is compiled twice."""
    if data:
        os.environ["JAXASR_DATA"] = str(data)
    console = Console(width=None if Console().is_terminal else 120)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        job = _job({"model": model, "clips": batch, "folder": scratch, "dtype": dtype}, n_tokens)
        described = machine.described()
        readers = [READERS[library] for library in machine.libraries()]
        workers = {
            name: stack.enter_context(Worker(f"experiments.bench.readers:{kind}", job))
            for name, kind in readers
        }
        found, late, temporary = measure(workers, rounds)
    console.print(
        machine.title(described),
        f"\n\n{model}, {dtype}, batch {batch}, {n_tokens} tokens, medians of {rounds} rounds",
    )
    rows = summary(found)
    console.print(table(rows))
    console.print(f"\nPrograms compiled after the first use of each reading: {late}")
    for what, sizes in temporary.items():
        console.print(
            f"Compiled temporary memory, {what}: "
            + ", ".join(f"{stack} {size:,} bytes" for stack, size in sizes.items())
        )
    if out:
        numbers = {
            "model": model,
            "dtype": dtype,
            "batch": batch,
            "results": rows,
            "late_programs": late,
            "temporary_bytes": temporary,
        }
        out.write_text(json.dumps({**machine.report(described), **numbers}, indent=1))
    if late or temporary["read, unused"] != temporary["no capture"]:
        raise typer.Exit(1)


def _job(wanted: dict[str, Any], n_tokens: int) -> dict[str, Any]:
    job = recordings.prepared(wanted)
    # The clock does not care what is read aloud: the prompt, then one ordinary word again and again.
    tokens = (job["prompt"] + [262] * n_tokens)[:n_tokens]
    return {**job, "batch": job["clips"], "tokens": [tokens] * job["clips"]}
