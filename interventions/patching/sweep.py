"""Exact patching sweeps that compute only what each cell can change."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import xarray as xr
from jaxtyping import Float

from interventions.edits.places import Indices
from interventions.edits.values import Mix, Patch
from interventions.metrics import Metric
from interventions.patching.chunks import Deferred, one_ahead
from interventions.patching.compute import Example
from interventions.patching.finished_groups import FinishedGroups, finished_groups
from interventions.patching.plan import Plan
from interventions.patching.planning import REPLACE, WINDOW_S, plan_sweep
from interventions.run import Run
from jaxasr.config import FRAMES_PER_S
from jaxasr.model import Whisper
from jaxasr.taps import Edit

SweepProgress = Callable[[int, int], None]


@overload
def sweep(
    model: Whisper,
    target: Run,
    source: Run | str | None = None,
    *,
    site: str,
    over: Sequence[str],
    metric: Metric,
    edit: Edit | None = None,
    window_s: float = WINDOW_S,
    n_frames: int | None = None,
    alphas: Sequence[float] = REPLACE,
    layers: Indices = None,
    heads: Indices = None,
    positions: Indices = None,
    budget: int | None = None,
    reuse: bool = True,
    store: str | os.PathLike | None = None,
    progress: SweepProgress | None = None,
) -> xr.DataArray: ...


@overload
def sweep(
    *, plan: Plan, store: str | os.PathLike | None = None, progress: SweepProgress | None = None
) -> xr.DataArray: ...


def sweep(
    model: Whisper | None = None,
    target: Run | None = None,
    source: Run | str | None = None,
    *,
    site: str | None = None,
    over: Sequence[str] | None = None,
    metric: Metric | None = None,
    edit: Edit | None = None,
    window_s: float = WINDOW_S,
    n_frames: int | None = None,
    alphas: Sequence[float] = REPLACE,
    layers: Indices = None,
    heads: Indices = None,
    positions: Indices = None,
    budget: int | None = None,
    reuse: bool = True,
    plan: Plan | None = None,
    store: str | os.PathLike | None = None,
    progress: SweepProgress | None = None,
) -> xr.DataArray:
    """Patches every cell of a grid, one at a time, and scores the next token after each patch.

    A cell is one layer, head, position or window of time of `site`. Its activation in `target` is
    replaced by that of `source`, and `metric` scores the logits. All cells are computed exactly,
    by compiled programs that reuse what a cell cannot change.

    Args:
        model: the model, `asr.model`.
        target: the run that is patched, B examples of T tokens.
        source: where values come from. A run with as many tokens; "zero"; "mean", the target's own
            mean over its positions; "noise", Gaussian noise with the rms of each step (seed 0); or
            "resample", another example of `target` (see `resampled`).
        site: any site of either stack.
        over: dimensions of the grid, of "layer", "head", "position" (decoder), "time" (encoder
            frames, in windows of `window_s` seconds up to `n_frames`) and "alpha" (strengths
            `alphas` in `(1-α)·x + α·source`). A dimension that is left out is patched all at once.
        metric: a metric of the logits, such as `logit_diff(answer, foil)`.
        edit: instead of a source, an edit that is placed at every cell. It must act on each
            position independently.
        window_s: seconds per window of "time".
        n_frames: true encoder frames of 20 ms; later frames are padding and are not patched.
            Default: all 30 s.
        alphas: strengths of "alpha".
        layers: layers to sweep; default all.
        heads: heads to sweep; default all.
        positions: positions to sweep; default all.
        budget: bytes for cells that are computed together; None asks the device.
        reuse: False recomputes everything in every cell, for comparison.
        plan: a plan from `plan_sweep`, instead of all arguments above.
        store: a folder for finished groups of cells, so that an interrupted sweep resumes. It
            belongs to one sweep, the code of its edit and metric included, and to one process at a
            time. A damaged group is computed again.
        progress: called with the numbers of finished and of all cells.

    Returns:
        The metric after each patch, with dims `over`, after "example" when B > 1. The unpatched
        metric is the coordinate `baseline`; with a run as source, its metric is `source`.

    Raises:
        ValueError: an unknown site, dimension or index; runs of different length; a source and an
            edit; tokens of the metric outside of the vocabulary; a store of another sweep; with
            `store`, an edit or metric that is not the same in another process, such as one that
            refers to a random generator; `plan` together with arguments that it already holds.
        TypeError: an argument is missing.
        BlockingIOError: another process uses `store`.

    Example:
        ```python
        tokens = np.array([[*asr.tokenizer.prompt(), *asr.tokenizer.encode(" The")]])
        noisy = iv.corruptions.noise(audio, snr_db=0)
        target, source = (
            iv.Run(mel=jaxasr.log_mel(sound, asr.config.n_mels)[None], tokens=tokens)
            for sound in (noisy, audio)
        )
        heads = iv.sweep(
            asr.model,
            target,
            source,
            site="decoder.cross_attn.z",
            over=("layer", "head"),
            metric=iv.logprob(asr.tokenizer.encode(" captain")[0]),
        )
        change = heads - heads.baseline
        ```
    """
    arguments: dict[str, Any] = {
        "model": model,
        "target": target,
        "source": source,
        "site": site,
        "over": over,
        "metric": metric,
        "edit": edit,
        "window_s": window_s,
        "n_frames": n_frames,
        "alphas": alphas,
        "layers": layers,
        "heads": heads,
        "positions": positions,
        "budget": budget,
        "reuse": reuse,
    }
    if plan is None:
        required = ("model", "target", "site", "over", "metric")
        if missing := [name for name in required if arguments[name] is None]:
            raise TypeError(f"sweep: missing {', '.join(missing)}. Give these, or plan= alone.")
        plan = plan_sweep(**arguments)
    elif given := _given(arguments):
        raise ValueError(
            f"plan: already holds {', '.join(given)}. Leave these out, or pass them to plan_sweep."
        )
    with finished_groups(store, plan) as finished:
        return _labelled(plan, *_run(plan, finished, progress))


def _given(arguments: dict[str, Any]) -> list[str]:
    """Names of arguments that are not at their default."""
    defaults = {"window_s": WINDOW_S, "alphas": REPLACE, "reuse": True}
    return [name for name, value in arguments.items() if value is not defaults.get(name)]


def _run(
    plan: Plan, finished: FinishedGroups, progress: SweepProgress | None
) -> tuple[Float[np.ndarray, "B n"], Float[np.ndarray, "B"]]:
    """The metric of every cell, cells flat, and the metric without an edit."""
    n_examples, n_cells = plan.work.n_examples, plan.work.grid.size
    values = np.full((n_examples, n_cells), np.nan)
    baseline, n_done = np.full(n_examples, np.nan), 0
    for b in range(n_examples):
        example = Example.of(plan, b)
        groups = [example.indices(layer) for layer in plan.work.grid.layers]
        for indices, group in zip(groups, one_ahead(_dispatched(example, b, groups, finished))):
            values[b, indices] = group
            n_done += len(indices)
            if progress:
                progress(n_done, values.size)
        baseline[b] = example.baseline
    return values, baseline


def _dispatched(
    example: Example, b: int, groups: Sequence[np.ndarray], finished: FinishedGroups
) -> Iterator[Deferred]:
    """Dispatches the groups of one example, one whenever the next is asked for."""
    for layer, indices in zip(example.plan.work.grid.layers, groups):
        values = finished.load(b, layer, len(indices))
        if values is not None:
            yield lambda values=values: values
        else:
            yield finished.save_when_ready(b, layer, example.dispatch(layer))


def _labelled(
    plan: Plan, values: Float[np.ndarray, "B n"], baseline: Float[np.ndarray, "B"]
) -> xr.DataArray:
    grid, per_example = plan.work.grid, {"baseline": baseline}
    if plan.source_metric is not None and isinstance(plan.edit, Patch | Mix):
        per_example["source"] = np.asarray(plan.source_metric, float)
    attrs: dict[str, Any] = {
        "site": grid.site,
        "metric": type(plan.metric).__name__,
        "scored_position": plan.work.scored,
    }
    if "time" in grid.dims:
        attrs["window_s"] = grid.window / FRAMES_PER_S
    labels = grid.labels(plan.target.tokens)
    if len(values) == 1:
        coords = labels | {name: number[0] for name, number in per_example.items()}
        return xr.DataArray(values[0].reshape(grid.shape), coords, grid.dims, grid.site, attrs)
    coords = labels | {"example": np.arange(len(values))}
    coords |= {name: ("example", numbers) for name, numbers in per_example.items()}
    cells = values.reshape(-1, *grid.shape)
    return xr.DataArray(cells, coords, ("example", *grid.dims), grid.site, attrs)
