"""Compares patching sweeps with hook loops, batched hooks and nnsight.

Run it with `python -m experiments.bench sweep`.

All methods use the same weights and recordings, and are measured in turn. Slow methods compute only
a sample of the cells. Rates are in cells per second. The values of all methods are compared with
ours.
"""

import contextlib
import importlib.util
import itertools
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from rich.table import Table

from experiments.bench import machine, options, recordings
from experiments.bench.models import RANDOM, Job
from experiments.bench.sweepers import FRAMES, Cell
from experiments.bench.worker import Worker


class Method(NamedTuple):
    """A method to compute the cells of a sweep with torch.

    Attributes:
        name: name in the table.
        mode: argument `mode` of `experiments.bench.sweepers.TorchSweeper.run`.
        cells: number of cells per round. None: all.
        batch: number of cells per pass.
    """

    name: str
    mode: str
    cells: int | None
    batch: int


# Methods for the sweep of the decoder and for the sweep of the encoder.
DECODER = [
    Method("hook loop, whole model", "whole", 8, 1),
    Method("hook loop, encoder output reused", "reused", 32, 1),
    Method("nnsight, whole model", "nnsight whole", 6, 1),
    Method("nnsight, encoder output reused", "nnsight", 16, 1),
    Method("batched hooks, 11 rows", "reused", 66, 11),
    Method("batched hooks, 66 rows", "reused", 132, 66),
    Method("hook loop, cross K/V reused too", "kept", 66, 1),
    Method("batched hooks, cross K/V reused too, 11 rows", "kept", 132, 11),
    Method("batched hooks, cross K/V reused too, 66 rows", "kept", None, 66),
]
ENCODER = [
    Method("hook loop, whole model", "whole", 8, 1),
    Method("batched hooks, 4 rows", "whole", 16, 4),
]


