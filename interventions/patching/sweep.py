"""Runs exact patching sweeps, and computes only what each cell can change."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import xarray as xr
from jax.sharding import Mesh

from interventions.edits.places import Indices
from interventions.metrics import Metric
from interventions.patching.cell_chunks import cell_chunks, group_by_program
from interventions.patching.chunks import run_one_ahead
from interventions.patching.compile_ahead import CompileAhead
from interventions.patching.compute import RecordingChunk
from interventions.patching.finished_groups import finished_groups
from interventions.patching.joining import without_single_example
from interventions.patching.plan import Plan
from interventions.patching.planning import DEFAULT_ALPHAS, DEFAULT_WINDOW_S, plan_sweep
from interventions.patching.values import PendingRows, SweepProgress, SweepValues
from interventions.run import Run
from jaxasr.meshes import CELLS, axis_size
from jaxasr.model import SpeechModel
from jaxasr.processes import Process
from jaxasr.taps import Edit


@overload
def sweep(
    model: SpeechModel,
    target: Run,
    source: Run | str | None = None,
    *,
    site: str,
    over: Sequence[str],
    metric: Metric,
    edit: Edit | None = None,
    window_s: float = DEFAULT_WINDOW_S,
    n_frames: int | None = None,
    alphas: Sequence[float] = DEFAULT_ALPHAS,
    layers: Indices = None,
    heads: Indices = None,
    positions: Indices = None,
    budget: int | None = None,
    reuse: bool = True,
    mesh: Mesh | None = None,
    recordings: int | None = None,
    process: Process | None = None,
    store: str | os.PathLike | None = None,
    progress: SweepProgress | None = None,
) -> xr.DataArray: ...


@overload
def sweep(
    *, plan: Plan, store: str | os.PathLike | None = None, progress: SweepProgress | None = None
) -> xr.DataArray: ...


def sweep(
    model: SpeechModel | None = None,
    target: Run | None = None,
    source: Run | str | None = None,
    *,
    site: str | None = None,
    over: Sequence[str] | None = None,
    metric: Metric | None = None,
    edit: Edit | None = None,
    window_s: float = DEFAULT_WINDOW_S,
    n_frames: int | None = None,
    alphas: Sequence[float] = DEFAULT_ALPHAS,
    layers: Indices = None,
    heads: Indices = None,
    positions: Indices = None,
    budget: int | None = None,
    reuse: bool = True,
    mesh: Mesh | None = None,
    recordings: int | None = None,
    process: Process | None = None,
    plan: Plan | None = None,
    store: str | os.PathLike | None = None,
    progress: SweepProgress | None = None,
) -> xr.DataArray:
    """Patches every cell of a grid, one at a time, and scores the next token after each patch.

    A cell is one place at `site`, such as one head of one layer at one position. The activation of
    `source` replaces the activation of `target` at this place, and `metric` scores the logits.
    Every cell is computed exactly. Activations that no edit changes are computed once.

    Args:
        model: the model, `asr.model`.
        target: the run that is patched, B examples of T tokens.
        source: the run that patched-in activations come from, with as many tokens as `target`, or
            one of these names:
            "zero": zeros;
            "mean": the mean of the target's activation over its positions, or over its frames
            before the masked padding;
            "noise": Gaussian noise with the rms of the activation (seed 0);
            "resample": another example of `target` (see `resampled`).
        site: name of the patched site, in the encoder or the decoder.
        over: dimensions of the grid: "layer", "head", "position" (in the decoder), "time" (windows
            of encoder frames; in a language model, windows of audio tokens, which must be at the
            same positions in all rows) or "alpha" (strengths α in `(1-α)·x + α·source`). Each cell
            covers all indices of a dimension that is left out.
        metric: a metric of the logits, such as `logit_diff(answer, foil)`.
        edit: an edit to place at every cell, instead of `source`. It must act on each position
            independently.
        window_s: seconds per window of "time".
        n_frames: number of 20 ms encoder frames that hold the recording. Later frames are padding
            and are not patched. Default: all 30 s, or the frames or audio tokens that a run of an
            audio language model has.
        alphas: strengths of "alpha".
        layers: layers to sweep. Default: all.
        heads: heads to sweep. Default: all.
        positions: positions to sweep. Default: all.
        budget: bytes for cells that are computed together. Default: a size chosen for the device.
        reuse: whether cells reuse activations that no edit changes. False runs a whole pass per
            cell, for comparison.
        mesh: devices that share the work, from `jaxasr.meshes.make_mesh`. Default: the mesh of
            `jax.set_mesh`, else one device.
        recordings: rows of the target that a device computes together. Default: a number chosen
            for the memory of the device. Results agree to the bit for equal numbers, on any mesh.
        process: computes only the share of one process, such as `jaxasr.processes.this_process()`.
            `open_sweep` joins the results that all processes saved in `store`.
        plan: a plan from `plan_sweep`, instead of all arguments above.
        store: a folder that keeps finished groups of cells, so that an interrupted sweep resumes.
            It serves one sweep. One process at a time writes it, or with `process=` one process
            at a time writes each part. A sweep with another edit or metric needs another folder.
            Damaged groups are computed again.
        progress: called as progress(finished cells, all cells).

    Returns:
        The metric after each patch, with dims `over`. If B > 1, the first dim is "example". The
        coordinate `baseline` is the metric without a patch. If the source is a run, the coordinate
        `source` is the metric of this run.

    Raises:
        ValueError: an argument is not valid, or contradicts `plan` or another argument. With
            `store`: the folder belongs to another sweep, or the edit or metric holds code or
            values that differ between processes.
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
        "mesh": mesh,
        "recordings": recordings,
        "process": process,
    }
    if plan is None:
        required = ("model", "target", "site", "over", "metric")
        if missing := [name for name in required if arguments[name] is None]:
            raise TypeError(f"sweep: missing {', '.join(missing)}. Give these, or plan= alone.")
        plan = plan_sweep(**arguments)
    elif repeated := _non_default_arguments(arguments):
        raise ValueError(
            f"plan: already holds {', '.join(repeated)}. "
            "Leave these out, or pass them to plan_sweep."
        )
    with finished_groups(store, plan) as finished:
        values = SweepValues(plan, finished, progress)
        run_one_ahead(_dispatch_chunks(plan, values))
        result = _labelled(plan, values)
        finished.save_result(result)
    return result


