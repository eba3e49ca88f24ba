"""Plans the programs of a sweep."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from interventions.metrics import logit_diff
from interventions.patching import cost
from interventions.patching.cell_chunks import CellChunk, cell_chunks, group_by_program
from interventions.patching.compute import RecordingChunk
from interventions.patching.plan import Plan
from interventions.patching.planning import DEFAULT_WINDOW_S, plan_sweep
from interventions.planning.devices import PlannedDevice
from interventions.planning.report import ProgramCost, Report
from interventions.planning.work import Work, run_shape
from interventions.run import Run
from jaxasr import ahead_of_time
from jaxasr.config import Config
from jaxasr.meshes import CELLS, axis_size
from jaxasr.target_device import planning_for
from jaxasr.weights.assemble import abstract_model


def plan_patch(
    config: Config,
    device: PlannedDevice,
    site: str,
    over: Sequence[str],
    n_recordings: int = 1,
    n_tokens: int = 30,
    window_s: float = DEFAULT_WINDOW_S,
    recordings: int | None = None,
) -> Report:
    """Plans a sweep whose source is another recording, and whose metric is a logit difference.

    Args:
        config: dimensions and dtypes of the model.
        device: the planned device.
        site: the patched site.
        over: dimensions of the grid, as in `interventions.sweep`.
        n_recordings: rows of the target.
        n_tokens: tokens of text per row.
        window_s: seconds per window of "time".
        recordings: rows that a device computes together, as in `interventions.sweep`.
    """
    config = device.supported(config)
    plans: list[Plan] = []
    mesh = device.mesh(n_recordings)

    shape = run_shape(config, n_recordings, n_tokens)

    def run(model: Any, target: Run, source: Run) -> None:
        plan = plan_sweep(
            model,
            _with_values(target, shape),
            _with_values(source, shape),
            site=site,
            over=over,
            metric=logit_diff(1, 0),
            window_s=window_s,
            mesh=mesh,
            recordings=recordings,
        )
        plans.append(plan)
        _dispatch_each_program(plan)

    # A cell runs half of the layers on average, because a loop starts at the edited layer.
    n_layers = config.n_text_layer if site.startswith("decoder.") else config.n_audio_layer
    title = f"sweep {site} over {', '.join(over)} of {n_recordings} recordings, {n_tokens} tokens"
    work = Work(title, config, device, n_layers / 2)
    found = work.programs(run, abstract_model(config), shape, shape)
    plan = plans[0]
    with planning_for(device.target):  # its memory decides how cells are divided
        costs = [work.cost(program) for program in _count_calls(plan, found)]
        return work.made_from(_cell_flops(plan, costs, device), (str(plan),))


def _with_values(run: Run, shape: Run) -> Run:
    """Returns a traced run with the tokens and lengths of `shape`, which have values."""
    return dataclasses.replace(run, tokens=shape.tokens, lengths=shape.lengths)


def _dispatch_each_program(plan: Plan) -> None:
    """Computes one chunk of recordings, and one group of cells per program."""
    work = plan.work
    recordings, seen = RecordingChunk.of(plan, work.row_chunks()[0]), set()
    for group in _groups(plan):
        if group[0].program not in seen:
            seen.add(group[0].program)
            recordings.dispatch(group)


def _groups(plan: Plan) -> list[list[CellChunk]]:
    work = plan.work
    chunks = (chunk for layer in work.grid.layers for chunk in cell_chunks(work, layer))
    return list(group_by_program(chunks, axis_size(plan.mesh, CELLS)))


def _count_calls(plan: Plan, found: Sequence[ahead_of_time.Program]) -> list[ahead_of_time.Program]:
    """Returns the programs of a sweep with the calls of the whole sweep."""
    n_chunks, groups = len(plan.work.row_chunks()), _groups(plan)
    # In the order of their first calls, as the recorded programs of cells, which come last.
    keys = list(dict.fromkeys(group[0].program for group in groups))
    n_shared = len(found) - len(keys)
    per_chunk = [program.n_calls for program in found[:n_shared]]
    per_chunk += [sum(group[0].program == key for group in groups) for key in keys]
    return [
        dataclasses.replace(program, n_calls=n_chunks * n)
        for program, n in zip(found, per_chunk, strict=True)
    ]


def _cell_flops(
    plan: Plan, costs: Sequence[ProgramCost], device: PlannedDevice
) -> list[ProgramCost]:
    """Replaces the operations of cells by those of the plan, which knows every edited layer."""
    is_cell = [c.name.endswith("_cells") for c in costs]
    n_calls = sum(c.n_calls for c, of_cells in zip(costs, is_cell) if of_cells)
    per_call = cost.flops(plan.work) / device.n_devices / max(1, n_calls)
    return [
        dataclasses.replace(c, flops=per_call) if of_cells else c
        for c, of_cells in zip(costs, is_cell)
    ]