def cells_of(kind: str, model: dict[str, int], n_tokens: int, frames: int) -> list[Cell]:
    """Lists all cells of a sweep.

    Args:
        kind: "decoder" for cells (layer, head, position), "encoder" for cells (layer, window).
        model: model config in the format of `transformers`.
        n_tokens: number of tokens of the target.
        frames: number of encoder frames without padding.

    Example:
        >>> cells_of("encoder", {"encoder_layers": 2}, n_tokens=11, frames=70)
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    if kind == "encoder":
        sizes = model["encoder_layers"], -(-frames // FRAMES)
    else:
        sizes = model["decoder_layers"], model["decoder_attention_heads"], n_tokens
    return [list(cell) for cell in itertools.product(*map(range, sizes))]


def sample_cells(cells: list[Cell], n: int | None, batch: int) -> list[Cell]:
    """Selects about `n` cells, as groups of `batch` neighbours that are spread over all layers.

    Example:
        >>> sample_cells([[0], [1], [2], [3], [4]], n=4, batch=2)
        [[0], [1], [3], [4]]
    """
    if n is None or n >= len(cells):
        return cells
    starts = np.linspace(0, len(cells) - batch, max(1, n // batch)).round().astype(int)
    return [cells[i] for start in starts for i in range(start, start + batch)]


def measure(
    ask: Callable[..., dict[str, Any]],
    torch: Worker | None,
    kind: str,
    cells: list[Cell],
    rounds: int,
) -> list[dict[str, Any]]:
    """Measures all methods in turn. The first pass of each method is not timed.

    Args:
        ask: function that computes all cells with jaxasr (`JaxasrSweeper.run`).
        torch: worker of the other methods. None: measures jaxasr only.
        kind: "decoder" or "encoder".
        cells: all cells of the sweep.
        rounds: number of rounds. Our time in a round is the median of three calls.

    Returns:
        A row per method. `first_s` is the seconds of the first call, which compiles. `rates` has
        the cells per second of each round, `ratio` is our rate divided by that of the method, and
        `error` is described at `_record`.
    """
    methods = [
        method
        for method in (DECODER if kind == "decoder" else ENCODER)
        if torch and _is_usable(method)
    ]
    first, first_unshared = ask(kind=kind), ask(kind=kind, reuse=False)  # compile
    programs = ask(kind=kind)["programs"]
    our_values = dict(zip(map(tuple, cells), np.ravel(first["values"])))
    ours, unshared = (
        _make_row(name, 1, len(cells), result["seconds"])
        for name, result in {"jaxasr": first, "jaxasr, nothing resumed": first_unshared}.items()
    )
    samples = [sample_cells(cells, method.cells, method.batch) for method in methods]

    def run(method: Method, cells: list[Cell]) -> dict[str, Any]:
        assert torch
        return torch.ask("run", kind=kind, mode=method.mode, cells=cells, batch=method.batch)

    others = []
    for method in methods:  # warms up
        result = run(method, sample_cells(cells, method.batch, method.batch))
        others.append(_make_row(method.name, method.batch, 0, result["seconds"]))
    for _ in range(rounds):
        seconds = statistics.median(ask(kind=kind)["seconds"] for _ in range(3))
        ours["rates"].append(len(cells) / seconds)
        _record(unshared, our_values, cells, ask(kind=kind, reuse=False))
        for row, method, sample in zip(others, methods, samples):
            _record(row, our_values, sample, run(method, sample))
    for row in (rows := [ours, unshared, *others]):
        ratios = (mine / theirs for mine, theirs in zip(ours["rates"], row["rates"]))
        row["ratio"] = statistics.median(ratios)
    ours["late_programs"] = ask(kind=kind)["programs"] - programs
    return rows


def _is_usable(method: Method) -> bool:
    return "nnsight" not in method.mode or importlib.util.find_spec("nnsight") is not None


def _make_row(name: str, batch: int, cells: int, first_s: float) -> dict[str, Any]:
    return dict(way=name, batch=batch, cells=cells, first_s=first_s, rates=[], error=0.0)


def _record(
    row: dict[str, Any],
    our_values: dict[tuple[int, ...], float],
    cells: list[Cell],
    result: dict[str, Any],
) -> None:
    """Adds the rate of a round to a row, and sets the error of the row.

    The error is the largest difference from our values, divided by our largest value (at least 1).
    """
    row["rates"].append(len(cells) / result["seconds"])
    ours, theirs = np.array([our_values[tuple(cell)] for cell in cells]), np.ravel(result["values"])
    row["cells"] = len(cells)
    row["error"] = float(np.abs(ours - theirs).max() / max(1.0, np.abs(ours).max()))


def table(rows: list[dict[str, Any]]) -> Table:
    """Returns a table with one row per method."""
    columns = ("", "cells/s", "first s", "× ours", "cells per round", "error")
    lines = Table(*columns, box=None, pad_edge=False, header_style="dim")
    for row in rows:
        rate = f"{statistics.median(row['rates']):.1f}"
        first, ratio, error = f"{row['first_s']:.1f}", f"{row['ratio']:.1f}", f"{row['error']:.1e}"
        lines.add_row(row["way"], rate, first, ratio, str(row["cells"]), error)
    return lines


def main(
    model: options.Models = None,
    n_tokens: Annotated[
        list[int] | None,
        typer.Option("--tokens", help="Tokens of the target; may be repeated. Default: 11."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often every method is measured.")] = 3,
    kinds: Annotated[
        str, typer.Option(help="decoder, encoder, or both separated by a comma.")
    ] = "decoder,encoder",
    at_least: Annotated[
        float, typer.Option(help="Smallest length of a recording in seconds.")
    ] = 0.0,
    alone: Annotated[bool, typer.Option(help="Measure jaxasr only.")] = False,
    dtype: options.Dtype = "float32",
    data: options.Data = None,
    out: options.Out = None,
) -> None:
    """Measures sweeps over decoder.cross_attn.z and over encoder.resid_post.

    The decoder is patched at every layer, head and position, the encoder at every layer and second.
    """
    options.set_data_folder(data)
    console, sweeps = options.make_console(), []
    with Worker("experiments.bench.machine:Machine", {}) as machine_worker:
        description = machine_worker.ask("describe")
        console.print(machine.title(description))
        for name, tokens in itertools.product(model or ["tiny.en"], n_tokens or [11]):
            with tempfile.TemporaryDirectory() as scratch:
                job = _prepare_job(name, tokens, dtype, scratch, at_least)
                for kind, numbers in _measure_model(
                    job, kinds.split(","), rounds, machine_worker, alone
                ):
                    console.print(
                        f"\n{name}, {tokens} tokens, {kind}: {numbers['plan']}; "
                        f"{numbers['gflops']:.0f} GFLOP/s of a peak of "
                        f"{numbers['peak_gflops']:.0f}, load {machine.load_average()}. "
                        "If × ours is above 1, jaxasr is faster."
                    )
                    console.print(table(numbers["results"]))
                    sweeps.append({"model": name, "n_tokens": tokens, "kind": kind, **numbers})
                    options.save(out, {**machine.report(description), "sweeps": sweeps})


def _measure_model(
    job: Job, kinds: list[str], rounds: int, machine_worker: Worker, alone: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the numbers of each kind of sweep."""
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(Worker("experiments.bench.sweepers:JaxasrSweeper", job))
        torch = None
        if not alone and importlib.util.find_spec("torch") is not None:
            torch = stack.enter_context(Worker("experiments.bench.sweepers:TorchSweeper", job))
        shape = json.loads((Path(job["huggingface"]) / "config.json").read_text())
        for kind in kinds:
            plan = ours.ask("plan", kind=kind)
            cells = cells_of(kind, shape, len(job["tokens"]), job["frames"])
            rows = measure(
                lambda **arguments: ours.ask("run", **arguments), torch, kind, cells, rounds
            )
            peak = max(
                machine_worker.ask("matmul_rate", library=library, dtype=job["dtype"])
                for library in machine.libraries()
            )
            seconds = len(cells) / statistics.median(rows[0]["rates"])
            memory = {"jaxasr": ours.ask("peak")}
            yield (
                kind,
                {
                    "plan": plan["text"],
                    "flops": plan["flops"],
                    "gflops": plan["flops"] / seconds / 1e9,
                    "peak_gflops": peak / 1e9,
                    "peak_rss": memory | ({"torch": torch.ask("peak")} if torch else {}),
                    "results": rows,
                    "load": machine.load_average(),
                },
            )


