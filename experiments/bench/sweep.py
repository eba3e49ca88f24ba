"""Patching sweeps against hook loops, batched hooks and nnsight: `python -m experiments.bench sweep`.

All ways compute the same cells from the same weights and recordings in one run, in turn; the slow ones a spread of them, whose
values are compared with ours, and their rate is that of the cells they did.
"""

import contextlib
import importlib.util
import itertools
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from experiments.bench import machine, recordings
from experiments.bench.models import RANDOM
from experiments.bench.sweepers import FRAMES
from experiments.bench.worker import Worker

# (what it is called, way, cells a round, batch); None: all cells
DECODER = [
    ("hook loop, whole model", "whole", 8, 1),
    ("hook loop, encoder output reused", "reused", 32, 1),
    ("nnsight, whole model", "nnsight whole", 6, 1),
    ("nnsight, encoder output reused", "nnsight", 16, 1),
    ("batched hooks, 11 rows", "reused", 66, 11),
    ("batched hooks, 66 rows", "reused", 132, 66),
    ("hook loop, cross K/V reused too", "kept", 66, 1),
    ("batched hooks, cross K/V reused too, 11 rows", "kept", 132, 11),
    ("batched hooks, cross K/V reused too, 66 rows", "kept", None, 66),
]
ENCODER = [("hook loop, whole model", "whole", 8, 1), ("batched hooks, 4 rows", "whole", 16, 4)]


