"""Attribution patching: every cell of a sweep, to first order, from one forward and one backward pass through the target.

metric(patched) - metric(unpatched) ≈ Σ over the cell of ∂metric/∂x · (source - x), with the gradient taken in the target with
respect to zeros added at the site (Nanda 2023; Kramár et al. 2024, arXiv 2403.00745, AtP). At q and k, see `softmax_aware`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from interventions import forward
from interventions.edits import Noise
from interventions.edits.combining import time_axes
from interventions.effects import softmax_aware
from interventions.metrics import Metric, Rank
from interventions.patching.grid import Grid
from interventions.patching.sources import check_source, resampled
from interventions.run import Run
from interventions.scoring import check_metric
from jaxasr import compiled, pytrees, sites
from jaxasr.decoder import causal_mask
from jaxasr.model import Whisper, full_precision
from jaxasr.taps import Acts, At, select

_AXIS = {"layer": "L", "head": "H"}


@pytrees.dataclass
class _Nudge:
    """`Add(zeros)` without looking positions up: adds `value`, of the shape that a readout gives, where the gradient is taken."""

    value: Array

    def __call__(self, x: Array, at: At) -> Array:
        return x + (self.value[at.layer] if self.value.ndim > x.ndim else self.value)


@dataclasses.dataclass(frozen=True)
class _Cells:
    """How a site's effects become cells: hashable, so that it is part of what is compiled."""

    site: str
    dims: tuple[str, ...]
    window: int
    aware: bool

    @property
    def axes(self) -> tuple[str, ...]:
        return (*"L" * (self.site in sites.LAYERED), *sites.SITES[self.site])

    @property
    def axis_of(self) -> dict[str, str]:
        position, frames = time_axes(sites.SITES[self.site], self.site)
        return {dim: (_AXIS | {"position": position, "time": frames})[dim] for dim in self.dims}

    @property
    def z(self) -> str:
        return self.site.rsplit(".", 1)[0] + ".z"

    @property
    def read(self) -> tuple[str, ...]:
        """The sites of the target that this needs."""
        stem = self.site.rsplit(".", 1)[0]
        return (f"{stem}.q", f"{stem}.k", f"{stem}.v") if self.aware else (self.site,)

    def reduce(
        self, effect: Float[Array, "..."], axes: tuple[str, ...], n_frames: Array
    ) -> Float[Array, "B ..."]:
        """Sums `effect` over everything but examples and `dims`, and over the true frames of each window."""
        kept = ["B", *self.axis_of.values()]
        effect = effect.sum([i for i, axis in enumerate(axes) if axis not in kept])
        left = [axis for axis in axes if axis in kept]
        effect = jnp.transpose(effect, [left.index(axis) for axis in kept])
        if "time" not in self.dims or (self.aware and self.site.endswith(".k")):
            return effect
        return _windows(effect, 1 + self.dims.index("time"), self.window, n_frames)


def _windows(
    x: Float[Array, "..."], axis: int, window: int, n_frames: Array
) -> Float[Array, "..."]:
    """Those of all 30 s, so that recordings of every length share an executable."""
    x = jnp.moveaxis(x, axis, -1)
    x = jnp.where(jnp.arange(x.shape[-1]) < n_frames, x, 0)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % window)])
    return jnp.moveaxis(x.reshape(*x.shape[:-1], -1, window).sum(-1), -1, axis)


