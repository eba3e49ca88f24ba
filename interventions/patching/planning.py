"""Plans a sweep: checks its arguments, and decides what is computed together."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.sharding import Mesh

from interventions.edits.base import check_edit
from interventions.edits.places import Indices
from interventions.metrics import Metric
from interventions.patching.audio_positions import count_swept_frames, find_audio_positions
from interventions.patching.grid import Grid
from interventions.patching.plan import Plan
from interventions.patching.resumed_decoder import UneditedTrace
from interventions.patching.resumed_encoder import RESIDUAL_SITES
from interventions.patching.row_chunks import check_recordings
from interventions.patching.sources import source_edit, source_run
from interventions.patching.unedited import UneditedDecoder
from interventions.patching.workload import Workload
from interventions.run import Run
from interventions.run_checks import check_run
from interventions.scoring import check_metric, scored_position
from jaxasr import sites
from jaxasr.meshes import DATA, axis_size, resolve_mesh
from jaxasr.model import SpeechModel
from jaxasr.processes import Process
from jaxasr.taps import Edit

# Defaults of `plan_sweep` and `sweep`. `sweep(plan=...)` rejects arguments that differ from them.
DEFAULT_WINDOW_S = 0.5  # seconds per window of time
# α of `(1-α)·x + α·source`. At 1 the source replaces the activation.
DEFAULT_ALPHAS: tuple[float, ...] = (1.0,)


def plan_sweep(
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
) -> Plan:
    """Checks the arguments of a sweep and plans its chunks. Runs nothing.

    Args:
        model: the model, `asr.model`. All other arguments are those of `sweep`.

    Returns:
        A plan. `print(plan)` shows its cells, bytes and floating-point operations.
        `sweep(plan=plan)` runs it.

    Raises:
        ValueError: the arguments are not valid; see `sweep`.

    Example:
        ```python
        tokens = np.array([[*asr.tokenizer.prompt(), *asr.tokenizer.encode(" The")]])
        run = iv.Run(mel=jaxasr.log_mel(audio, asr.config.n_mels)[None], tokens=tokens)
        plan = iv.plan_sweep(
            asr.model,
            run,
            "zero",
            site="decoder.mlp_out",
            over=("layer", "position"),
            metric=iv.logprob(asr.tokenizer.encode(" captain")[0]),
        )
        print(plan)
        ablated = iv.sweep(plan=plan)
        ```
    """
    _check_runs(model, target, source, edit)
    check_metric(metric, model.config.n_vocab, target.batch)
    n_tokens = jnp.shape(target.tokens)[1]
    spec = sites.spec(model.config, site, 1, n_tokens)
    audio_positions = None
    if spec.n_audio_tokens and "time" in over:
        audio_positions = find_audio_positions(model.config, target, source)
    if n_frames is None:
        n_frames = count_swept_frames(model.config, spec, target, audio_positions)
    grid = Grid.of(
        spec,
        over,
        window_s=window_s,
        n_frames=n_frames,
        alphas=alphas,
        selected={"layer": layers, "head": heads, "position": positions},
        audio_positions=audio_positions,
    )
    check_recordings(recordings)
    scored, mesh = scored_position(metric, n_tokens), resolve_mesh(mesh)
    process = process or Process()
    n_devices = 0 if mesh is None else axis_size(mesh, DATA)
    work = Workload(
        model.config,
        grid,
        target.batch,
        n_tokens,
        scored,
        reuse,
        budget,
        recordings,
        n_devices,
        process.count,
    )
    run, averages_target = source_run(target, source), source == "mean"
    if edit is None:
        edit = source_edit(source, run is not None or averages_target, "alpha" in grid.coords)
    if run is None and not averages_target:
        check_edit(edit, spec)
    # Dicts, because `site` may be one of the other sites, and each is read once.
    patched = [site] if run is not None or averages_target else []
    resumed = UneditedTrace.sites(model.config) if work.in_decoder else RESIDUAL_SITES
    names = tuple(dict.fromkeys((*(resumed if work.resumes else ()), *patched)))
    decoder = UneditedDecoder.of(model, names if work.in_decoder else (), mesh)
    encoder_sites = () if work.in_decoder else names
    return Plan(
        model,
        target,
        run,
        averages_target,
        edit,
        metric,
        decoder,
        encoder_sites,
        work,
        mesh,
        process,
    )


def _check_runs(
    model: SpeechModel, target: Run, source: Run | str | None, edit: Edit | None
) -> None:
    for name, run in (("target", target), ("source", source)):
        if isinstance(run, Run) and run.positions is not None:
            raise ValueError(
                f"{name}: expected rows of equal length, got padded ones. "
                "Sweep the rows of each length separately."
            )
    if (source is None) == (edit is None):
        given = "none" if source is None else "both"
        raise ValueError(f"source, edit: expected one of the two, got {given}.")
    for name, run in (("target", target), ("source", source)):
        if isinstance(run, Run):
            check_run(model.config, run, name)
