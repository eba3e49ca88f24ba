"""Measures sweeps, probes and readouts for the bench for accelerators."""

import functools
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.bench.models import Job
from experiments.bench.timing import measures_torch, time_calls

Figure = dict[str, Any]
N_TOKENS = 11  # tokens that the decoder reads in sweeps
N_TOKENS_OF_MANY = 30  # in sweeps of several recordings
# How torch computes cells: name, mode of `TorchSweeper.run`, cells that are measured, and cells per
# pass.
_DECODER_METHODS = (
    ("hook loop, whole model", "whole", 8, 1),
    ("hook loop, encoder reused", "reused", 24, 1),
    ("batched hooks, encoder reused", "reused", 440, 220),
    ("batched hooks, cross K/V kept", "kept", 1100, 220),
)
_ENCODER_METHODS = (("hook loop", "whole", 12, 1), ("batched hooks", "whole", 60, 15))


def sweep(job: Job, kind: str) -> Iterator[Figure]:
    """Measures a sweep of the decoder or the encoder, and torch hooks on some of its cells."""
    from experiments.bench import sweepers
    from experiments.bench.sweep import cells_of, sample_cells

    job = {**job, "tokens": job["tokens"][:N_TOKENS]}
    ours = sweepers.JaxasrSweeper(job)
    plan, (first, *rest) = ours.plan(kind), [ours.run(kind) for _ in range(4)]
    seconds, values = statistics.median(run["seconds"] for run in rest), np.array(first["values"])
    yield {
        "who": "jaxasr",
        "plan": plan["text"],
        "cells": values.size,
        "first_s": first["seconds"],
        "seconds": seconds,
        "cells_per_s": values.size / seconds,
        "tflops": plan["flops"] / seconds / 1e12,
        "late_programs": rest[-1]["programs"] - first["programs"],
    }
    if not measures_torch(job):
        return
    config, torch = ours.model.config, sweepers.TorchSweeper(job)
    shape = {
        "encoder_layers": config.n_audio_layer,
        "decoder_layers": config.n_text_layer,
        "decoder_attention_heads": config.n_text_head,
    }
    cells = cells_of(kind, shape, N_TOKENS, job["frames"])
    for name, mode, n, batch in _DECODER_METHODS if kind == "decoder" else _ENCODER_METHODS:
        batch = min(batch, len(cells))
        sample = sample_cells(cells, n, batch)
        first_s = torch.run(kind, mode, sample_cells(cells, batch, batch), batch)["seconds"]
        result = torch.run(kind, mode, sample, batch)
        rate = len(sample) / result["seconds"]
        same = np.array([values[tuple(cell)] for cell in sample])
        yield {
            "who": name,
            "cells": len(sample),
            "first_s": first_s,
            "cells_per_s": rate,
            "jaxasr_is_faster": values.size / seconds / rate,
            "largest_difference": float(np.abs(same - np.array(result["values"])).max()),
        }


def many(job: Job) -> Iterator[Figure]:
    """Measures sweeps over all heads of one and of several recordings, and attribution."""
    import jax.numpy as jnp

    from experiments.bench import models
    from interventions import Run, attribution, logit_diff, sweep as run_sweep

    model, mels = models.jax_model(job), np.load(job["mels"])
    n_tokens, n_rows = min(N_TOKENS_OF_MANY, model.config.n_text_ctx), len(mels)
    row = np.array(job["tokens"][:n_tokens], np.int32)
    # The source of every recording is the next one.
    tokens = jnp.asarray(np.tile(row, (n_rows, 1)))
    pairs = mels, np.roll(mels, 1, axis=0)
    target, source = (Run(mel=x, tokens=tokens) for x in pairs)
    heads = {"site": "decoder.cross_attn.z", "over": ("layer", "head")}
    positions = {**heads, "over": ("layer", "head", "position")}
    half = slice(n_rows // 2)
    encoded = [Run(mel=x[half], tokens=tokens[half]).encode(model) for x in pairs]
    first = [run.row(0) for run in encoded]
    cases = (
        ("sweep over heads", run_sweep, heads, first),
        ("sweep over heads", run_sweep, heads, encoded),
        ("sweep over heads and positions", run_sweep, positions, encoded),
        ("attribution", attribution, heads, first),
        ("attribution", attribution, heads, encoded),
        ("encoding, and sweep over heads", run_sweep, heads, [target, source]),
    )
    for what, call, grid, runs in cases:
        run = functools.partial(call, **grid, metric=logit_diff(job["answer"], job["foil"]))
        times = time_calls(lambda call, *runs: call(*runs).values, run, model, *runs, n=2)
        yield {
            "what": what,
            "recordings": runs[0].batch,
            "tokens": n_tokens,
            **times,
            **_rates(call, times["seconds"], model, *runs, **run.keywords),
            "seconds_of_484_recordings": times["seconds"] * 484 / runs[0].batch,
        }


def _rates(call: Any, seconds: float, *runs: Any, **grid: Any) -> dict[str, float]:
    """Returns cells per second, and the rate of the operations that a sweep counts."""
    from interventions import plan_sweep, sweep as run_sweep
    from interventions.patching import cost

    plan = plan_sweep(*runs, **grid)
    cells = plan.work.grid.size * plan.work.n_examples
    rates = {"cells": cells, "cells_per_s": cells / seconds}
    if call is run_sweep:
        rates["tflops"] = cost.flops(plan.work) / seconds / 1e12
    return rates


def probes(shapes: Sequence[tuple[int, int, int]]) -> Iterator[Figure]:
    """Measures probe banks of random features with four classes."""
    rng = np.random.default_rng(0)
    for n_layers, n_rows, width in shapes:
        y = rng.integers(0, 4, n_rows)
        X = rng.standard_normal((n_layers, n_rows, width), np.float32)
        X += np.eye(4, width, dtype=np.float32)[y] * 0.5
        times = time_calls(lambda X, y: _fit(X, y).objective.values, X, y, n=1)
        bank = _fit(X, y)
        n_fits = bank.objective.size
        yield {
            "shape": [n_layers, n_rows, width],
            "fits": n_fits,
            **times,
            "fits_per_s": n_fits / times["seconds"],
            "largest_gap": float(bank.optimality_gap.max()),
        }


def _fit(X: np.ndarray, y: np.ndarray) -> Any:
    from interventions import fit_probes

    return fit_probes(X, y, penalties=(0.1, 1.0, 10.0, 100.0), folds=5)


def capture(job: Job) -> Iterator[Figure]:
    """Measures passes that read activations, in this library and in torch."""
    from experiments.bench import readers

    n = min(8, len(np.load(job["mels"])))
    job = {**job, "batch": n, "tokens": [job["tokens"][:32]] * n}
    classes: dict[str, Any] = {"jaxasr": readers.JaxasrReader}
    if measures_torch(job):
        classes["torch"] = readers.TorchReader
    for who, reader_class in classes.items():
        reader = reader_class(job)
        for case in readers.CASES:
            times: list[Any] = [reader.run(case)["seconds"] for _ in range(4)]
            first, *rest = times
            yield {"who": who, "case": case, "first_s": first, "seconds": statistics.median(rest)}
