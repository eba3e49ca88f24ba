"""Compares sweeps of a random audio language model with hooks that reuse cached prefixes.

Run it with `python -m experiments.bench language_sweep`.

The sweep over heads edits every layer, head and text token after the audio. The sweep over time
edits every layer and window of audio tokens. All methods use the same weights and are measured in
turn, in one process. Hooks compute only a sample of the cells. The passes without an edit are part
of the sweep's time, but not of that of the hooks.
"""

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from experiments.bench import options
from experiments.bench.language_hooks import ANSWER, FOIL, HookLoop, LanguageCell, stacks_of
from experiments.compiling import count_compilations
from jaxasr.config import Config

N_BEFORE, N_AFTER = 4, 11  # text tokens before and after the audio
WINDOW = 25  # audio tokens per window: one second


def make_config(width: int, n_layer: int, n_audio_ctx: int) -> Config:
    """Returns a Qwen2-Audio of equal width and depth in both stacks, with a small vocabulary.

    Example:
        >>> make_config(512, 8, 500).n_audio_tokens
        250
    """
    n_head = width // 64
    return Config(
        n_mels=80,
        n_audio_ctx=n_audio_ctx,
        n_audio_state=width,
        n_audio_head=n_head,
        n_audio_layer=n_layer,
        n_vocab=1000,
        n_text_ctx=2048,
        n_text_state=width,
        n_text_head=n_head,
        n_text_layer=n_layer,
        n_text_mlp=11 * width // 4,
        tied=False,
        family="qwen2_audio",
        audio_token=999,
        eos=(998,),
    )


def main(
    width: Annotated[int, typer.Option(help="Width of both stacks.")] = 512,
    n_layer: Annotated[int, typer.Option("--layers", help="Layers of each stack.")] = 8,
    seconds: Annotated[int, typer.Option(help="Length of the recording in seconds.")] = 10,
    rounds: Annotated[int, typer.Option(help="How often every method is measured.")] = 3,
    sample: Annotated[int, typer.Option(help="Cells of a hook loop per round.")] = 48,
    batch: Annotated[int, typer.Option(help="Most cells of a batch of hooks.")] = 32,
    out: options.Out = None,
) -> None:
    """Measures sweeps of a random audio language model against hooks in transformers."""
    import jax.numpy as jnp
    from flax import nnx

    import interventions as iv
    import jaxasr
    from interventions.patching.cost import flops
    from jaxasr.weights import save

    config = make_config(width, n_layer, 50 * seconds)
    model = jaxasr.AudioLanguageModel(config, rngs=nnx.Rngs(0))
    rng, n_audio = np.random.default_rng(0), config.n_audio_tokens
    mels = rng.normal(size=(2, 80, config.n_mel_frames)).astype(np.float32)
    text = rng.integers(0, 900, N_BEFORE + N_AFTER)
    tokens = np.array([*text[:N_BEFORE], *[config.audio_token] * n_audio, *text[N_BEFORE:]])
    runs = [iv.Run(mel=mel[None], tokens=jnp.asarray(tokens[None])) for mel in mels]
    target, source = (run.encode(model) for run in runs)
    metric, first = iv.logit_diff(ANSWER, FOIL), N_BEFORE + n_audio
    grids: dict[str, dict[str, Any]] = {
        "heads": {
            "site": "decoder.attn.z",
            "over": ("layer", "head", "position"),
            "positions": range(first, len(tokens)),
        },
        "time": {"site": "decoder.resid_post", "over": ("layer", "time"), "window_s": WINDOW / 25},
    }
    console, results = options.make_console(), []
    with tempfile.TemporaryDirectory() as scratch:
        loop = HookLoop(str(save(model, f"{scratch}/model")), mels, tokens)
    for kind, grid in grids.items():

        def sweep(grid: dict[str, Any] = grid) -> np.ndarray:
            return iv.sweep(model, target, source, metric=metric, **grid).values.ravel()

        plan = iv.plan_sweep(model, target, source, metric=metric, **grid)
        cells = _cells_of(kind, config, len(tokens))
        alone = np.random.default_rng(1).permutation(len(cells))[:sample]
        stacked = _sample_stacks(cells, batch, sample)
        some, many = ([cells[i] for i in chosen] for chosen in (alone, stacked))
        methods: dict[str, tuple[Callable[[], Any], np.ndarray]] = {
            "jaxasr": (sweep, np.arange(len(cells))),
            "hook loop, cached up to the edit": (functools.partial(loop.run, some), alone),
            f"hooks, at most {batch} cells stacked": (
                functools.partial(loop.run, many, batch=batch),
                stacked,
            ),
        }
        if kind == "heads":
            run = functools.partial(loop.run, some, first)
            methods["hook loop, audio prefix cached"] = run, alone
        rows = _measure(methods, rounds)
        limit = {
            "gflop_per_cell": flops(plan.work) / len(cells) / 1e9,
            "peak_gflop_per_s": _measure_products(config),
        }
        console.print(f"\n{kind}: {plan}")
        console.print(_table(rows))
        console.print(_describe_limit(rows, **limit))
        results.append({"kind": kind, "plan": str(plan), "results": rows, **limit})
        options.save(out, {"width": width, "layers": n_layer, "sweeps": results})


