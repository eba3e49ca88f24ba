"""Attribution patching: a first-order estimate of every cell of a sweep from one backward pass."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from interventions import forward
from interventions.edits.combining import position_and_frame_axes
from interventions.effects.first_order_cells import SiteCells, ablated, effect_of_cells
from interventions.metrics import Metric, Rank
from interventions.patching.grid import Grid
from interventions.patching.sources import check_source, resampled
from interventions.run import Run
from interventions.scoring import check_metric
from jaxasr import compiled, pytrees, sites
from jaxasr.config import FRAMES_PER_S
from jaxasr.model import Whisper, full_precision
from jaxasr.taps import Acts, At, select


def attribution(
    model: Whisper,
    target: Run,
    source: Run | str,
    *,
    site: str | Sequence[str],
    over: Sequence[str],
    metric: Metric,
    window_s: float = 0.5,
    n_frames: int | None = None,
    correction: bool = True,
) -> xr.DataArray | dict[str, xr.DataArray]:
    """Estimates metric(patched) - metric(unpatched) at every cell of a sweep, to first order.

    The estimate of a cell is Σ ∂metric/∂x · (source - x) over the activations x of the cell, with
    the gradient taken in the target. All cells of all sites cost one forward pass of the source and
    one forward and backward pass of the target. The encoder runs only if one of its sites is asked
    for or a run comes without a memory.

    Args:
        model: the recogniser's model.
        target: the run that is patched, B examples of T tokens.
        source: a run of T tokens whose activations are patched in; or "zero", "mean", "noise" or
            "resample", as in `sweep`.
        site: one site, or several that share the passes; each takes from `over` the dimensions that
            it has.
        over: dimensions of the grid, as in `sweep`. "alpha" is not among them because the estimate
            is proportional to it.
        metric: as in `sweep`, but with a gradient.
        window_s: seconds per window of "time".
        n_frames: number of encoder frames before the padding; default: all.
        correction: at sites `q` and `k`, recompute the softmax under the patch and go to first
            order behind it (see References). This is exact up to the head's output for each
            position of `q`, and for each position or window of `k` alone.

    Returns:
        A DataArray with the dimensions and labels of `sweep`, and the unpatched metric as the
        coordinate `baseline`. For several sites, a dict with one such array per site.

    Raises:
        ValueError: a site or dimension is unknown, the runs differ in length or batch, the metric
            is `rank`, or one of its tokens is outside the vocabulary.

    Example:
        ```python
        import jax.numpy as jnp

        import interventions as iv
        import jaxasr
        from interventions.corruptions import noise

        asr = jaxasr.load("tiny.en")
        audio = jaxasr.load_audio("experiments/assets/demo.flac")
        text = asr.tokenizer.encode(" The captain read the old")
        tokens = jnp.array([[*asr.tokenizer.prompt(), *text]])
        mels = [jaxasr.log_mel(x, asr.config.n_mels)[None] for x in (audio, noise(audio, 0.0))]
        clean, noisy = (iv.Run(mel=mel, tokens=tokens) for mel in mels)
        metric = iv.logprob(asr.tokenizer.encode(" letter")[0])
        site, over = "decoder.cross_attn.z", ("layer", "head")
        heads = iv.attribution(asr.model, noisy, clean, site=site, over=over, metric=metric)
        heads.isel(heads.argmax(...))  # the head that repairs most
        ```

    References:
        Nanda, "Attribution patching" (2023); Kramár et al., "AtP*" (arXiv:2403.00745), whose
        correction of queries and keys is in section 3.1.1.
    """
    names = (site,) if isinstance(site, str) else tuple(site)
    _check(target, source, metric, over)
    check_metric(metric, model.config.n_vocab, target.batch)
    if isinstance(source, str) and source.startswith("resample"):
        source = resampled(target, source)
    n_frames = model.config.n_audio_ctx if n_frames is None else n_frames
    specs = [sites.spec(model.config, name, 1, jnp.shape(target.tokens)[1]) for name in names]
    grids = [_grid(spec, over, window_s, n_frames, several=len(names) > 1) for spec in specs]
    cells = tuple(
        SiteCells(name, grid.dims, grid.window, correction and name.endswith((".q", ".k")))
        for name, grid in zip(names, grids)
    )
    source_run, ablation = (source, None) if isinstance(source, Run) else (None, source)
    baseline, effects = compiled.call(
        _attribute,
        model,
        target,
        source_run,
        np.int32(n_frames),
        metric,
        cells=cells,
        ablation=ablation,
    )
    results = {
        name: _labelled(grid, target, np.asarray(effect), np.asarray(baseline), metric)
        for name, grid, effect in zip(names, grids, effects)
    }
    return results[site] if isinstance(site, str) else results


def _check(target: Run, source: Run | str, metric: Metric, over: Sequence[str]) -> None:
    if target.positions is not None:
        raise ValueError("target: attribution takes rows of equal length, got padded ones.")
    check_source(source)
    if isinstance(source, Run) and jnp.shape(source.tokens) != jnp.shape(target.tokens):
        raise ValueError(
            f"source: tokens {list(jnp.shape(source.tokens))} do not line up with the target's "
            f"{list(jnp.shape(target.tokens))}. Feed both runs the same tokens, "
            "or cut and pad them to a stated alignment."
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
    """Makes the grid of a site; of `several` sites each takes from `over` only what it has."""
    if several:
        has_positions, has_frames = position_and_frame_axes(spec.axes, spec.site)
        has = {
            "layer": spec.n_layer,
            "head": "H" in spec.axes,
            "position": has_positions and spec.site.startswith("decoder."),
            "time": has_frames,
        }
        over = [dim for dim in over if has.get(dim, True)]
    return Grid.of(spec, over, window_s=window_s, n_frames=n_frames, alphas=(1.0,), selected={})


@pytrees.dataclass
class _Offset:
    """Adds `value`, whose gradient is taken, at every layer and position.

    It is `Add` for a value in the shape of a readout, without matching of positions.
    """

    value: Array

    def __call__(self, x: Array, at: At) -> Array:
        return x + (self.value[at.layer] if self.value.ndim > x.ndim else self.value)


def _attribute(
    model: Whisper,
    target: Run,
    source: Run | None,
    n_frames: Array,
    metric: Metric,
    *,
    cells: tuple[SiteCells, ...],
    ablation: str | None,
) -> tuple[Float[Array, "B"], list[Array]]:
    """Returns the unpatched metric and the effects of the cells of every site."""
    read_sites = sorted({name for site_cells in cells for name in site_cells.read_sites})
    grad_sites = sorted({site_cells.grad_site for site_cells in cells})
    with full_precision(model):
        value, acts, grads = _gradients(model, target, metric, read_sites, grad_sites)
        if source is None:
            assert ablation is not None
            source_acts = {c.site: ablated(ablation, c, acts[c.site]) for c in cells}
        else:
            source_acts = forward.activations(model, source, sorted({c.site for c in cells}))
        effects = [effect_of_cells(c, acts, source_acts[c.site], grads, n_frames) for c in cells]
    return value, effects


def _gradients(
    model: Whisper, target: Run, metric: Metric, read_sites: list[str], grad_sites: list[str]
) -> tuple[Float[Array, "B"], Acts, Acts]:
    """Returns the metric, activations at `read_sites` and the metric's gradients at `grad_sites`.

    They come from one forward and one backward pass.
    """
    shapes = jax.eval_shape(lambda: forward.activations(model, target, grad_sites))
    zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}
    encoder_sites, decoder_sites = forward.split_by_stack(grad_sites)
    encoder_readout, decoder_readout = (
        select(*names) for names in forward.split_by_stack(read_sites)
    )
    memory = None
    if not encoder_sites:  # nothing to differentiate in the encoder: it runs once, outside `grad`
        memory = target.memory
        if memory is None:
            memory, _ = forward.encode(model, forward.mel_of(target), {}, encoder_readout)

    def score(offsets: Acts) -> tuple[Array, tuple[Array, Acts]]:
        encoder_edits = {name: _Offset(offsets[name]) for name in encoder_sites}
        decoder_edits = {name: _Offset(offsets[name]) for name in decoder_sites}
        if memory is None:
            mel = forward.mel_of(target)
            edited_memory, acts = forward.encode(model, mel, encoder_edits, encoder_readout)
        else:
            edited_memory, acts = memory, {}
        value, decoder_acts = forward.decode_and_score(
            model, target, edited_memory, decoder_edits, decoder_readout, metric
        )
        # Examples are independent, so the gradient of their sum is each example's own gradient.
        return value.sum(), (value, acts | decoder_acts)

    grads, (value, acts) = jax.grad(score, has_aux=True)(zeros)
    return value, acts, grads


def _labelled(
    grid: Grid,
    target: Run,
    effect: Float[np.ndarray, "B ..."],
    baseline: Float[np.ndarray, "B"],
    metric: Metric,
) -> xr.DataArray:
    labels = grid.labels(target.tokens)
    # Effects cover the windows of all 30 s; the grid has only those before the padding.
    effect = effect[(slice(None), *map(slice, grid.shape))]
    attrs: dict[str, Any] = {
        "site": grid.site,
        "metric": type(metric).__name__,
        "estimate": "first order",
    }
    if "time" in grid.dims:
        attrs["window_s"] = grid.window / FRAMES_PER_S
    if len(effect) == 1:
        coords = labels | {"baseline": baseline[0]}
        return xr.DataArray(effect[0], coords, grid.dims, grid.site, attrs)
    coords = labels | {"example": np.arange(len(effect)), "baseline": ("example", baseline)}
    return xr.DataArray(effect, coords, ("example", *grid.dims), grid.site, attrs)