def attribution(
    model: Whisper,
    target: Run,
    source: Run | str,
    *,
    site: str | Sequence[str],
    over: Sequence[str],
    metric: Metric,
    correction: bool = True,
    window_s: float = 0.5,
    n_frames: int | None = None,
) -> Any:
    """First-order estimate of metric(patched) - metric(unpatched) at every cell that `sweep` would compute, with its labels.

    Args:
        target, source, over, metric, window_s, n_frames: as in `sweep` ("alpha" aside: the estimate is linear in it).
        site: one site of either stack, or several, which share the passes; each takes of `over` what it has.
        correction: at q and k, carry the patch through the softmax exactly and go to first order behind it. Exact up to the
            head's output for each position of q, and for each position or window of k by itself.

    Returns:
        A DataArray as `sweep` gives it, with the unpatched metric as the coordinate `baseline`; for several sites, a dict of them.
        Cost: a forward of the source, a forward and a backward of the target; the encoder's only where a site of it is asked for.

    Raises:
        ValueError: unknown site or dimension; runs of different length or batch; a metric without a gradient (`rank`), or of tokens
            outside of the vocabulary.
    """
    names = (site,) if isinstance(site, str) else tuple(site)
    _check(target, source, metric, over)
    check_metric(metric, model.config.n_vocab, target.batch)
    source = (
        resampled(target, source)
        if isinstance(source, str) and source.startswith("resample")
        else source
    )
    specs = {name: sites.spec(model.config, name, 1, jnp.shape(target.tokens)[1]) for name in names}
    n_frames = model.config.n_audio_ctx if n_frames is None else n_frames
    grids = {
        name: _grid(spec, over, window_s, n_frames, several=len(names) > 1)
        for name, spec in specs.items()
    }
    cells = tuple(
        _Cells(n, g.dims, g.window, correction and n.endswith((".q", ".k")))
        for n, g in grids.items()
    )
    given, kind = (source, None) if isinstance(source, Run) else (None, source)
    value, effects = compiled.call(
        _attribute, model, target, given, np.int32(n_frames), metric, cells=cells, source_kind=kind
    )
    out = {
        name: _labelled(grids[name], target, np.asarray(effect), np.asarray(value), metric)
        for name, effect in zip(names, effects)
    }
    return out[site] if isinstance(site, str) else out


def _check(target: Run, source: Run | str, metric: Metric, over: Sequence[str]) -> None:
    if target.positions is not None:
        raise ValueError("target: attribution takes rows of equal length, got padded ones.")
    check_source(source)
    if isinstance(source, Run) and jnp.shape(source.tokens) != jnp.shape(target.tokens):
        raise ValueError(
            f"source: tokens {list(jnp.shape(source.tokens))} do not line up with the target's {list(jnp.shape(target.tokens))}. "
            "Feed both runs the same tokens, or cut and pad them to a stated alignment."
        )
    if isinstance(metric, Rank):
        raise ValueError("metric: a rank has no gradient. Use logprob or logit_diff.")
    if "alpha" in over:
        raise ValueError(
            "over: a first-order estimate is proportional to 'alpha'; leave it out and multiply."
        )


def _grid(
    spec: sites.SiteSpec, over: Sequence[str], window_s: float, n_frames: int, several: bool
) -> Grid:
    if several:
        position, frames = time_axes(spec.axes, spec.site)
        has = {
            "layer": spec.n_layer,
            "head": "H" in spec.axes,
            "position": position and spec.site.startswith("decoder."),
            "time": frames,
        }
        over = [dim for dim in over if has.get(dim, True)]
    return Grid.of(spec, over, window_s=window_s, n_frames=n_frames, alphas=(1.0,), chosen={})


def _attribute(
    model: Whisper,
    target: Run,
    source: Run | None,
    n_frames: Array,
    metric: Metric,
    *,
    cells: tuple[_Cells, ...],
    source_kind: str | None,
) -> tuple[Array, list[Array]]:
    read = sorted({name for c in cells for name in c.read})
    nudged = sorted({c.z if c.aware else c.site for c in cells})
    with full_precision(model):
        value, acts, grads = _gradients(model, target, metric, read, nudged)
        others = (
            forward.activations(model, source, sorted({c.site for c in cells}))
            if source
            else _made_up(source_kind, cells, acts)
        )
        return value, [_effect(c, acts, others[c.site], grads, n_frames) for c in cells]


