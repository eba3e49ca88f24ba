"""Estimates every cell of a sweep from one backward pass (attribution patching)."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.sharding import Mesh, PartitionSpec as P
from jaxtyping import Array, Float, Int

from interventions import forward
from interventions.edits.combining import position_and_frame_axes
from interventions.effects import row_bytes
from interventions.effects.first_order_cells import (
    SiteCells,
    ablated,
    attention_of,
    effect_of_cells,
)
from interventions.effects.gradients import gradients
from interventions.metrics import Metric, Rank
from interventions.patching.audio_positions import count_swept_frames, find_audio_positions
from interventions.patching.axes import axes_of_run
from interventions.patching.grid import Grid
from interventions.patching.row_chunks import RowChunks, Rows, rows_that_fit, select_rows
from interventions.patching.sources import check_source, resampled
from interventions.run import Run
from interventions.run_checks import check_run
from interventions.scoring import StackedMetric, check_metric
from jaxasr import compiled, sites
from jaxasr.config import Config
from jaxasr.meshes import DATA, place_parameters, resolve_mesh, specs_of
from jaxasr.model import SpeechModel, full_precision


def attribution(
    model: SpeechModel,
    target: Run,
    source: Run | str,
    *,
    site: str | Sequence[str],
    over: Sequence[str],
    metric: Metric,
    window_s: float = 0.5,
    n_frames: int | None = None,
    correction: bool = True,
    mesh: Mesh | None = None,
    recordings: int | None = None,
) -> xr.DataArray | dict[str, xr.DataArray]:
    """Estimates metric(patched) - metric(unpatched) at every cell of a sweep, to first order.

    The estimate of a cell is Σ ∂metric/∂x · (source - x) over the activations x of the cell. The
    gradient is taken in the pass of the target. All cells of all sites together take one forward
    pass of the source, and one forward and backward pass of the target. The encoder runs only if
    one of the sites is in the encoder or a run has no memory.

    Args:
        model: the recogniser's model.
        target: the run that is patched, B examples of T tokens.
        source: a run of T tokens whose activations are patched in. As in `sweep`, `source` may also
            be "zero", "mean", "noise" or "resample".
        site: one site, or several that share the passes.
        over: dimensions of the grid, as in `sweep`, except "alpha". With several sites, each site
            uses the dimensions that it has.
        metric: as in `sweep`, but not `rank`, which has no gradient.
        window_s: seconds per window of "time".
        n_frames: number of encoder frames before the padding. Default: all.
        correction: at sites `q` and `k`, recompute the softmax under the patch and linearise only
            the rest of the model (see References). The change of the head's output is then exact
            for each single position of `q`, and for each single position or window of `k`.
        mesh: devices that divide the rows, as in `sweep`.
        recordings: rows that a device computes together, as in `sweep`.

    Returns:
        A DataArray with the dimensions and labels of `sweep`. Its coordinate `baseline` is the
        unpatched metric. For several sites, a dict from site to such an array.

    Raises:
        ValueError: a site, dimension or frame does not exist, the runs differ in length or batch,
            the metric is `rank`, or one of its tokens is outside the vocabulary.

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
        Nanda, "Attribution patching" (2023); Kramár et al., "AtP*" (arXiv:2403.00745), with the
        correction in section 3.1.1.
    """
    names = (site,) if isinstance(site, str) else tuple(site)
    _check_arguments(model.config, target, source, metric, over)
    check_metric(metric, model.config.n_vocab, target.batch)
    if isinstance(source, str) and source.startswith("resample"):
        source = resampled(target, source)
    # A batch of 1, because the grid depends only on the other sizes.
    specs = [sites.spec(model.config, name, 1, jnp.shape(target.tokens)[1]) for name in names]
    audio_positions = None
    if "time" in over and any(spec.n_audio_tokens for spec in specs):
        audio_positions = find_audio_positions(model.config, target, source)
    grids = []
    for spec in specs:
        positions = audio_positions if spec.n_audio_tokens else None
        n = count_swept_frames(model.config, spec, target, positions)
        n = n if n_frames is None else n_frames
        grids.append(_grid(spec, over, window_s, n, positions, several=len(names) > 1))
    cells = tuple(SiteCells.of(model.config, grid, correction) for grid in grids)
    chunks, mesh = _row_chunks(model, target, source, cells, mesh, recordings)
    model = place_parameters(model, mesh)

    def estimate_rows(rows: Rows) -> tuple[Array, list[Array]]:
        runs = [select_rows(run, rows) for run in (target, source) if isinstance(run, Run)]
        run, source_run = (*runs, None)[:2]
        return compiled.call_on_mesh(
            mesh,
            _estimate,
            model,
            run,
            source_run,
            # An array, so that recordings of other lengths share the program.
            np.int32(max(grid.n_frames * grid.frames_per_step for grid in grids)),
            StackedMetric.of(metric, rows),
            audio_positions,
            specs=(
                P(),
                _specs(run),
                _specs(source_run),
                P(),
                P(DATA),
                None if audio_positions is None else P(),
            ),
            out_specs=P(DATA),
            cells=cells,
            ablation=None if isinstance(source, Run) else source,
        )

    baseline, effects = chunks.map(estimate_rows)
    results = {
        name: _to_array(grid, target, effect, baseline, metric)
        for name, grid, effect in zip(names, grids, effects)
    }
    return results[site] if isinstance(site, str) else results


def _check_arguments(
    config: Config, target: Run, source: Run | str, metric: Metric, over: Sequence[str]
) -> None:
    for name, run in (("target", target), ("source", source)):
        if not isinstance(run, Run):
            continue
        if run.positions is not None:
            raise ValueError(f"{name}: expected rows of equal length, got padded rows.")
        check_run(config, run, name)
    check_source(source)
    if isinstance(source, Run) and jnp.shape(source.tokens) != jnp.shape(target.tokens):
        raise ValueError(
            f"source: tokens {list(jnp.shape(source.tokens))} do not line up with the target's "
            f"{list(jnp.shape(target.tokens))}. Give both runs the same number of tokens."
        )
    if isinstance(metric, Rank):
        raise ValueError("metric: a rank has no gradient. Use logprob or logit_diff.")
    if "alpha" in over:
        raise ValueError(
            "over: a first-order estimate is proportional to 'alpha'. Leave out 'alpha' and "
            "multiply the estimate by each strength."
        )


def _row_chunks(
    model: SpeechModel,
    target: Run,
    source: Run | str,
    cells: tuple[SiteCells, ...],
    mesh: Mesh | None,
    recordings: int | None,
) -> tuple[RowChunks, Mesh | None]:
    """Divides the rows into chunks that fit the memory. Also returns the resolved mesh."""
    mesh, n_tokens = resolve_mesh(mesh), jnp.shape(target.tokens)[1]
    names = {name for c in cells for name in (c.site, c.grad_site, *c.read_sites)}
    encodes = any(isinstance(run, Run) and run.memory is None for run in (target, source))
    n_bytes = row_bytes.attribution(model.config, n_tokens, names, encodes)
    return RowChunks.of(target.batch, rows_that_fit(n_bytes), mesh, recordings), mesh


def _specs(run: Run | None) -> Any:
    return None if run is None else specs_of(axes_of_run(run))


def _grid(
    spec: sites.SiteSpec,
    over: Sequence[str],
    window_s: float,
    n_frames: int,
    audio_positions: Int[np.ndarray, "A"] | None,
    several: bool,
) -> Grid:
    """Makes the grid of a site. With `several` sites, drops dimensions that this site lacks."""
    if several:
        has_audio_tokens = spec.n_audio_tokens > 0
        position_axis, frame_axis = position_and_frame_axes(spec.axes, spec.site, has_audio_tokens)
        has_dim = {
            "layer": spec.n_layer,
            "head": "H" in spec.axes,
            "position": position_axis and spec.site.startswith("decoder."),
            "time": frame_axis,
        }
        over = [dim for dim in over if has_dim.get(dim, True)]
    return Grid.of(
        spec,
        over,
        window_s=window_s,
        n_frames=n_frames,
        alphas=(1.0,),
        selected={},
        audio_positions=audio_positions,
    )


def _estimate(
    model: SpeechModel,
    target: Run,
    source: Run | None,
    n_frames: Array,
    metric: StackedMetric,
    audio_positions: Int[Array, "A"] | None = None,
    *,
    cells: tuple[SiteCells, ...],
    ablation: str | None,
) -> tuple[Float[Array, "B"], list[Array]]:
    """Returns the unpatched metric and the effects of the cells of every site."""
    read_sites = sorted({name for site_cells in cells for name in site_cells.read_sites})
    grad_sites = sorted({site_cells.grad_site for site_cells in cells})
    with full_precision(model):
        value, acts, grads = gradients(model, target, metric, read_sites, grad_sites)
        if source is None:
            assert ablation is not None
            source_acts = {
                c.site: ablated(model.config, ablation, c, acts[c.site], target.lengths)
                for c in cells
            }
        else:
            source_acts = forward.activations(model, source, sorted({c.site for c in cells}))
        effects = [
            effect_of_cells(
                c,
                acts,
                source_acts[c.site],
                grads,
                n_frames,
                attention_of(model.config, c, target),
                audio_positions,
            )
            for c in cells
        ]
    return value, effects


def _to_array(
    grid: Grid,
    target: Run,
    effect: Float[np.ndarray, "B ..."],
    baseline: Float[np.ndarray, "B"],
    metric: Metric,
) -> xr.DataArray:
    labels = grid.labels(target.tokens)
    # `effect` has the windows of all 30 s. The grid has only the windows before the padding.
    effect = effect[(slice(None), *map(slice, grid.shape))]
    attrs: dict[str, Any] = {
        "site": grid.site,
        "metric": type(metric).__name__,
        "estimate": "first order",
    }
    if "time" in grid.dims:
        attrs["window_s"] = grid.seconds(grid.window)
    if len(effect) == 1:
        coords = labels | {"baseline": baseline[0]}
        return xr.DataArray(effect[0], coords, grid.dims, grid.site, attrs)
    coords = labels | {"example": np.arange(len(effect)), "baseline": ("example", baseline)}
    return xr.DataArray(effect, coords, ("example", *grid.dims), grid.site, attrs)
