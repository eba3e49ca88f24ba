"""Plans encoding, generation, attribution and probes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from interventions.effects.first_order import attribution
from interventions.metrics import logit_diff
from interventions.patching.row_chunks import encode_rows
from interventions.planning import language
from interventions.planning.devices import PlannedDevice
from interventions.planning.report import Report
from interventions.planning.work import Work, run_shape
from interventions.probes.fit import fit_probes
from interventions.run import Run
from jaxasr.config import Config
from jaxasr.decoding import end_of_text
from jaxasr.generate import generate
from jaxasr.weights.assemble import abstract_model

# Steps of a solver per penalty that a plan assumes. The real number depends on the data.
_SOLVER_STEPS = 30
_PROMPT_TOKENS = 4


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
        '4.0e+10'
    """
    if config.audio_language is not None:
        return language.plan_encode(config, device, n_windows)
    config = device.supported(config)
    work = Work(f"encode {n_windows} windows", config, device)
    n_windows = device.n_models * -(-n_windows // device.n_models)
    mesh = device.mesh(n_windows)
    return work.report(
        lambda model, run: encode_rows(model, run, mesh),
        abstract_model(config),
        run_shape(config, n_windows, 1),  # the encoder reads no tokens
    )


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
    if config.audio_language is not None:
        return language.plan_generate(config, device, n_windows, n_tokens)
    config = device.supported(config)
    share = -(-n_windows // device.n_models)
    n_rows = share * device.n_models
    work = Work(
        f"generate {n_tokens} tokens from {n_windows} windows",
        config,
        device,
        n_tokens,
        rereads=True,
        notes=(_each_share(share, "windows"),),
    )
    prompt, mesh = np.zeros((n_rows, _PROMPT_TOKENS), np.int32), device.mesh(n_rows)
    options: dict[str, Any] = {} if mesh is None else {"mesh": mesh, "recordings": share}
    if end_of_text(config) is None:
        options["eot"] = config.n_vocab - 1

    def run(model: Any, recorded: Run) -> None:
        memory = encode_rows(model, recorded, mesh)[0].encoded_memory
        generate(model, memory, prompt, max_new_tokens=n_tokens, **options)

    return work.report(run, abstract_model(config), run_shape(config, n_rows, 1))


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
    config = device.supported(config)
    share = -(-n_recordings // device.n_models)
    mesh = device.mesh(share * device.n_models)
    names = site if isinstance(site, str) else ", ".join(site)
    title = f"attribution at {names} of {n_recordings} recordings, {n_tokens} tokens"

    def run(model: Any, target: Run, source: Run) -> None:
        attribution(
            model,
            target,
            source,
            site=site,
            over=over,
            metric=logit_diff(1, 0),
            mesh=mesh,
            recordings=share,
        )

    work = Work(title, config, device, notes=(_each_share(share, "recordings"),))
    target = run_shape(config, share * device.n_models, n_tokens)
    return work.report(run, abstract_model(config), target, target)


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
    work = Work(
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


def _each_share(share: int, what: str) -> str:
    return f"each device computes {share} {what}"