def _gradients(
    model: Whisper, target: Run, metric: Metric, read: list[str], nudged: list[str]
) -> tuple[Array, Acts, Acts]:
    """The metric, the activations at `read`, and the metric's gradients at `nudged`, from one forward and one backward."""
    shapes = jax.eval_shape(lambda: forward.activations(model, target, nudged))
    zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}
    heard, said = forward.by_stack(nudged)
    reads = [select(*names) for names in forward.by_stack(read)]
    memory = (
        None
        if heard
        else target.memory or forward.encode(model, forward.recording(target), {}, reads[0])[0]
    )

    def score(nudges: Acts) -> tuple[Array, tuple[Array, Acts]]:
        edits = {name: _Nudge(value) for name, value in nudges.items()}
        of_encoder, of_decoder = ({name: edits[name] for name in names} for names in (heard, said))
        known, acts = (
            (memory, {})
            if memory is not None
            else forward.encode(model, forward.recording(target), of_encoder, reads[0])
        )
        value, more = forward.decode_and_score(model, target, known, of_decoder, reads[1], metric)
        return value.sum(), (value, acts | more)

    grads, (value, acts) = jax.grad(score, has_aux=True)(zeros)
    return value, acts, grads


def _made_up(kind: str | None, cells: tuple[_Cells, ...], acts: Acts) -> Acts:
    """What a sweep patches in for "zero", "mean" and "noise"."""
    return {
        c.site: {"zero": _zero, "mean": _mean, "noise": _noise}[kind](c, acts[c.site])
        for c in cells
    }


def _zero(c: _Cells, x: Array) -> Array:
    return jnp.zeros_like(x)


def _mean(c: _Cells, x: Array) -> Array:
    return jnp.broadcast_to(
        x.mean(c.axes.index("T" if "T" in c.axes else "S"), keepdims=True), x.shape
    )


def _noise(c: _Cells, x: Array) -> Array:
    """Each example draws as if it were alone, as it is in a sweep."""
    layered = c.site in sites.LAYERED
    x = x if layered else x[None]
    index = jnp.arange(len(x), dtype=jnp.int32) if layered else jnp.full((1,), -1, jnp.int32)
    steps = jnp.arange(x.shape[2], dtype=jnp.int32)[None]
    one = lambda layer, row: Noise(0, replace=True)(row[None], At(layer, steps, None, c.site))[0]  # noqa: E731
    drawn = jax.vmap(lambda layer, rows: jax.vmap(lambda row: one(layer, row))(rows))(index, x)
    return drawn if layered else drawn[0]


def _effect(
    c: _Cells, acts: Acts, source: Array, grads: Acts, n_frames: Array
) -> Float[Array, "B ..."]:
    if not c.aware:
        return c.reduce(grads[c.site] * (source - acts[c.site]), c.axes, n_frames)
    q, k, v = (acts[name] for name in c.read)
    keys = c.site.endswith(".k")
    positions = jnp.broadcast_to(jnp.arange(q.shape[2], dtype=jnp.int32), q.shape[1:3])
    mask = causal_mask(positions, positions) if c.site.startswith("decoder.attn.") else None

    def layer(x: tuple[Array, ...]) -> Array:
        q, k, v, source, g = x
        if not keys:
            return softmax_aware.query_effect(q, source, k, v, g, mask)
        if "position" in c.dims or "time" in c.dims:
            group = c.window if "time" in c.dims else 1
            true = jnp.arange(k.shape[1])[:, None, None] < n_frames
            source = source if "position" in c.dims else jnp.where(true, source, k)
            return softmax_aware.key_effect(q, k, source, v, g, mask, group)
        return softmax_aware.all_keys_effect(q, k, source, v, g, mask)

    effect = jax.lax.map(layer, (q, k, v, source, grads[c.z]))
    return c.reduce(effect, ("L", "B", "S" if keys else "T", "H"), n_frames)


def _labelled(
    grid: Grid,
    target: Run,
    effect: Float[np.ndarray, "B ..."],
    value: Float[np.ndarray, "B"],
    metric: Metric,
) -> xr.DataArray:
    labels = grid.labels(target.tokens)
    effect = effect[
        (slice(None), *map(slice, grid.shape))
    ]  # of all 30 s, the windows that the grid has
    attrs = {"site": grid.site, "metric": type(metric).__name__, "estimate": "first order"}
    if "time" in grid.dims:
        attrs["window_s"] = grid.window / 50
    if len(effect) == 1:
        return xr.DataArray(effect[0], labels | {"baseline": value[0]}, grid.dims, grid.site, attrs)
    coords = labels | {"example": np.arange(len(effect)), "baseline": ("example", value)}
    return xr.DataArray(effect, coords, ("example", *grid.dims), grid.site, attrs)
