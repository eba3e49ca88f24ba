"""Lists the programs of encoding, generation, sweeps, attribution and probes, from shapes alone."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from interventions.effects.first_order import attribution
from interventions.metrics import logit_diff
from interventions.patching import cost, programs
from interventions.patching.axes import axes_of_acts, axes_of_memory, specs_of
from interventions.patching.cell_chunks import cell_chunks, group_by_program
from interventions.patching.compute import RecordingChunk
from interventions.patching.plan import Plan
from interventions.patching.planning import DEFAULT_WINDOW_S, plan_sweep
from interventions.planning.devices import PlannedDevice
from interventions.planning.report import ProgramCost, Report, cost_of, least_seconds
from interventions.probes.fit import fit_probes
from interventions.run import Run
from jaxasr import ahead_of_time, compiled
from jaxasr.cache import Memory
from jaxasr.config import Config
from jaxasr.decoding import end_of_text, unrolls_layers
from jaxasr.generate import generate
from jaxasr.meshes import CELLS, DATA, axis_size
from jaxasr.taps import select
from jaxasr.target_device import planning_for
from jaxasr.weights.assemble import abstract_model

# Steps of a solver per penalty that a plan assumes. The real number depends on the data.
_SOLVER_STEPS = 30
_PROMPT_TOKENS = 4
_METRIC = functools.partial(logit_diff, 1, 0)


def plan_encode(config: Config, device: PlannedDevice, n_windows: int = 1) -> Report:
    """Plans to encode windows of 30 s, a share on each device.

    Args:
        config: dimensions and dtypes of the model.
        device: the planned device.
        n_windows: windows that all devices encode in one call.

    Example:
        >>> from interventions import planning
        >>> report = planning.plan_encode(jaxasr.SIZES["tiny"], planning.find_device("h100"))
        >>> f"{report.flops:.1e}"
        '4.4e+10'
    """
    work = _Work(f"encode {n_windows} windows", config, device)
    n_windows = _round_up(n_windows, device.n_devices)
    mesh, n_layers = device.mesh(n_windows), config.n_text_layer
    stacked = Memory(0, (0,) * n_layers, (0,) * n_layers)  # pyright: ignore

    def run(model: Any, mel: Any) -> None:
        compiled.call_on_mesh(
            mesh,
            programs.encode,
            model,
            mel,
            select(),
            specs=(P(), P(DATA), P()),
            out_specs=specs_of((axes_of_memory(stacked, unstacked=False), axes_of_acts(()))),
        )

    return work.report(run, _model(config), _mel(config, n_windows))


def plan_generate(
    config: Config, device: PlannedDevice, n_windows: int = 1, n_tokens: int = 224
) -> Report:
    """Plans greedy generation from windows of 30 s, a share on each device.

    Args:
        config: dimensions and dtypes of the model.
        device: the planned device.
        n_windows: windows that all devices decode in one call.
        n_tokens: new tokens per window.
    """
    share = -(-n_windows // device.n_devices)
    work = _Work(f"generate {n_tokens} tokens from {n_windows} windows", config, device, n_tokens)
    prompt = np.zeros((share, _PROMPT_TOKENS), np.int32)
    eot = config.n_vocab - 1 if end_of_text(config) is None else None

    def run(model: Any, mel: Any) -> None:
        memory, _ = model.encode(mel, unstacked=unrolls_layers(config))
        generate(model, memory, prompt, max_new_tokens=n_tokens, eot=eot)

    work = dataclasses.replace(work, rereads=True, notes=(_each_share(share, "windows"),))
    return work.report(run, _model(config), _mel(config, share))


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
    """Plans a sweep whose source is another recording.

    Args:
        config: dimensions and dtypes of the model.
        device: the planned device.
        site: the patched site.
        over: dimensions of the grid, as in `interventions.sweep`.
        n_recordings: rows of the target.
        n_tokens: tokens per row.
        window_s: seconds per window of "time".
        recordings: rows that a device computes together, as in `interventions.sweep`.
    """
    plans: list[Plan] = []
    mesh = device.mesh(n_recordings)

    def run(model: Any, target: Run, source: Run) -> None:
        plan = plan_sweep(
            model,
            target,
            source,
            site=site,
            over=over,
            metric=_METRIC(),
            window_s=window_s,
            mesh=mesh,
            recordings=recordings,
        )
        plans.append(plan)
        _dispatch_each_program(plan)

    # A cell runs half of the layers on average, because a loop starts at the edited layer.
    n_layers = config.n_text_layer if site.startswith("decoder.") else config.n_audio_layer
    title = f"sweep {site} over {', '.join(over)} of {n_recordings} recordings, {n_tokens} tokens"
    work = _Work(title, config, device, n_layers / 2)
    target = _run(config, n_recordings, n_tokens)
    found = work.programs(run, _model(config), target, target)
    plan = plans[0]
    costs = [work.cost(program) for program in _count_calls(plan, found)]
    return work.made_from(_cell_flops(plan, costs, device), (str(plan),))


def plan_attribution(
    config: Config,
    device: PlannedDevice,
    site: str | Sequence[str],
    over: Sequence[str],
    n_recordings: int = 1,
    n_tokens: int = 30,
) -> Report:
    """Plans an attribution whose source is another recording, a share on each device.

    Args:
        config: dimensions and dtypes of the model.
        device: the planned device.
        site: one site or several.
        over: dimensions of the grid.
        n_recordings: rows of the target.
        n_tokens: tokens per row.
    """
    share = -(-n_recordings // device.n_devices)
    names = site if isinstance(site, str) else ", ".join(site)
    title = f"attribution at {names} of {n_recordings} recordings, {n_tokens} tokens"

    def run(model: Any, target: Run, source: Run) -> None:
        attribution(model, target, source, site=site, over=over, metric=_METRIC())

    work = _Work(title, config, device, notes=(_each_share(share, "recordings"),))
    target = _run(config, share, n_tokens)
    return work.report(run, _model(config), target, target)


def plan_probe(
    device: PlannedDevice,
    shape: tuple[int, int, int],
    n_classes: int = 2,
    n_penalties: int = 4,
    folds: int = 5,
    seeds: int = 1,
) -> Report:
    """Plans a bank of probes, a share of the layers on each device.

    Args:
        device: the planned device.
        shape: layers, rows and features.
        n_classes: number of classes.
        n_penalties: number of penalties.
        folds: number of folds.
        seeds: number of seeds.
    """
    n_layers, n_rows, _ = shape
    share = -(-n_layers // device.n_devices)
    n_fits = n_layers * n_penalties * folds * seeds
    work = _Work(
        f"probes of {' x '.join(map(str, shape))} activations, {n_fits} fits",
        None,
        device,
        _SOLVER_STEPS,
        rereads=True,
        notes=(_each_share(share, "layers"), f"assumes {_SOLVER_STEPS} solver steps per penalty"),
    )
    # Takes no memory. The programs do not depend on the values.
    activations = np.broadcast_to(np.float32(0), (share, *shape[1:]))

    def run() -> None:
        fit_probes(
            activations,
            np.arange(n_rows) % n_classes,
            penalties=np.logspace(-2, 2, n_penalties).tolist(),
            folds=folds,
            seeds=range(seeds),
        )

    return work.report(run)


@dataclasses.dataclass(frozen=True)
class _Work:
    """Some work on some devices. `run` of its methods calls the programs."""

    title: str
    config: Config | None
    device: PlannedDevice
    loop_steps: float = 1
    rereads: bool = False
    notes: tuple[str, ...] = ()

    def programs(self, run: Callable[..., Any], *arguments: Any) -> list[ahead_of_time.Program]:
        with planning_for(self.device.target):
            return ahead_of_time.record(run, *arguments)

    def cost(self, program: ahead_of_time.Program) -> ProgramCost:
        with planning_for(self.device.target):
            return cost_of(program, self.device, self.loop_steps, self.rereads)

    def report(self, run: Callable[..., Any], *arguments: Any) -> Report:
        return self.made_from([self.cost(p) for p in self.programs(run, *arguments)])

    def made_from(self, costs: Sequence[ProgramCost], notes: tuple[str, ...] = ()) -> Report:
        # Probes are computed in float32.
        dtype = "float32" if self.config is None else self.config.dtype
        return Report(
            self.title,
            self.device.name,
            self.device.n_devices,
            self.device.chip.memory_bytes,
            tuple(costs),
            least_seconds(costs, self.device.chip, dtype),
            (*self.notes, *notes),
        )


def _dispatch_each_program(plan: Plan) -> None:
    """Computes one chunk of recordings, and one group of cells per program."""
    work = plan.work
    recordings, seen = RecordingChunk.of(plan, work.row_chunks()[0]), set()
    for group in _groups(plan):
        if group[0].program not in seen:
            seen.add(group[0].program)
            recordings.dispatch(group)


def _groups(plan: Plan) -> list[list[Any]]:
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


def _model(config: Config) -> Any:
    return abstract_model(config)


def _mel(config: Config, n: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((n, config.n_mels, config.n_mel_frames), jnp.float32)


def _run(config: Config, n: int, n_tokens: int) -> Run:
    tokens: Any = jax.ShapeDtypeStruct((n, n_tokens), jnp.int32)
    mel: Any = _mel(config, n)
    return Run(tokens=tokens, mel=mel)


def _round_up(n: int, multiple: int) -> int:
    return math.ceil(n / multiple) * multiple


def _each_share(share: int, what: str) -> str:
    return f"each device computes {share} {what}"
