"""Exact patching sweeps that compute only what each cell can change (see `cells`)."""
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from interventions import cells as _cells, planning
from interventions.agreement import rank_agreement
from interventions.attribution import attribution
from interventions.cells import Resumed, Trace
from interventions.edits import Mix, Patch
from interventions.grid import Grid, placed, strength
from interventions.metrics import Metric, scored_position
from interventions.run import Run
from interventions.sources import template_edit
from jaxasr import compiled, sites
from jaxasr.cache import Memory
from jaxasr.model import Whisper, exactly
from jaxasr.taps import Edit, select

# Sites whose edit at one position changes, in that layer, no other position.
_SHARED = ("resid_pre", "attn.k", "attn.v")


def sweep(
    model: Whisper,
    target: Run,
    source: Run | str | None = None,
    *,
    site: str,
    over: Sequence[str],
    metric: Metric,
    edit: Edit | None = None,
    window_s: float = 0.5,
    n_frames: int | None = None,
    alphas: Sequence[float] = (1.0,),
    layers: Any = None,
    heads: Any = None,
    positions: Any = None,
    budget: int | None = None,
    reuse: bool = True,
    store: Any = None,
    verify: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.DataArray:
    """The metric after patching `site` of `target` with `source`, at every cell of the grid `over`, one example at a time.

    Args:
        target: the run that is patched, B examples of T tokens.
        source: a run of the same number of tokens, whose activations are put in; or "zero"; "mean", the target's own mean over
            its positions; "noise", Gaussian of each step's own rms (seed 0). For white-noise *audio* give its run.
        site: any site of either stack. over: of "layer", "head", "position" (decoder), "time" (encoder frames, in windows of
            `window_s` seconds, up to `n_frames`), "alpha" (`alphas`, in `(1-α)·own + α·source`). A dimension left out is
            patched all at once.
        metric: see `interventions.metrics`.
        edit: instead of a source, an edit of your own to be placed at every cell; it must act on every position by itself.
        layers, heads, positions: the indices to sweep, default all.
        budget: bytes that the cells computed together may take; None asks the device. reuse: False recomputes everything in
            every cell (for comparison; the results agree).
        store: a folder in which finished groups of cells are kept, so that an interrupted sweep goes on where it stopped.
        verify: "top20" also runs `attribution` on the same cells and says, in `attrs["attribution"]`, how well it ranks them.
        progress: called with cells done and cells in all.

    Returns:
        A DataArray with dims `over`, after "example" when B > 1, the metric after the patch; the unpatched metric is the
        coordinate `baseline`, and with a Run as source its own metric `source`.

    Raises:
        ValueError: unknown site, dimension or index; runs of different length; a source and an edit.
    """
    plan = planned(model, target, source, site=site, over=over, metric=metric, edit=edit, window_s=window_s, n_frames=n_frames,
                   alphas=alphas, layers=layers, heads=heads, positions=positions, budget=budget, reuse=reuse)  # fmt: skip
    values = plan.run(planning.Store.open(store, plan), progress)
    swept = plan.labelled(values)
    if verify is None:
        return swept
    if source is None or set(over) & {"alpha"} or any(chosen is not None for chosen in (layers, heads, positions)):
        raise ValueError("verify: attribution estimates whole grids patched from a source, without strengths or chosen indices.")
    options = {"window_s": window_s, "n_frames": n_frames}
    estimate = attribution(model, target=target, source=source, site=site, over=tuple(over), metric=metric, **options)
    return swept.assign_attrs(attribution=dataclasses.asdict(rank_agreement(swept, estimate, _top(verify))))


def _top(verify: str) -> int:
    if not verify.startswith("top") or not verify[3:].isdigit():
        raise ValueError(f'verify: expected "top20" or another number, got {verify!r}.')
    return int(verify[3:])


def planned(
    model: Whisper, target: Run, source: Run | str | None = None, *, site: str, over: Sequence[str], metric: Metric, **options: Any
) -> "Plan":
    """What `sweep` with these arguments would do: print it to see cells, groups, bytes and floating-point operations beforehand."""
    budget, reuse = options.pop("budget", None), options.pop("reuse", True)
    edit, alphas = options.get("edit"), options.get("alphas", (1.0,))
    if target.positions is not None:
        raise ValueError("target: a sweep takes rows of equal length, got padded ones. Sweep rows of each length by themselves.")
    target = target.heard(model)
    n_tokens = jnp.shape(target.tokens)[1]
    spec = sites.spec(model.config, site, 1, n_tokens)
    n_frames = model.config.n_audio_ctx if options.get("n_frames") is None else options["n_frames"]
    chosen = {"layer": options.get("layers"), "head": options.get("heads"), "position": options.get("positions")}
    grid = Grid.of(spec, over, window_s=options.get("window_s", 0.5), n_frames=n_frames, alphas=alphas, chosen=chosen)
    template, source_run = template_edit(model, target, source, edit, site, "alpha" in grid.coords)
    if hasattr(template, "check"):
        template.check(dataclasses.replace(spec, shape=(target.batch, *spec.shape[1:])) if source_run is not None else spec)
    scored = scored_position(metric, n_tokens)
    return Plan(model, target, source_run, grid, template, metric, scored, reuse, budget)


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """One sweep, ready to run. `str(plan)` says what it will cost."""

    model: Whisper
    target: Run
    source: Run | None
    grid: Grid
    edit: Edit
    metric: Metric
    scored: int
    reuse: bool
    budget: int | None

    def run(self, store: Any, progress: Callable[[int, int], None] | None = None) -> Float[np.ndarray, "B n"]:
        """Metric of every cell, examples first, cells flat."""
        values = np.full((self.target.batch, int(np.prod(self.grid.shape))), np.nan)
        done = 0
        for b in range(self.target.batch):
            example = _example(self, b)
            for layer in self.grid.layers:
                flat, cells = self.grid.cells(layer)
                values[b, flat] = store.get((b, layer), lambda e=example, la=layer, c=cells: e.group(la, c))
                done += len(flat)
                if progress:
                    progress(done, values.size)
        return values

    def labelled(self, values: Float[np.ndarray, "B n"]) -> xr.DataArray:
        shape, dims, coords = self.grid.shape, self.grid.dims, self.grid.labels(self.target.tokens)
        baseline = self.baselines
        other = isinstance(self.edit, Patch | Mix) and self.source is not None and self.source is not self.target
        of_source = {"source": self._unpatched(self.source)} if other else {}
        attrs = {"site": self.grid.site, "metric": type(self.metric).__name__, "scored_position": self.scored}
        if "time" in dims:
            attrs["window_s"] = self.grid.window / 50
        if self.target.batch == 1:
            scalars = {name: value[0] for name, value in {"baseline": baseline, **of_source}.items()}
            return xr.DataArray(values[0].reshape(shape), coords | scalars, dims, self.grid.site, attrs)
        per_example = {name: ("example", value) for name, value in {"baseline": baseline, **of_source}.items()}
        coords = coords | {"example": np.arange(len(values))} | per_example
        return xr.DataArray(values.reshape(-1, *shape), coords, ("example", *dims), self.grid.site, attrs)

    @functools.cached_property
    def baselines(self) -> Float[np.ndarray, "B"]:
        """The metric of the unpatched target."""
        return self._unpatched(self.target)

    def _unpatched(self, run: Run) -> Float[np.ndarray, "B"]:
        return np.array([float(_baseline(self.model, run, b, self.metric, self.scored)) for b in range(run.batch)])

    @property
    def own_position(self) -> bool:
        return "position" in self.grid.coords and not self.grid.site.endswith(_SHARED)

    @property
    def resumes(self) -> bool:
        """Whether cells can start from a stored residual: sites within layers can."""
        return self.reuse and self.grid.site in sites.LAYERED

    def __str__(self) -> str:
        return planning.describe(self)


@dataclasses.dataclass(frozen=True, eq=False)
class _Example:
    """One row of the target with everything that its cells share."""

    plan: Plan
    tokens: Array
    memory: Memory
    edit: Edit
    metric: Metric
    baseline: float
    stored: Any  # Trace of the decoder, or the encoder's residuals before and after each layer
    mel: Array | None

    def group(self, layer: int | None, cells: dict[str, np.ndarray]) -> Float[np.ndarray, "n"]:
        """The cells that start at one layer."""
        values = np.full(len(next(iter(cells.values()))), self.baseline)
        for width, chosen in planning.widths(self.plan, layer, cells):
            group = {dim: column[chosen] for dim, column in cells.items()}
            values[chosen] = planning.chunked(functools.partial(self._compute, layer, width), group, planning.chunk(self.plan, width))
        return values

    def _compute(self, layer: int | None, width: int, cells: dict[str, np.ndarray]) -> Array:
        p = self.plan
        dynamic = (p.model, jnp.int32(layer or 0), cells, self.tokens, self.memory, self.stored, self.mel)
        grid = (p.grid.site, p.grid.window, p.grid.n_frames)
        fn = _decoder_cells if sites.stack_of(p.grid.site) == "decoder" else _encoder_cells
        return compiled.call(fn, *dynamic, taps=(self.edit, self.metric), grid=grid, width=width, scored=p.scored,
                             own=p.own_position, resumes=p.resumes)  # fmt: skip


def _example(plan: Plan, b: int) -> _Example:
    row = plan.target.row(b)
    metric = plan.metric.row(b) if hasattr(plan.metric, "row") else plan.metric
    edit = plan.edit
    if plan.source is not None and isinstance(edit, Patch | Mix):
        axis = int(plan.grid.site in sites.LAYERED)
        edit = edit.replace(value=jnp.take(edit.value, jnp.array([b]), axis))
    stored = None
    if plan.resumes:
        stored = _trace(plan, row) if sites.stack_of(plan.grid.site) == "decoder" else _hear(plan.model, row.sound)
    return _Example(plan, row.tokens, row.memory, edit, metric, plan.baselines[b], stored, row.sound)


def _baseline(model: Whisper, run: Run, b: int, metric: Metric, scored: int) -> Array:
    row = run.row(b)
    metric = metric.row(b) if hasattr(metric, "row") else metric
    return compiled.call(_unpatched, model, row.tokens, row.memory, taps=metric, scored=scored)


def _unpatched(model: Whisper, tokens: Array, memory: Memory, metric: Metric, *, scored: int) -> Array:
    with exactly(model):
        return _cells.score(model, _cells.scored_residual(model, tokens, memory, {}, scored), metric)


def _trace(plan: Plan, row: Run) -> Trace:
    """The pass of the target that its cells resume from."""
    return compiled.call(_traced, plan.model, row.tokens[:, : plan.scored + 1], row.memory, taps=None)


def _traced(model: Whisper, tokens: Array, memory: Memory, taps: None) -> Trace:
    """Stored residuals, keys and values, with room for a window that starts at the scored position."""
    del taps
    names = ("decoder.resid_pre", "decoder.resid_post", "decoder.attn.k", "decoder.attn.v")
    acts = model.decode(tokens, memory, readout=select(*names))[1]
    pre, post, k, v = (jnp.pad(acts[name], ((0, 0), (0, 0), (0, tokens.shape[1]), *[(0, 0)] * (acts[name].ndim - 3))) for name in names)
    return Trace(pre, post, jnp.swapaxes(k, 2, 3), jnp.swapaxes(v, 2, 3))


def _hear(model: Whisper, mel: Array | None) -> tuple[Array, Array]:
    if mel is None:
        raise ValueError("target: a sweep of the encoder needs the recording; give Run(mel=...) rather than Run(memory=...).")
    names = ("encoder.resid_pre", "encoder.resid_post")
    acts = model.encode(mel, readout=select(*names))[1]
    return acts[names[0]], acts[names[1]]


def _decoder_cells(
    model: Whisper, first: Array, cells: dict, tokens: Array, memory: Memory, trace: Trace | None, mel: None, taps: tuple,
    *, grid: tuple, width: int, scored: int, own: bool, resumes: bool,
) -> Float[Array, "K"]:  # fmt: skip
    edit, metric = taps
    site, window, n_frames = grid

    def cell(place: dict) -> Array:
        edits = {site: placed(*strength(edit, place), window, n_frames)}
        if not resumes:
            return _cells.plain_score(model, tokens, memory, edits, scored, metric)
        start = place.get("position", jnp.int32(0))
        resumed = Resumed(model, memory, trace, edits, first, start, width, scored)
        return _cells.score(model, resumed.residual(own), metric)

    with exactly(model):
        return jax.vmap(cell)(cells)


def _encoder_cells(
    model: Whisper, first: Array, cells: dict, tokens: Array, memory: Memory, stored: tuple | None, mel: Array, taps: tuple,
    *, grid: tuple, width: int, scored: int, own: bool, resumes: bool,
) -> Float[Array, "K"]:  # fmt: skip
    edit, metric = taps
    site, window, n_frames = grid

    def cell(place: dict) -> Array:
        edits = {site: placed(*strength(edit, place), window, n_frames)}
        heard = _cells.resumed_memory(model, site, stored, edits, first) if resumes else model.encode(mel, edits)[0]
        return _cells.score(model, _cells.scored_residual(model, tokens, heard, {}, scored), metric)

    with exactly(model):
        if len(jax.tree.leaves(cells)[0]) == 1:  # a lone cell runs as a plain pass
            return cell(jax.tree.map(lambda column: column[0], cells))[None]
        return jax.vmap(cell)(cells)


