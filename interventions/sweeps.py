"""Exact patching sweeps that compute only what each cell can change (see `cells`)."""
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

from interventions import cells as _cells, passes, planning
from interventions.agreement import rank_agreement
from interventions.attribution import attribution
from interventions.cells import Resumed, Trace
from interventions.edits import Mix, Patch
from interventions.grid import Grid, placed, strength
from interventions.metrics import Metric, scored_position
from interventions.rows import Rows
from interventions.run import Run
from interventions.sources import template_edit
from jaxasr import compiled, sites
from jaxasr.cache import Memory
from jaxasr.model import Whisper, exactly
from jaxasr.stack import unstack_once
from jaxasr.steps import unrolls
from jaxasr.taps import Acts, Edit, Edits, select

# Sites whose edit at one position changes, in that layer, no other position.
_SHARED = ("resid_pre", "attn.k", "attn.v")

Said = tuple[Float[Array, "B"], Acts, Memory]


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
    swept = plan.labelled(*plan.run(planning.Store.open(store, plan), progress))
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
    by_rows = reuse and "layer" in grid.coords and sites.stack_of(site) == "decoder"
    shared = Passes(model, metric, tuple(dict.fromkeys((*Trace.SITES, site))) if by_rows else ())
    show = (lambda run: shared.of(run)[1][site]) if by_rows else None
    template, source_run = template_edit(model, target, source, edit, site, "alpha" in grid.coords, show)
    if hasattr(template, "check"):
        template.check(dataclasses.replace(spec, shape=(target.batch, *spec.shape[1:])) if source_run is not None else spec)
    return Plan(model, target, source_run, grid, template, metric, scored_position(metric, n_tokens), reuse, budget, by_rows, shared)


class Passes:
    """The passes without an edit that cells share. Those of whole runs, which sources are, are made once a run."""

    def __init__(self, model: Whisper, metric: Metric, keep: tuple[str, ...]):
        self.blocks = unstack_once(model, model.decoder.blocks) if unrolls(model.config) else None
        self.frozen, self.metric, self.readout = compiled.Frozen.of((model, self.blocks)), metric, select(*keep)
        self._known: list[tuple[Run, Said]] = []

    def of(self, run: Run, metric: Metric | None = None) -> Said:
        """The metric of every row, what the run shows, and its memory as cells read it. `metric`: of a run that is one row."""
        if metric is not None:
            return compiled.call(_said, self.frozen, run, taps=(metric, self.readout))
        found = next((said for known, said in self._known if known is run), None)
        if found is None:
            found = self.of(run, self.metric)
            self._known.append((run, found))
        return found


def _said(frozen: compiled.Frozen, run: Run, taps: tuple) -> Said:
    (model, blocks), (metric, readout) = frozen.whole, taps
    memory = run.memory if blocks is None else run.memory.apart()  # one copy for the pass and for the cells
    with exactly(model):
        return *passes.say(model, run, memory, {}, readout, metric, blocks), memory


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
    by_rows: bool  # whether cells are rows of the decoder that share everything but what they change
    passes: Passes

    def run(
        self, store: Any, progress: Callable[[int, int], None] | None = None
    ) -> tuple[Float[np.ndarray, "B n"], Float[np.ndarray, "B"]]:
        """Metric of every cell, examples first, cells flat; and without an edit."""
        values = np.full((self.target.batch, int(np.prod(self.grid.shape))), np.nan)
        baseline, done = np.full(self.target.batch, np.nan), 0
        for b in range(self.target.batch):
            example = _Example.of(self, b)
            baseline[b] = example.baseline
            for layer in self.grid.layers:
                flat, compute = example.group(layer)
                values[b, flat] = store.get((b, layer), compute)
                done += len(flat)
                if progress:
                    progress(done, values.size)
        return values, baseline

    def labelled(self, values: Float[np.ndarray, "B n"], baseline: Float[np.ndarray, "B"]) -> xr.DataArray:
        shape, dims, coords = self.grid.shape, self.grid.dims, self.grid.labels(self.target.tokens)
        other = isinstance(self.edit, Patch | Mix) and self.source is not None and self.source is not self.target
        of_source = {"source": np.asarray(self.passes.of(self.source)[0], float)} if other else {}
        attrs = {"site": self.grid.site, "metric": type(self.metric).__name__, "scored_position": self.scored}
        if "time" in dims:
            attrs["window_s"] = self.grid.window / 50
        if self.target.batch == 1:
            scalars = {name: value[0] for name, value in {"baseline": baseline, **of_source}.items()}
            return xr.DataArray(values[0].reshape(shape), coords | scalars, dims, self.grid.site, attrs)
        per_example = {name: ("example", value) for name, value in {"baseline": baseline, **of_source}.items()}
        coords = coords | {"example": np.arange(len(values))} | per_example
        return xr.DataArray(values.reshape(-1, *shape), coords, ("example", *dims), self.grid.site, attrs)

    @property
    def own_position(self) -> bool:
        return "position" in self.grid.coords and not self.grid.site.endswith(_SHARED)

    @property
    def resumes(self) -> bool:
        """Whether cells can start from a stored residual: those that edit one layer can."""
        return self.reuse and "layer" in self.grid.coords

    def __str__(self) -> str:
        return planning.describe(self)


