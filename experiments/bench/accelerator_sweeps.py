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
    """Measures a sweep over all heads of one and of several recordings, and attribution."""
    import jax.numpy as jnp

    from experiments.bench import models
    from interventions import Run, attribution, logit_diff, sweep as run_sweep

    model, mels = models.jax_model(job), np.load(job["mels"])
    grid: dict[str, Any] = {"site": "decoder.cross_attn.z", "over": ("layer", "head")}
    grid["metric"] = logit_diff(job["answer"], job["foil"])
    for n in (1, len(mels) // 2):
        tokens = np.tile(np.array(job["tokens"][:N_TOKENS], np.int32), (n, 1))
        runs = [  # target and source
            Run(mel=mels[start : start + n], tokens=jnp.asarray(tokens)).encode(model)
            for start in (0, len(mels) // 2)
        ]
        size = model.config.n_text_layer * model.config.n_text_head * n
        for what, call in (("sweep", run_sweep), ("attribution", attribution)):
            run = functools.partial(call, **grid)
            times = time_calls(lambda run, *runs: run(*runs).values, run, model, *runs, n=2)
            rate = {"cells_per_s": size / times["seconds"]}
            yield {"what": what, "recordings": n, "cells": size, **times, **rate}


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
