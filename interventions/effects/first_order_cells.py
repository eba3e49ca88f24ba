"""Estimates the effect of each cell of a sweep from the gradients at its site."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from interventions.edits import Noise
from interventions.edits.combining import position_and_frame_axes
from interventions.effects import softmax_aware
from jaxasr import sites
from jaxasr.decoder import causal_mask
from jaxasr.taps import Acts, At


@dataclasses.dataclass(frozen=True)
class SiteCells:
    """The cells of one site. Hashable, because each value has its own compiled program.

    Attributes:
        site: the site.
        dims: dimensions of the grid.
        window: encoder frames per cell of "time".
        through_softmax: whether the site is `q` or `k` and the estimate recomputes the softmax.
    """

    site: str
    dims: tuple[str, ...]
    window: int
    through_softmax: bool

    @property
    def axes(self) -> tuple[str, ...]:
        """Axis letters of an activation at the site, such as ("L", "B", "T", "D")."""
        # `"L" * False` is empty, so sites outside of the layers get no "L".
        return (*"L" * (self.site in sites.LAYERED), *sites.SITES[self.site])

    @property
    def axis_of(self) -> dict[str, str]:
        """The axis letter of each dimension."""
        position_axis, frame_axis = position_and_frame_axes(sites.SITES[self.site], self.site)
        letters = {"layer": "L", "head": "H", "position": position_axis, "time": frame_axis}
        return {dim: letter for dim in self.dims if (letter := letters[dim]) is not None}

    @property
    def grad_site(self) -> str:
        """The site at which the gradient of the metric is taken."""
        return f"{self._attention}.z" if self.through_softmax else self.site

    @property
    def read_sites(self) -> tuple[str, ...]:
        """The sites whose activations in the target the estimate needs."""
        if not self.through_softmax:
            return (self.site,)
        return (f"{self._attention}.q", f"{self._attention}.k", f"{self._attention}.v")

    @property
    def _attention(self) -> str:
        return self.site.rsplit(".", 1)[0]

    def sum_over_cells(
        self, effect: Float[Array, "..."], axes: tuple[str, ...], n_frames: Array
    ) -> Float[Array, "B ..."]:
        """Sums the effects within each cell and returns them as [B, *dims].

        Windows of "time" exclude the padding, which begins at frame `n_frames`.

        Args:
            effect: effects at the site.
            axes: axis letters of `effect`.
            n_frames: number of frames before the padding.
        """
        order = ["B", *self.axis_of.values()]
        effect = effect.sum([i for i, axis in enumerate(axes) if axis not in order])
        remaining = [axis for axis in axes if axis in order]
        effect = jnp.transpose(effect, [remaining.index(axis) for axis in order])
        # `key_effect` returns one effect per window.
        is_summed_over_windows = self.through_softmax and self.site.endswith(".k")
        if "time" not in self.dims or is_summed_over_windows:
            return effect
        return _sum_windows(effect, 1 + self.dims.index("time"), self.window, n_frames)


def _sum_windows(
    x: Float[Array, "..."], axis: int, window: int, n_frames: Array
) -> Float[Array, "..."]:
    """Sums `axis` within each window. Windows cover all 30 s, so recordings share a program."""
    x = jnp.moveaxis(x, axis, -1)
    x = jnp.where(jnp.arange(x.shape[-1]) < n_frames, x, 0)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % window)])
    return jnp.moveaxis(x.reshape(*x.shape[:-1], -1, window).sum(-1), -1, axis)


def effect_of_cells(
    cells: SiteCells, acts: Acts, source: Array, grads: Acts, n_frames: Array
) -> Float[Array, "B ..."]:
    """Estimates the effect of every cell of a site.

    Args:
        cells: the cells.
        acts: activations of the target at `cells.read_sites`.
        source: activation at `cells.site` that is patched in.
        grads: gradients of the metric at `cells.grad_site`.
        n_frames: number of frames before the padding.
    """
    if not cells.through_softmax:
        estimate = grads[cells.site] * (source - acts[cells.site])
        return cells.sum_over_cells(estimate, cells.axes, n_frames)
    q, k, v = (acts[name] for name in cells.read_sites)
    is_key = cells.site.endswith(".k")
    positions = jnp.broadcast_to(jnp.arange(q.shape[2], dtype=jnp.int32), q.shape[1:3])
    is_causal = cells.site.startswith("decoder.attn.")
    mask = causal_mask(positions, positions) if is_causal else None

    def effect_of_layer(layer: tuple[Array, ...]) -> Array:
        q, k, v, source, grad = layer
        if not is_key:
            return softmax_aware.query_effect(q, source, k, v, grad, mask)
        if "position" not in cells.dims and "time" not in cells.dims:
            return softmax_aware.all_keys_effect(q, k, source, v, grad, mask)
        if "position" in cells.dims:
            return softmax_aware.key_effect(q, k, source, v, grad, mask, 1)
        is_audio = jnp.arange(k.shape[1])[:, None, None] < n_frames
        source = jnp.where(is_audio, source, k)
        return softmax_aware.key_effect(q, k, source, v, grad, mask, cells.window)

    # One layer at a time, to bound the device memory.
    effect = jax.lax.map(effect_of_layer, (q, k, v, source, grads[cells.grad_site]))
    return cells.sum_over_cells(effect, ("L", "B", "S" if is_key else "T", "H"), n_frames)


def ablated(ablation: str, cells: SiteCells, x: Array) -> Array:
    """Returns what a sweep with the source "zero", "mean" or "noise" patches in for `x`."""
    if ablation == "zero":
        return jnp.zeros_like(x)
    if ablation == "mean":
        time = cells.axes.index("T" if "T" in cells.axes else "S")
        return jnp.broadcast_to(x.mean(time, keepdims=True), x.shape)
    return _noise(cells.site, x)


def _noise(site: str, x: Array) -> Array:
    """Draws the same noise as a sweep. There each example is row 0 of a batch of one."""
    has_layers = site in sites.LAYERED
    x = x if has_layers else x[None]
    # `At.layer` is -1 at sites without a layer axis.
    layers = jnp.arange(len(x), dtype=jnp.int32) if has_layers else jnp.full((1,), -1, jnp.int32)
    steps = jnp.arange(x.shape[2], dtype=jnp.int32)[None]

    def draw(layer: Array, row: Array) -> Array:
        return Noise(0, replace=True)(row[None], At(layer, steps, None, site))[0]

    noise = jax.vmap(jax.vmap(draw, in_axes=(None, 0)))(layers, x)
    return noise if has_layers else noise[0]
