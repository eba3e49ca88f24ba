"""Plans a sweep, by checking its arguments and running its source."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from interventions.edits.base import check_edit
from interventions.edits.places import Indices
from interventions.metrics import Metric
from interventions.patching.grid import Grid
from interventions.patching.plan import Plan
from interventions.patching.resumed_decoder import UneditedTrace
from interventions.patching.sources import activation, source_edit, source_run
from interventions.patching.unedited import UneditedDecoder
from interventions.patching.workload import Workload
from interventions.run import Run
from interventions.scoring import check_metric, scored_position
from jaxasr import sites
from jaxasr.model import Whisper
from jaxasr.taps import Edit

# Defaults of `plan_sweep` and `sweep`. `sweep(plan=...)` rejects arguments that differ from them.
DEFAULT_WINDOW_S = 0.5  # seconds per window of time
# α of `(1-α)·x + α·source`. At 1 the source replaces the activation.
DEFAULT_ALPHAS: tuple[float, ...] = (1.0,)


def plan_sweep(
    model: Whisper,
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
) -> Plan:
    """Checks the arguments of a sweep, runs its source once and returns its plan.

    Args:
        model: the model, `asr.model`. All other arguments are those of `sweep`.

    Returns:
        A plan. `print(plan)` shows its cells, bytes and floating-point operations.
        `sweep(plan=plan)` runs it and does not run the source again.

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
    _check_runs(target, source, edit)
    check_metric(metric, model.config.n_vocab, target.batch)
    target = target.encode(model)
    n_tokens = jnp.shape(target.tokens)[1]
    spec = sites.spec(model.config, site, 1, n_tokens)
    grid = Grid.of(
        spec,
        over,
        window_s=window_s,
        n_frames=model.config.n_audio_ctx if n_frames is None else n_frames,
        alphas=alphas,
        selected={"layer": layers, "head": heads, "position": positions},
    )
    scored = scored_position(metric, n_tokens)
    work = Workload(model.config, grid, target.batch, n_tokens, scored, reuse, budget)
    # A dict, because `site` may be one of the sites of the trace, and each is read once.
    read_sites = dict.fromkeys((*UneditedTrace.SITES, site)) if work.resumes_decoder else ()
    decoder = UneditedDecoder.of(model, *read_sites)
    if edit is None:
        assert source is not None
        cell_edit = _edit_from_source(model, target, source, decoder, metric, work)
    else:
        cell_edit = _CellEdit(edit)
    if cell_edit.run is not None:
        # The values of this edit have one row per example.
        spec = dataclasses.replace(spec, shape=(target.batch, *spec.shape[1:]))
    check_edit(cell_edit.edit, spec)
    return Plan(
        model, target, cell_edit.run, cell_edit.edit, metric, cell_edit.metric, decoder, work
    )


def _check_runs(target: Run, source: Run | str | None, edit: Edit | None) -> None:
    # Padded rows have positions of their own, and a cell edits one column in all rows.
    if target.positions is not None:
        raise ValueError(
            "target: expected rows of equal length, got padded ones. "
            "Sweep the rows of each length separately."
        )
    if (source is None) == (edit is None):
        given = "none" if source is None else "both"
        raise ValueError(f"source, edit: expected one of the two, got {given}.")


class _CellEdit(NamedTuple):
    """The edit that is placed at every cell.

    Attributes:
        edit: the edit.
        run: the encoded run that the values of the edit come from, if any.
        metric: the metric of `run`; None if `run` is None or the target itself.
    """

    edit: Edit
    run: Run | None = None
    metric: Float[Array, "B"] | None = None


def _edit_from_source(
    model: Whisper,
    target: Run,
    source: Run | str,
    decoder: UneditedDecoder,
    metric: Metric,
    work: Workload,
) -> _CellEdit:
    """Runs the source once, and makes the edit from its activation."""
    site, has_alpha = work.grid.site, "alpha" in work.grid.coords
    run = source_run(model, target, source)
    if run is None:
        return _CellEdit(source_edit(source, None, site, has_alpha))
    unedited = None
    if work.resumes_decoder:
        # One pass returns the metric and the activation, because the decoder reads `site`.
        unedited = decoder.run(run, metric)
        value = unedited.acts[site]
    else:
        value = activation(model, run, site)
    edit = source_edit(source, value, site, has_alpha)
    if run is target:
        return _CellEdit(edit, run)
    unedited = unedited or decoder.run(run, metric)
    return _CellEdit(edit, run, unedited.metric)
