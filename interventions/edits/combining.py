"""Combines edits: applies several in order, or restricts one to some places."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool

from interventions.edits.base import EditBase, check_edit
from interventions.edits.places import Indices, Place, as_place, check_within
from jaxasr import pytrees
from jaxasr.sites import SiteSpec
from jaxasr.taps import At, Edit


@pytrees.dataclass(repr=False)
class Chain(EditBase):
    """Applies edits of one site in order. Made by `chain`.

    Example:
        >>> from interventions import Scale, Zero, chain
        >>> chain(Scale(2.0), Zero()).edits
        (Scale(factor=2.0), Zero())
    """

    edits: tuple[Edit, ...]

    def __call__(self, x: Array, at: At) -> Array:
        for edit in self.edits:
            x = edit(x, at).astype(x.dtype)  # an edit must not promote the dtype
        return x

    def check(self, spec: SiteSpec) -> None:
        """Checks every edit against the site."""
        for edit in self.edits:
            check_edit(edit, spec)


def chain(*edits: Edit) -> Chain:
    """Applies edits of one site in order.

    Args:
        edits: callables `(x, at) -> x`. Each receives the result of the one before it.

    Raises:
        ValueError: no edit is given.

    Example:
        >>> from interventions import Add, Scale, chain
        >>> chain(Scale(2.0), Add(jnp.ones(2)))
        Chain(edits=(Scale(factor=2.0), Add(value=[1.0, 1.0], scale=1.0)))
    """
    if not edits:
        raise ValueError("chain: expected at least one edit, got none.")
    return Chain(edits)


@pytrees.dataclass(repr=False)
class Restrict(EditBase):
    """Applies `edit` at the places that match all fields, and keeps `x` elsewhere. Made by `only`.

    Example:
        >>> from interventions import Scale, only
        >>> only(Scale(0.5), rows=0).edit
        Scale(factor=0.5)
    """

    edit: Edit
    layers: Place | None = None
    heads: Place | None = None
    positions: Place | None = None
    frames: Place | None = None
    rows: Place | None = None
    when: Any = None

    def __call__(self, x: Array, at: At) -> Array:
        # `where`, because 0 times a NaN or infinity in the result of the edit is NaN.
        return jnp.where(self.mask(x, at), self.edit(x, at).astype(x.dtype), x)

    def mask(self, x: Array, at: At) -> Bool[Array, "..."]:
        """Returns True where the edit applies, in a shape that broadcasts to `x`.

        Example:
            >>> from interventions import Zero, only
            >>> at = jaxasr.taps.At(jnp.int32(0), jnp.array([[0, 1]]), None, "decoder.resid_post")
            >>> only(Zero(), positions=1).mask(jnp.ones((1, 2, 4)), at)[0, :, 0].tolist()
            [False, True]
        """
        axes = at.axes
        has_audio_tokens = at.frames is not None
        position_axis, frame_axis = position_and_frame_axes(axes, at.site, has_audio_tokens)
        mask = jnp.asarray(True)
        if self.heads is not None:
            heads = jnp.arange(x.shape[axes.index("H")])[None]
            mask = mask & _expand_mask(self.heads(heads), "H", axes)
        if self.rows is not None:
            rows = jnp.arange(x.shape[0])[:, None]
            mask = mask & _expand_mask(self.rows(rows), "B", axes)
        if self.positions is not None:
            mask = mask & _expand_mask(self.positions(at.positions), position_axis, axes)
        if self.frames is not None:
            mask = mask & _expand_mask(self.frames(_frames_of(at)), frame_axis, axes)
        if self.layers is not None:
            mask = mask & self.layers(at.layer)
        if self.when is not None:
            condition: Any = self.when(at) if callable(self.when) else self.when
            mask = mask & condition
        return mask

    def check(self, spec: SiteSpec) -> None:
        """Raises ValueError if the site lacks a place of the edit in this pass."""
        position_axis, frame_axis = position_and_frame_axes(
            spec.axes, spec.site, spec.n_audio_tokens > 0
        )
        axis_of = {
            "layers": "L",
            "heads": "H",
            "positions": position_axis,
            "frames": frame_axis,
            "rows": "B",
        }
        for name, axis in axis_of.items():
            indices = getattr(self, name)
            if indices is not None:
                size = _axis_size(spec, axis, name)
                if name == "frames" and spec.n_audio_tokens:
                    size = spec.n_audio_tokens
                check_within(indices, size=size, name=name, site=spec.site)
        check_edit(self.edit, spec)


def only(
    edit: Edit,
    *,
    layers: Indices = None,
    heads: Indices = None,
    positions: Indices = None,
    frames: Indices = None,
    rows: Indices = None,
    when: Any = None,
) -> Restrict:
    """Restricts an edit to some layers, heads, positions, frames or rows.

    Each of these arguments is an index, several indices, a `range`, a `slice` or an int array. The
    array may be traced. The edit applies where all arguments match.

    Args:
        edit: callable `(x, at) -> x`.
        layers: layers of the encoder or decoder, counted from 0.
        heads: attention heads, counted from 0.
        positions: absolute decoder positions, prompt included. At encoder sites they are frames
            (mel frames at `encoder.conv1`).
        frames: encoder frames of 20 ms. At cross-attention sites they select keys. At encoder
            sites they select the time axis. In the decoder of an audio language model, and at
            sites after its pooling, they are audio tokens: keys at `scores` and `pattern`, and
            positions elsewhere.
        rows: rows of the batch.
        when: True where the edit applies. A boolean, a bool array that broadcasts to `x`, or a
            function of `at` that returns one of these.

    Returns:
        An edit.

    Raises:
        ValueError: an argument is empty or does not hold integers. The pass also refuses indices
            that the site lacks, unless they are traced.

    Example:
        >>> from interventions import Zero, only
        >>> only(Zero(), layers=[0, 1], positions=slice(2, 5))
        Restrict(edit=Zero(), layers=[0, 1], positions=2:5)
    """
    return Restrict(
        edit,
        layers=as_place(layers, "layers"),
        heads=as_place(heads, "heads"),
        positions=as_place(positions, "positions"),
        frames=as_place(frames, "frames"),
        rows=as_place(rows, "rows"),
        when=when,
    )


def position_and_frame_axes(
    axes: tuple[str, ...], site: str, has_audio_tokens: bool = False
) -> tuple[str | None, str | None]:
    """Returns the axes that `positions` and `frames` select at a site, or None for a missing one.

    Args:
        axes: axes of the site.
        site: full name.
        has_audio_tokens: whether the tokens of the decoder hold audio, so that `frames` selects
            among them.

    Example:
        >>> position_and_frame_axes(("B", "H", "T", "S"), "decoder.cross_attn.pattern")
        ('T', 'S')
        >>> position_and_frame_axes(("B", "T", "D"), "decoder.resid_post")
        ('T', None)
    """
    position_axis = "T" if "T" in axes else "S"  # `k` and `v` have only "S"
    if ".cross_attn." in site and "S" in axes:  # keys are encoder frames, queries are tokens
        return ("T" if "T" in axes else None), "S"
    if site.startswith("encoder."):
        return position_axis, "S" if "S" in axes else "T"
    return position_axis, ("S" if "S" in axes else "T") if has_audio_tokens else None


def _frames_of(at: At) -> Array:
    """Returns the frame or audio token of each key of `scores` and `pattern`, else of each step."""
    if at.frames is None:  # in an encoder, or at cross-attention
        return at.positions if at.keys is None else at.keys
    frames = at.frames if at.keys is None else at.key_frames
    assert frames is not None  # a decoder with audio tokens has those of its keys, too
    return frames


def _axis_size(spec: SiteSpec, axis: str | None, name: str) -> int:
    size = spec.n_layer if axis == "L" else spec.size(axis) if axis in spec.axes else 0
    if not size:
        axes = " ".join([*(["L"] if spec.n_layer else []), *spec.axes])
        raise ValueError(
            f"{name}: {spec.site!r} has no such axis (its axes are {axes}), "
            "so the edit would never fire."
        )
    return size


def _expand_mask(
    mask: Bool[Array, "B n"], axis: str | None, axes: tuple[str, ...]
) -> Bool[Array, "..."]:
    """Reshapes a mask [B or 1, n] over `axis` so that it broadcasts over `axes`."""
    if axis == "B":
        return mask.reshape(mask.shape[0], *[1] * (len(axes) - 1))
    return jnp.expand_dims(mask, [i for i, name in enumerate(axes) if name not in ("B", axis)])