def _cells_of(kind: str, config: Config, n_tokens: int) -> list[LanguageCell]:
    """Returns the cells of a sweep, in its order."""
    n_audio, layers = config.n_audio_tokens, range(config.n_text_layer)
    if kind == "heads":
        return [
            LanguageCell(layer, head, position, position + 1)
            for layer in layers
            for head in range(config.n_text_head)
            for position in range(N_BEFORE + n_audio, n_tokens)
        ]
    return [
        LanguageCell(layer, None, N_BEFORE + start, N_BEFORE + min(start + WINDOW, n_audio))
        for layer in layers
        for start in range(0, n_audio, WINDOW)
    ]


def _sample_stacks(cells: Sequence[LanguageCell], batch: int, n: int) -> np.ndarray:
    """Returns the indices of `n` cells or more: whole stacks, in a random order."""
    stacks = stacks_of(cells, batch)
    order, chosen = np.random.default_rng(2).permutation(len(stacks)), []
    while len(chosen) < n and len(order):
        chosen, order = [*chosen, *stacks[order[0]]], order[1:]
    return np.array(chosen)


def _measure_products(config: Config) -> float:
    """Measures the product of 512 rows with the first matrix of an MLP, in GFLOP/s."""
    import jax
    import jax.numpy as jnp

    n_rows, n_products = 512, 100
    x = jnp.ones((n_rows, config.n_text_state))
    weights = jnp.ones((config.n_text_state, config.decoder.n_mlp))

    @jax.jit
    def multiply(x: jax.Array, weights: jax.Array) -> jax.Array:
        def step(_: int, total: jax.Array) -> jax.Array:
            return total + (x + total[0, 0]) @ weights  # depends on the step before

        return jax.lax.fori_loop(0, n_products, step, jnp.zeros((n_rows, weights.shape[1])))

    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        multiply(x, weights).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2e-9 * n_products * n_rows * weights.size / min(seconds[1:])


def _measure(
    methods: dict[str, tuple[Callable[[], Any], np.ndarray]], rounds: int
) -> list[dict[str, Any]]:
    """Measures all methods in turn, after one call of each. The rates are in cells per second.

    Args:
        methods: per name a function that computes cells, and the indices of these cells. The first
            computes all cells.
        rounds: number of measurements.
    """
    rows: list[dict[str, Any]] = []
    counts = count_compilations()
    values = np.zeros(0)
    for name, (run, chosen) in methods.items():
        start, n_programs = time.perf_counter(), counts.programs
        computed = np.array(run())
        values = values if rows else computed
        error = np.abs(computed - values[chosen]).max() / max(1.0, np.abs(values).max())
        seconds, n_programs = time.perf_counter() - start, counts.programs - n_programs
        rows.append({"way": name, "first_s": seconds, "programs": n_programs, "error": error})
        rows[-1]["rates"] = []
    for _ in range(rounds):
        for row, (run, chosen) in zip(rows, methods.values()):
            start = time.perf_counter()
            run()
            row["rates"].append(len(chosen) / (time.perf_counter() - start))
    for row in rows:
        ratios = [ours / theirs for ours, theirs in zip(rows[0]["rates"], row["rates"])]
        row["ratio"] = statistics.median(ratios)
    return rows


def _describe_limit(
    rows: Sequence[dict[str, Any]], gflop_per_cell: float, peak_gflop_per_s: float
) -> str:
    """Returns how many cells per second the products allow, also relative to the hooks."""
    most = peak_gflop_per_s / gflop_per_cell
    loop = statistics.median(rows[1]["rates"])
    return (
        f"{gflop_per_cell:.3f} GFLOP per cell, products at {peak_gflop_per_s:.0f} GFLOP/s: at most "
        f"{most:.0f} cells/s, {most / loop:.0f} times the {rows[1]['way']}"
    )


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    columns = "", "cells/s", "× ours", "first call", "programs", "error"
    lines = Table(*columns, box=None, pad_edge=False, header_style="dim")
    for row in rows:
        rate, first = f"{statistics.median(row['rates']):.1f}", f"{row['first_s']:.1f} s"
        numbers = f"{row['ratio']:.1f}", first, str(row["programs"]), f"{row['error']:.1e}"
        lines.add_row(row["way"], rate, *numbers)
    return lines