def _non_default_arguments(arguments: dict[str, Any]) -> list[str]:
    """Returns the names of arguments that differ from their defaults."""
    defaults = {"window_s": DEFAULT_WINDOW_S, "alphas": DEFAULT_ALPHAS, "reuse": True}
    # Compared by identity, because `!=` of arrays returns an array.
    return [name for name, value in arguments.items() if value is not defaults.get(name)]


def _dispatch_chunks(plan: Plan, values: SweepValues) -> Iterator[Callable[[], None]]:
    """Dispatches chunks, and yields functions that wait for their results and store them."""
    work = plan.work
    chunks_of = {layer: list(cell_chunks(work, layer)) for layer in work.grid.layers}
    indices_of = {layer: work.grid.cells_of_layer(layer)[0] for layer in work.grid.layers}
    ahead = CompileAhead(plan)
    for rows in plan.row_chunks():
        unfinished = {}
        for layer, indices in indices_of.items():
            if values.load(rows, layer, indices):
                yield functools.partial(values.count, rows, indices)
            else:
                unfinished[layer] = indices
        chunks = [chunk for layer in unfinished for chunk in chunks_of[layer]]
        groups = list(group_by_program(chunks, axis_size(plan.mesh, CELLS)))
        ahead.start(rows, groups)
        ahead.wait_for_unedited()
        recordings = RecordingChunk.of(plan, rows)
        pending = PendingRows.of(rows, recordings, values, unfinished, chunks)
        yield pending.store_baseline
        for group in groups:
            ahead.wait_for(group)
            yield functools.partial(pending.store_chunks, group, recordings.dispatch(group))


def _labelled(plan: Plan, values: SweepValues) -> xr.DataArray:
    """Gives the values of the flattened grid their dimensions and coordinates."""
    grid = plan.work.grid
    rows = np.concatenate([np.zeros(0, int), *plan.row_chunks()])
    per_example = {"baseline": values.baseline}
    if plan.source is not None:
        per_example["source"] = values.source
    attrs: dict[str, Any] = {
        "site": grid.site,
        "metric": type(plan.metric).__name__,
        "scored_position": plan.work.scored_position,
    }
    if "time" in grid.dims:
        attrs["window_s"] = grid.seconds(grid.window)
    coords = grid.labels(plan.target.tokens) | {"example": np.arange(len(values.cells))}
    coords |= {name: ("example", numbers) for name, numbers in per_example.items()}
    cells = values.cells.reshape(-1, *grid.shape)
    result = xr.DataArray(cells, coords, ("example", *grid.dims), grid.site, attrs)
    # Parts of several processes keep the dimension, so that they can be joined.
    if len(cells) == 1 and plan.process.count == 1:
        return without_single_example(result)
    return result.isel(example=rows)
