"""Exact patching sweeps that compute only what each cell can change (see `cells`)."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Float

from interventions.edits import Mix, Patch
from interventions.metrics import Metric, check_metric, scored_position
from interventions.patching import planning
from interventions.patching.compute import Example, Passes
from interventions.patching.finished_groups import Groups, kept_in
from interventions.patching.grid import Grid
from interventions.patching.resumed import Trace
from interventions.patching.sources import template_edit
from interventions.run import Run
from jaxasr import sites
from jaxasr.model import Whisper
from jaxasr.taps import Edit

# Sites whose edit at one position changes what other positions read, in that very layer.
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
        store: a folder in which finished groups of cells are kept, so that an interrupted sweep goes on where it stopped. It belongs
            to one sweep, the code of its edit and metric included, and to one process at a time. A damaged group is computed again.
        progress: called with cells done and cells in all.

    Returns:
        A DataArray with dims `over`, after "example" when B > 1, the metric after the patch; the unpatched metric is the
        coordinate `baseline`, and with a Run as source its own metric `source`.

    Raises:
        ValueError: unknown site, dimension or index; runs of different length; a source and an edit; tokens of the metric outside
            of the vocabulary; a store of another sweep; with `store`, an edit or metric that refers to what is not the same in
            another process, such as a random generator.
        BlockingIOError: another process is writing into `store`.
    """
    plan = plan_sweep(model, target, source, site=site, over=over, metric=metric, edit=edit, window_s=window_s, n_frames=n_frames,
                   alphas=alphas, layers=layers, heads=heads, positions=positions, budget=budget, reuse=reuse)  # fmt: skip
    with kept_in(store, plan) as groups:
        return plan.labelled(*plan.run(groups, progress))


def plan_sweep(
    model: Whisper,
    target: Run,
    source: Run | str | None = None,
    *,
    site: str,
    over: Sequence[str],
    metric: Metric,
    **options: Any,
) -> "Plan":
    """What `sweep` with these arguments would do: print it to see cells, groups, bytes and floating-point operations beforehand."""
    budget, reuse = options.pop("budget", None), options.pop("reuse", True)
    edit, alphas = options.get("edit"), options.get("alphas", (1.0,))
    if target.positions is not None:
        raise ValueError(
            "target: a sweep takes rows of equal length, got padded ones. Sweep rows of each length by themselves."
        )
    check_metric(metric, model.config.n_vocab, target.batch)
    target = target.encode(model)
    n_tokens = jnp.shape(target.tokens)[1]
    spec = sites.spec(model.config, site, 1, n_tokens)
    n_frames = model.config.n_audio_ctx if options.get("n_frames") is None else options["n_frames"]
    chosen = {
        "layer": options.get("layers"),
        "head": options.get("heads"),
        "position": options.get("positions"),
    }
    grid = Grid.of(
        spec,
        over,
        window_s=options.get("window_s", 0.5),
        n_frames=n_frames,
        alphas=alphas,
        chosen=chosen,
    )
    by_rows = reuse and "layer" in grid.coords and sites.stack_of(site) == "decoder"
    shared = Passes(model, metric, tuple(dict.fromkeys((*Trace.SITES, site))) if by_rows else ())
    show = (lambda run: shared.of(run)[1][site]) if by_rows else None
    template, source_run = template_edit(
        model, target, source, edit, site, "alpha" in grid.coords, show
    )
    if hasattr(template, "check"):
        template.check(
            dataclasses.replace(spec, shape=(target.batch, *spec.shape[1:]))
            if source_run is not None
            else spec
        )
    return Plan(
        model,
        target,
        source_run,
        grid,
        template,
        metric,
        scored_position(metric, n_tokens),
        reuse,
        budget,
        by_rows,
        shared,
    )


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
    by_rows: (
        bool  # whether cells are rows of the decoder that share everything but what they change
    )
    passes: Passes

    def run(
        self, kept: Groups, progress: Callable[[int, int], None] | None = None
    ) -> tuple[Float[np.ndarray, "B n"], Float[np.ndarray, "B"]]:
        """Metric of every cell, examples first, cells flat; and without an edit."""
        values = np.full((self.target.batch, int(np.prod(self.grid.shape))), np.nan)
        baseline, done = np.full(self.target.batch, np.nan), 0
        for b in range(self.target.batch):
            example = Example.of(self, b)
            groups = [(example.group(layer), (b, layer)) for layer in self.grid.layers]
            begin = (
                functools.partial(kept.begin, key, len(flat), begin)
                for (flat, begin), key in groups
            )
            for ((flat, _), _), found in zip(groups, planning.one_ahead(begin)):
                values[b, flat] = found
                done += len(flat)
                if progress:
                    progress(done, values.size)
            baseline[b] = example.baseline
        return values, baseline

    def labelled(
        self, values: Float[np.ndarray, "B n"], baseline: Float[np.ndarray, "B"]
    ) -> xr.DataArray:
        shape, dims, coords = self.grid.shape, self.grid.dims, self.grid.labels(self.target.tokens)
        other = (
            isinstance(self.edit, Patch | Mix)
            and self.source is not None
            and self.source is not self.target
        )
        of_source = {"source": np.asarray(self.passes.of(self.source)[0], float)} if other else {}
        attrs = {
            "site": self.grid.site,
            "metric": type(self.metric).__name__,
            "scored_position": self.scored,
        }
        if "time" in dims:
            attrs["window_s"] = self.grid.window / 50
        if self.target.batch == 1:
            scalars = {
                name: value[0] for name, value in {"baseline": baseline, **of_source}.items()
            }
            return xr.DataArray(
                values[0].reshape(shape), coords | scalars, dims, self.grid.site, attrs
            )
        per_example = {
            name: ("example", value) for name, value in {"baseline": baseline, **of_source}.items()
        }
        coords = coords | {"example": np.arange(len(values))} | per_example
        return xr.DataArray(
            values.reshape(-1, *shape), coords, ("example", *dims), self.grid.site, attrs
        )

    @property
    def position_local(self) -> bool:
        return "position" in self.grid.coords and not self.grid.site.endswith(_SHARED)

    @property
    def resumes(self) -> bool:
        """Whether cells can start from a stored residual: those that edit one layer can."""
        return self.reuse and "layer" in self.grid.coords

    def __str__(self) -> str:
        return planning.describe(self)