def _prepare_job(name: str, n_tokens: int, dtype: str, scratch: str, at_least: float) -> Job:
    """Prepares two recordings, and the tokens that the model generates from the first one.

    The tokens are repeated if there are fewer than `n_tokens`.
    """
    job = recordings.prepare_job({
        "model": name,
        "clips": 2,
        "folder": scratch,
        "dtype": dtype,
        "cache": str(Path(scratch) / "cache"),
        "at_least_s": at_least,
    })  # fmt: skip
    text = _generate_tokens(job)
    ids = [*job["prompt"], *itertools.islice(itertools.cycle(text), n_tokens)]
    *tokens, answer = ids[: n_tokens + 1]  # the answer is the token after the decoder's tokens
    return {
        **job,
        "tokens": tokens,
        "answer": answer,
        "foil": text[0] if text[0] != answer else text[1],
        "frames": min(1500, int(np.ceil(job["seconds"][0] * 50))),  # 50 frames per second
    }


def _generate_tokens(job: Job) -> list[int]:
    """Returns the tokens of the first recording, or random ones for random weights."""
    if job["model"].startswith(RANDOM):
        return np.random.default_rng(0).integers(0, job["eot"], 64).tolist()
    with Worker(
        "experiments.bench.contenders:JaxasrContender", job, JAX_PLATFORMS="cpu"
    ) as contender:
        return contender.ask("transcribe", rows=[0])["tokens"][0]