@dataclasses.dataclass(frozen=True, eq=False)
class _Example:
    """One row of the target with everything that its cells share."""

    plan: Plan
    row: Run
    heard: Memory  # apart, where generation loops over layers too
    edit: Edit
    metric: Metric
    baseline: float
    stored: Any  # Trace of the decoder, or the encoder's residuals before and after each layer

    @classmethod
    def of(cls, plan: Plan, b: int) -> "_Example":
        row = plan.target.row(b)
        metric = plan.metric.row(b) if hasattr(plan.metric, "row") else plan.metric
        edit = plan.edit
        if plan.source is not None and isinstance(edit, Patch | Mix):
            axis = int(plan.grid.site in sites.LAYERED)
            edit = edit.replace(value=jnp.take(edit.value, jnp.array([b]), axis))
        baseline, acts, heard = plan.passes.of(row, metric)
        stored = Trace.of(acts) if plan.by_rows else _hear(plan.model, row.sound) if plan.resumes else None
        return cls(plan, row, heard, edit, metric, float(baseline[0]), stored)

    def group(self, layer: int | None) -> tuple[Int[np.ndarray, "n"], Callable[[], Float[np.ndarray, "n"]]]:
        """The cells that start at one layer: where they stand in the flat grid, and what computes them."""
        if self.plan.by_rows:
            flat, cells = self.plan.grid.columns(layer)
            return flat.ravel(), functools.partial(self._columns, layer, flat.shape, cells)
        flat, cells = self.plan.grid.cells(layer)
        return flat, lambda: planning.chunked(functools.partial(self._one_by_one, layer), cells, planning.chunk(self.plan))

    def _columns(self, layer: int, shape: tuple[int, ...], cells: dict[str, np.ndarray]) -> Float[np.ndarray, "n"]:
        values = np.full(shape, self.baseline)
        for part in planning.parts(self.plan, layer):
            found = planning.chunked(functools.partial(self._part, layer, part), cells, part.together)
            values[part.columns] = found[:, : len(part.columns)].T
        return values.ravel()

    def _part(self, layer: int, part: planning.Part, cells: dict[str, np.ndarray]) -> Array:
        p = self.plan
        heard = None if p.passes.blocks is None else tuple(zip(self.heard.k, self.heard.v))
        dynamic = (p.passes.frozen, heard, jnp.int32(layer), cells, part.rows, self.row.memory, self.stored)
        grid = (p.grid.site, p.grid.window, p.grid.n_frames, "position" in p.grid.coords)
        return compiled.call(_decoder_cells, *dynamic, taps=(self.edit, self.metric), grid=grid, own=p.own_position, above=part.above)

    def _one_by_one(self, layer: int | None, cells: dict[str, np.ndarray]) -> Array:
        p = self.plan
        dynamic = (p.model, jnp.int32(layer or 0), cells, self.row.tokens, self.row.memory, self.stored, self.row.sound)
        grid = (p.grid.site, p.grid.window, p.grid.n_frames)
        fn = _plain_cells if sites.stack_of(p.grid.site) == "decoder" else _encoder_cells
        return compiled.call(fn, *dynamic, taps=(self.edit, self.metric), grid=grid, scored=p.scored)


def _hear(model: Whisper, mel: Array | None) -> tuple[Array, Array]:
    if mel is None:
        raise ValueError("target: a sweep of the encoder needs the recording; give Run(mel=...) rather than Run(memory=...).")
    names = ("encoder.resid_pre", "encoder.resid_post")
    acts = model.encode(mel, readout=select(*names))[1]
    return acts[names[0]], acts[names[1]]


def _decoder_cells(
    frozen: compiled.Frozen, heard: tuple | None, first: Array, cells: dict, rows: Rows, memory: Memory, trace: Trace, taps: tuple,
    *, grid: tuple, own: bool, above: int,
) -> Float[Array, "K P"]:  # fmt: skip
    (model, blocks), (edit, metric) = frozen.whole, taps
    site, window, n_frames, placed_in_time = grid
    # Where every row is at its own place, so is the edit; else it acts on the rows at which a column starts.
    shape = [-1 if axis in "TS" else 1 for axis in sites.SITES[site]]
    when = jnp.reshape(rows.starting, shape) if placed_in_time and not own else None

    def edits_of(cell: dict) -> Edits:
        return {site: placed(*strength(edit, cell), window, n_frames, when)}

    with exactly(model):
        x = Resumed(model, blocks, heard, memory, trace, rows, first, own, above).residuals(edits_of, cells)
        scored = jax.vmap(lambda row: _cells.score(model, row[None], metric))(x.reshape(-1, x.shape[-1]))
        return scored.reshape(x.shape[:-1])


def _plain_cells(
    model: Whisper, first: Array, cells: dict, tokens: Array, memory: Memory, stored: None, mel: None, taps: tuple,
    *, grid: tuple, scored: int,
) -> Float[Array, "K"]:  # fmt: skip
    del first, stored, mel
    edit, metric = taps
    site, window, n_frames = grid

    def cell(place: dict) -> Array:
        edits = {site: placed(*strength(edit, place), window, n_frames)}
        return _cells.plain_score(model, tokens, memory, edits, scored, metric)

    with exactly(model):
        return jax.vmap(cell)(cells)


def _encoder_cells(
    model: Whisper, first: Array, cells: dict, tokens: Array, memory: Memory, stored: tuple | None, mel: Array, taps: tuple,
    *, grid: tuple, scored: int,
) -> Float[Array, "K"]:  # fmt: skip
    edit, metric = taps
    site, window, n_frames = grid

    def cell(place: dict) -> Array:
        edits = {site: placed(*strength(edit, place), window, n_frames)}
        heard = model.encode(mel, edits)[0] if stored is None else _cells.resumed_memory(model, site, stored, edits, first)
        return _cells.score(model, _cells.scored_residual(model, tokens, heard, {}, scored), metric)

    with exactly(model):
        if len(jax.tree.leaves(cells)[0]) == 1:  # a lone cell runs as a plain pass
            return cell(jax.tree.map(lambda column: column[0], cells))[None]
        return jax.vmap(cell)(cells)


