"""Estimates the effect of each cell of a sweep from the gradients at its site."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.edits import Noise
from interventions.edits.combining import position_and_frame_axes
from interventions.effects import softmax_aware
from interventions.forward import mask_padding, positions_of
from interventions.patching.grid import Grid
from interventions.patching.sources import mean_over_time
from interventions.run import Run
from jaxasr import pytrees, sites
from jaxasr.config import Config
from jaxasr.decoder import causal_mask
from jaxasr.language.rotary import Rotation, make_rotation, rotate
from jaxasr.taps import Acts, At


@dataclasses.dataclass(frozen=True)
class SiteCells:
    """The cells of one site. Hashable, because each value has its own compiled program.

    Attributes:
        site: the site.
        dims: dimensions of the grid.
        window: encoder frames per cell of "time".
        through_softmax: whether the site is `q` or `k`, rotated or not, and the estimate recomputes
            the softmax.
        rotates: whether the attention rotates queries and keys.
        frames_per_step: encoder frames per step of "time".
    """

    site: str
    dims: tuple[str, ...]
    window: int
    through_softmax: bool
    rotates: bool = False
    frames_per_step: int = 1

    @classmethod
    def of(cls, config: Config, grid: Grid, correction: bool) -> "SiteCells":
        """Returns the cells of `grid`. With `correction`, `q` and `k` recompute the softmax."""
        is_query_or_key = grid.site.endswith((".q", ".k", ".q_rot", ".k_rot"))
        rotates = config.audio_language is not None and grid.site.startswith("decoder.")
        return cls(
            grid.site,
            grid.dims,
            grid.window,
            correction and is_query_or_key,
            rotates,
            grid.frames_per_step,
        )

    @property
    def axes(self) -> tuple[str, ...]:
        """Axis letters of an activation at the site, such as ("L", "B", "T", "D")."""
        # `"L" * False` is empty, so sites outside of the layers get no "L".
        return (*"L" * (self.site in sites.LAYERED), *sites.SITES[self.site])

    @property
    def axis_of(self) -> dict[str, str]:
        """The axis letter of each dimension."""
        # The tokens of a decoder that rotates hold audio.
        position_axis, frame_axis = position_and_frame_axes(
            sites.SITES[self.site], self.site, self.rotates
        )
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
        suffix = "_rot" if self.rotates else ""
        names = f"q{suffix}", f"k{suffix}", "v"
        return tuple(f"{self._attention}.{name}" for name in names)

    @property
    def is_key(self) -> bool:
        """Whether the site holds keys, rotated or not."""
        return self.site.endswith((".k", ".k_rot"))

    @property
    def _attention(self) -> str:
        return self.site.rsplit(".", 1)[0]

    def sum_over_cells(
        self,
        effect: Float[Array, "..."],
        axes: tuple[str, ...],
        n_frames: Array,
        audio_positions: Int[Array, "A"] | None,
    ) -> Float[Array, "B ..."]:
        """Sums the effects within each cell and returns them as [B, *dims].

        Windows of "time" exclude the padding, which begins at frame `n_frames`.

        Args:
            effect: effects at the site.
            axes: axis letters of `effect`.
            n_frames: number of frames before the padding.
            audio_positions: position of each audio token, if tokens hold audio.
        """
        order = ["B", *self.axis_of.values()]
        effect = effect.sum([i for i, axis in enumerate(axes) if axis not in order])
        remaining = [axis for axis in axes if axis in order]
        effect = jnp.transpose(effect, [remaining.index(axis) for axis in order])
        # `key_effect` returns one effect per window.
        is_summed_over_windows = self.through_softmax and self.is_key
        if "time" not in self.dims or is_summed_over_windows:
            return effect
        axis = 1 + self.dims.index("time")
        if self.rotates and audio_positions is not None:
            effect = jnp.take(effect, audio_positions, axis)
        return _sum_windows(effect, axis, self.window, self.count_steps(n_frames))

    def count_steps(self, n_frames: Array) -> Array:
        """Returns how many steps of "time" have `n_frames` encoder frames."""
        return n_frames if self.frames_per_step == 1 else n_frames // self.frames_per_step


def _sum_windows(
    x: Float[Array, "..."], axis: int, window: int, n_frames: Array
) -> Float[Array, "..."]:
    """Sums `axis` within each window. Windows cover all 30 s, so recordings share a program."""
    x = jnp.moveaxis(x, axis, -1)
    x = jnp.where(jnp.arange(x.shape[-1]) < n_frames, x, 0)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % window)])
    return jnp.moveaxis(x.reshape(*x.shape[:-1], -1, window).sum(-1), -1, axis)


@pytrees.dataclass
class Attention:
    """How queries attend to keys at the site of some cells.

    Attributes:
        mask: True where a query attends to a key. None: everywhere.
        rotation: cosines and sines by which a source at `q` or `k` is rotated. None: no rotation.
    """

    mask: softmax_aware.Mask
    rotation: Rotation | None


def attention_of(config: Config, cells: SiteCells, target: Run) -> Attention:
    """Returns the attention at the site of `cells`, in the pass of `target`."""
    if cells.site.startswith("encoder."):
        return Attention(mask_padding(config, target.lengths), None)
    if not cells.through_softmax or ".cross_attn." in cells.site:
        return Attention(None, None)
    positions = positions_of(target)
    rotation = None
    if cells.rotates and not cells.site.endswith("_rot"):
        shape = config.decoder
        rotation = make_rotation(positions, shape.d_head, config.rope_theta, config.dtype)
    return Attention(causal_mask(positions, positions), rotation)


def effect_of_cells(
    cells: SiteCells,
    acts: Acts,
    source: Array,
    grads: Acts,
    n_frames: Array,
    attention: Attention,
    audio_positions: Int[Array, "A"] | None,
) -> Float[Array, "B ..."]:
    """Estimates the effect of every cell of a site.

    Args:
        cells: the cells.
        acts: activations of the target at `cells.read_sites`.
        source: activation at `cells.site` that is patched in.
        grads: gradients of the metric at `cells.grad_site`.
        n_frames: number of frames before the padding.
        attention: how queries attend to keys, if the site is in an attention.
        audio_positions: position of each audio token, if tokens hold audio.
    """
    if not cells.through_softmax:
        estimate = grads[cells.site] * (source - acts[cells.site])
        return cells.sum_over_cells(estimate, cells.axes, n_frames, audio_positions)
    q, k, v = (acts[name] for name in cells.read_sites)
    mask, n_shared = attention.mask, q.shape[3] // k.shape[3]
    if attention.rotation is not None:
        source = jax.vmap(rotate, (0, None))(source, attention.rotation)
    order = None
    if cells.rotates and audio_positions is not None and "time" in cells.dims:
        # Windows are neighbouring keys, so the audio comes first. Attention ignores the order.
        order = _audio_first(audio_positions, k.shape[2])
        mask = None if mask is None else mask[..., order]

    def effect_of_layer(layer: tuple[Array, ...]) -> Array:
        q, k, v, source, grad = layer
        if order is not None:
            k, v = k[:, order], v[:, order]
        if n_shared > 1:  # one key per query head
            k, v = jnp.repeat(k, n_shared, 2), jnp.repeat(v, n_shared, 2)
        if not cells.is_key:
            return softmax_aware.query_effect(q, source, k, v, grad, mask)
        if order is not None:
            source = source[:, order]
        if n_shared > 1:
            source = jnp.repeat(source, n_shared, 2)
        if "position" not in cells.dims and "time" not in cells.dims:
            effect = softmax_aware.all_keys_effect(q, k, source, v, grad, mask)
        elif "position" in cells.dims:
            effect = softmax_aware.key_effect(q, k, source, v, grad, mask, 1)
        else:
            is_audio = jnp.arange(k.shape[1])[:, None, None] < cells.count_steps(n_frames)
            source = jnp.where(is_audio, source, k)
            effect = softmax_aware.key_effect(q, k, source, v, grad, mask, cells.window)
        if n_shared == 1:
            return effect
        return effect.reshape(*effect.shape[:2], -1, n_shared).sum(-1)

    # One layer at a time, to bound the device memory.
    effect = jax.lax.map(effect_of_layer, (q, k, v, source, grads[cells.grad_site]))
    axes = ("L", "B", "S" if cells.is_key else "T", "H")
    return cells.sum_over_cells(effect, axes, n_frames, audio_positions)


def _audio_first(audio_positions: Int[Array, "A"], n_keys: int) -> Int[Array, "n_keys"]:
    """Returns an order of all positions that begins with those of the audio."""
    is_text = jnp.ones(n_keys, bool).at[audio_positions].set(False)
    rank = jnp.zeros(n_keys, jnp.int32).at[audio_positions].set(jnp.arange(len(audio_positions)))
    return jnp.argsort(jnp.where(is_text, n_keys, rank))


def ablated(
    config: Config, ablation: str, cells: SiteCells, x: Array, lengths: Int[Array, "B"] | None
) -> Array:
    """Returns what a sweep with the source "zero", "mean" or "noise" patches in for `x`."""
    if ablation == "zero":
        return jnp.zeros_like(x)
    if ablation == "mean":
        return jnp.broadcast_to(mean_over_time(config, x, cells.site, lengths), x.shape)
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