def cells_of(kind: str, model: dict[str, int], n_tokens: int, frames: int) -> list[list[int]]:
    if kind == "encoder":
        return [
            list(cell)
            for cell in itertools.product(
                range(model["encoder_layers"]), range(-(-frames // FRAMES))
            )
        ]
    sizes = model["decoder_layers"], model["decoder_attention_heads"], n_tokens
    return [list(cell) for cell in itertools.product(*map(range, sizes))]


def spread(cells: list[list[int]], n: int | None, batch: int) -> list[list[int]]:
    """About `n` of the cells from all layers, in runs of `batch`."""
    if n is None or n >= len(cells):
        return cells
    starts = np.linspace(0, len(cells) - batch, max(1, n // batch)).round().astype(int)
    return [cells[i] for start in starts for i in range(start, start + batch)]


def measure(
    ask: Callable[..., dict[str, Any]], other: Worker | None, kind: str, cells: list, rounds: int
) -> list[dict[str, Any]]:
    """One row a way. The first pass of each is not timed; ours is the median of three calls a round."""
    ways = (
        [way for way in (DECODER if kind == "decoder" else ENCODER) if _usable(way[1])]
        if other
        else []
    )
    first = ask(kind=kind)
    ask(kind=kind, reuse=False)
    programs = ask(kind=kind)["programs"]
    exact = dict(zip(map(tuple, cells), np.ravel(first["values"])))
    rows = [_row("jaxasr", 1, len(cells)), _row("jaxasr, nothing resumed", 1, len(cells))] + [
        _row(name, b, 0) for name, _, _, b in ways
    ]
    for way in ways:
        other.ask("run", kind=kind, way=way[1], cells=spread(cells, way[3], way[3]), batch=way[3])
    for _ in range(rounds):
        rows[0]["rates"].append(
            len(cells) / statistics.median(ask(kind=kind)["seconds"] for _ in range(3))
        )
        again = ask(kind=kind, reuse=False)
        rows[1]["rates"].append(len(cells) / again["seconds"])
        rows[1]["error"] = _error(exact, cells, np.ravel(again["values"]))
        for row, (_, way, n, batch) in zip(rows[2:], ways):
            chosen = spread(cells, n, batch)
            found = other.ask("run", kind=kind, way=way, cells=chosen, batch=batch)
            row["rates"].append(len(chosen) / found["seconds"])
            row["cells"], row["error"] = len(chosen), _error(exact, chosen, found["values"])
    for row in rows:
        row["ratio"] = statistics.median(
            mine / theirs for mine, theirs in zip(rows[0]["rates"], row["rates"])
        )
    rows[0]["late_programs"] = ask(kind=kind)["programs"] - programs
    return rows


def _usable(way: str) -> bool:
    return not way.startswith("nnsight") or importlib.util.find_spec("nnsight") is not None


def _row(name: str, batch: int, cells: int) -> dict[str, Any]:
    return {"way": name, "batch": batch, "cells": cells, "rates": [], "error": 0.0}


def _error(exact: dict, cells: list, values: Any) -> float:
    """The largest difference from ours, in units of the metric's scale (at least 1)."""
    ours = np.array([exact[tuple(cell)] for cell in cells])
    return float(np.abs(ours - np.asarray(values)).max() / max(1.0, np.abs(ours).max()))


def table(rows: list[dict[str, Any]]) -> Table:
    shown = Table(
        "",
        "cells/s",
        "× ours",
        "cells a round",
        "error",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    for row in rows:
        rate = f"{statistics.median(row['rates']):.1f}"
        shown.add_row(
            row["way"], rate, f"{row['ratio']:.1f}", str(row["cells"]), f"{row['error']:.1e}"
        )
    return shown


def main(
    model: Annotated[
        list[str] | None, typer.Option(help="tiny.en, base, ...; repeatable. Default: tiny.en.")
    ] = None,
    n_tokens: Annotated[
        list[int] | None,
        typer.Option("--tokens", help="Tokens of the target; repeatable. Default: 11."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Times that every way is measured.")] = 3,
    kinds: Annotated[
        str, typer.Option(help="decoder, encoder, or both with a comma.")
    ] = "decoder,encoder",
    at_least: Annotated[
        float,
        typer.Option(
            help="Seconds that the recordings last at least: longer ones have more windows."
        ),
    ] = 0.0,
    alone: Annotated[
        bool, typer.Option(help="Only this library: for curves over sizes and tokens.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    data: Annotated[
        Path | None,
        typer.Option(help="A folder with manifest.jsonl; default: as for `transcribe`."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A file for the numbers, JSON.")] = None,
) -> None:
    """Patches every (layer, head, position) of decoder.cross_attn.z and every (layer, second) of encoder.resid_post."""
    if data:
        os.environ["JAXASR_DATA"] = str(data)
    console, found = Console(width=None if Console().is_terminal else 120), []
    with Worker("experiments.bench.machine:Machine", {}) as gemm:
        described = gemm.ask("describe")
        console.print(machine.title(described))
        for name, tokens in itertools.product(model or ["tiny.en"], n_tokens or [11]):
            for kind, numbers in _one_model(
                name, tokens, kinds.split(","), rounds, gemm, dtype, alone, at_least
            ):
                console.print(f"\n{name}, {tokens} tokens, {kind}: {numbers['plan']}; {numbers['gflops']:.0f} GFLOP/s of a peak of "
                              f"{numbers['peak_gflops']:.0f}; load {machine.load()}; × ours: above 1 ours is faster")  # fmt: skip
                console.print(table(numbers["results"]))
                found.append({"model": name, "n_tokens": tokens, "kind": kind, **numbers})
                if out:
                    out.write_text(
                        json.dumps({**machine.report(described), "sweeps": found}, indent=1)
                    )


def _one_model(
    name: str,
    n_tokens: int,
    kinds: list[str],
    rounds: int,
    gemm: Worker,
    dtype: str,
    alone: bool,
    at_least: float,
) -> Iterator[tuple[str, dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        job = _job(name, n_tokens, dtype, scratch, at_least)
        ours = stack.enter_context(Worker("experiments.bench.sweepers:Ours", job))
        torch = not alone and importlib.util.find_spec("torch") is not None
        other = (
            stack.enter_context(Worker("experiments.bench.sweepers:Torch", job)) if torch else None
        )
        shape = json.loads((Path(job["huggingface"]) / "config.json").read_text())
        for kind in kinds:
            plan, cells = (
                ours.ask("plan", kind=kind),
                cells_of(kind, shape, n_tokens, job["frames"]),
            )
            rows = measure(lambda **of: ours.ask("run", **of), other, kind, cells, rounds)
            peak = max(
                gemm.ask("gemm", library=library, dtype=dtype) for library in machine.libraries()
            )
            seconds = len(cells) / statistics.median(rows[0]["rates"])
            yield kind, {"plan": plan["text"], "flops": plan["flops"], "gflops": plan["flops"] / seconds / 1e9, "peak_gflops": peak / 1e9,
                           "peak_rss": {"jaxasr": ours.ask("peak")} | ({"torch": other.ask("peak")} if other else {}),
                           "results": rows, "load": machine.load()}  # fmt: skip


def _job(name: str, n_tokens: int, dtype: str, scratch: str, at_least: float) -> dict[str, Any]:
    """Two recordings; the tokens are the model's own text of the first, again and again where it is short."""
    wanted = {
        "model": name,
        "clips": 2,
        "folder": scratch,
        "dtype": dtype,
        "cache": str(Path(scratch) / "cache"),
    }
    wanted["at_least_s"] = at_least
    job = recordings.prepared(wanted)
    text = _text(job)
    tokens = (job["prompt"] + list(itertools.islice(itertools.cycle(text), n_tokens)))[
        : n_tokens + 1
    ]
    frames = min(1500, int(np.ceil(job["seconds"][0] * 50)))
    return {
        **job,
        "tokens": tokens[:-1],
        "answer": tokens[-1],
        "foil": text[0] if text[0] != tokens[-1] else text[1],
        "frames": frames,
    }


def _text(job: dict[str, Any]) -> list[int]:
    """What the model writes of the first recording; random weights have nothing to say: any tokens."""
    if job["model"].startswith(RANDOM):
        return np.random.default_rng(0).integers(0, job["eot"], 64).tolist()
    with Worker("experiments.bench.contenders:Ours", job, JAX_PLATFORMS="cpu") as reader:
        return reader.ask("transcribe", rows=[0])["tokens"][0]
