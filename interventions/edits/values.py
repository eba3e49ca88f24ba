"""Edits: frozen callable pytrees `(x, at) -> x`. What kind is structure; masks, indices, strengths and vectors are leaves.

So `vmap` over an edit is a sweep, `vmap` over its strength a dose curve, `grad` with respect to `Add(zeros)` attribution.
A function of your own, or your own `jaxasr.pytrees.dataclass`, works wherever these do.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from interventions.edits.matching import aligned, check_fits
from interventions.edits.places import Place, check_within, place
from jaxasr import pytrees
from jaxasr.sites import SiteSpec
from jaxasr.taps import At, Edit


def _shown(value: Any) -> str:
    if not hasattr(value, "dtype"):
        return repr(value)
    small = value.size <= 4 and not isinstance(value, jax.core.Tracer)
    return str(value.tolist()) if small else f"{value.dtype}{list(value.shape)}"


class _Edit:
    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={_shown(v)}' for k, v in vars(self).items() if v is not None)})"


@pytrees.dataclass(repr=False)
class FromRow(_Edit):
    """A reference that is another row of the same batch: row b reads from `rows[b]`. For lock-step dual decoding."""

    rows: Int[Array, "B"]


Reference = Float[Array, "..."] | FromRow


@pytrees.dataclass(repr=False)
class Patch(_Edit):
    """Replaces the activation: x ← value.

    value: `[L, B, T, ...]` as a readout gave it (each layer takes its own), or without the layer axis, or anything that
    broadcasts to `x`; axes of size 1 broadcast. Time is matched by absolute position, so the same value serves a whole pass
    and cached steps. `partial=True` allows a value that covers fewer positions than the pass: the others stay as they are.
    """

    value: Reference
    partial: bool = pytrees.field(pytree_node=False, default=False)

    def __call__(self, x: Array, at: At) -> Array:
        return reference(self.value, x, at)

    def check(self, spec: SiteSpec) -> None:
        check_reference(self.value, spec, self.partial)


@pytrees.dataclass(repr=False)
class Mix(_Edit):
    """x ← (1-α)·x + α·value, the paper's patch; α may exceed 1. `value` as in `Patch`."""

    alpha: Float[Array, ""]
    value: Reference
    partial: bool = pytrees.field(pytree_node=False, default=False)

    def __call__(self, x: Array, at: At) -> Array:
        return (1 - self.alpha) * x + self.alpha * reference(self.value, x, at)

    def check(self, spec: SiteSpec) -> None:
        check_reference(self.value, spec, self.partial)


@pytrees.dataclass(repr=False)
class Add(_Edit):
    """x ← x + scale·value: steering, or, with zeros, the place where a gradient is taken. `value` as in `Patch`."""

    value: Float[Array, "..."]
    scale: Float[Array, ""] | float = 1.0

    def __call__(self, x: Array, at: At) -> Array:
        value, there = aligned(self.value, x, at)
        return x + self.scale * jnp.where(there, value, 0)

    def check(self, spec: SiteSpec) -> None:
        check_fits(self.value, spec, partial=False)


@pytrees.dataclass(repr=False)
class Scale(_Edit):
    """x ← factor·x."""

    factor: Float[Array, ""] | float

    def __call__(self, x: Array, at: At) -> Array:
        return x * self.factor


@pytrees.dataclass(repr=False)
class Zero(_Edit):
    """x ← 0: ablation."""

    def __call__(self, x: Array, at: At) -> Array:
        return jnp.zeros_like(x)


@pytrees.dataclass(repr=False)
class Noise(_Edit):
    """x ← x + scale·rms(x)·n with n standard normal: `scale` 1 gives a signal-to-noise ratio of 0 dB at every step.

    The draw depends on the seed, layer, row and absolute position alone, so cached steps and whole passes agree. rms is over
    the features of one step. With `replace=True`, x ← scale·rms(x)·n. Not for `scores` and `pattern`, whose steps have no fixed width.
    """

    seed: Int[Array, ""] | int
    scale: Float[Array, ""] | float = 1.0
    replace: bool = pytrees.field(pytree_node=False, default=False)

    def __call__(self, x: Array, at: At) -> Array:
        key = jax.random.fold_in(jax.random.key(self.seed), at.layer)
        rows = jnp.broadcast_to(jnp.arange(x.shape[0])[:, None], at.positions.shape)

        def step(row: Array, position: Array, here: Array) -> Array:
            drawn = jax.random.normal(
                jax.random.fold_in(jax.random.fold_in(key, row), position), here.shape, here.dtype
            )
            return drawn * jnp.sqrt(jnp.mean(here**2))

        noise = self.scale * jax.vmap(jax.vmap(step))(rows, at.positions, x)
        return noise if self.replace else x + noise

    def check(self, spec: SiteSpec) -> None:
        if "T" in spec.axes and "S" in spec.axes:
            raise ValueError(
                f"Noise: not defined at {spec.site!r}. Use it at q, k, v or z, or Patch a pattern of your own."
            )


@pytrees.dataclass(repr=False)
class Project(_Edit):
    """Out of a subspace, x ← x - BBᵀx, or onto it (`keep=True`), x ← BBᵀx, with B from `Project.span(vectors)`.

    basis: [k, D] with orthonormal rows, D the last axis of the site; or [L, k, D].
    """

    basis: Float[Array, "*L k D"]
    keep: bool = pytrees.field(pytree_node=False, default=False)

    @classmethod
    def span(cls, vectors: Float[Array, "*L k D"], keep: bool = False) -> "Project":
        """The subspace spanned by `vectors`, which need be neither orthogonal nor of unit length. Raises ValueError for a zero vector."""
        q, r = jnp.linalg.qr(jnp.swapaxes(jnp.atleast_2d(vectors), -1, -2))
        small = jnp.abs(jnp.diagonal(r, axis1=-2, axis2=-1)).min()
        if not isinstance(small, jax.core.Tracer) and small < 1e-6:
            raise ValueError(
                "vectors: expected linearly independent ones; they span less than their number."
            )
        return cls(jnp.swapaxes(q, -1, -2), keep)

    def __call__(self, x: Array, at: At) -> Array:
        basis = self.basis[at.layer] if self.basis.ndim == 3 else self.basis
        inside = (x @ basis.T) @ basis
        return inside if self.keep else x - inside

    def check(self, spec: SiteSpec) -> None:
        if self.basis.shape[-1] != spec.shape[-1]:
            raise ValueError(
                f"basis: expected vectors of length {spec.shape[-1]} at {spec.site!r}, got {self.basis.shape[-1]}."
            )


@pytrees.dataclass(repr=False)
class Chain(_Edit):
    """Several edits of one site, the first first."""

    edits: tuple[Edit, ...]

    def __call__(self, x: Array, at: At) -> Array:
        for edit in self.edits:
            x = edit(x, at).astype(x.dtype)
        return x

    def check(self, spec: SiteSpec) -> None:
        for edit in self.edits:
            _check(edit, spec)


def chain(*edits: Edit) -> Chain:
    """Several edits of one site, the first first. Raises ValueError when there are none."""
    if not edits:
        raise ValueError("chain: expected at least one edit.")
    return Chain(edits)


@pytrees.dataclass(repr=False)
class Restrict(_Edit):
    """`edit` where all the given places hold, the untouched activation elsewhere. Made by `only`."""

    edit: Edit
    layers: Place | None = None
    heads: Place | None = None
    positions: Place | None = None
    frames: Place | None = None
    rows: Place | None = None
    when: Any = None

    def __call__(self, x: Array, at: At) -> Array:
        return jnp.where(self.mask(x, at), self.edit(x, at).astype(x.dtype), x)

    def mask(self, x: Array, at: At) -> Bool[Array, "..."]:
        """True where the edit applies; broadcasts to `x`."""
        time, keys = time_axes(at.axes, at.site)
        index = {
            "B": jnp.arange(x.shape[0])[:, None],
            "H": jnp.arange(x.shape[at.axes.index("H")])[None] if "H" in at.axes else None,
        }
        mask = jnp.asarray(True)
        for where, axis, numbers in (
            (self.heads, "H", index["H"]),
            (self.rows, "B", index["B"]),
            (self.positions, time, at.positions),
            (self.frames, keys, at.positions if at.keys is None else at.keys),
        ):
            if where is not None:
                mask = mask & _along(where(numbers), axis, at.axes)
        if self.layers is not None:
            mask = mask & self.layers(at.layer)
        return (
            mask
            if self.when is None
            else mask & (self.when(at) if callable(self.when) else self.when)
        )

    def check(self, spec: SiteSpec) -> None:
        time, keys = time_axes(spec.axes, spec.site)
        axis_of = {"layers": "L", "heads": "H", "positions": time, "frames": keys, "rows": "B"}
        for name, axis in axis_of.items():
            if (where := getattr(self, name)) is not None:
                check_within(where, _size(spec, axis, name), name, spec.site)
        _check(self.edit, spec)


def only(
    edit: Edit,
    *,
    layers: Any = None,
    heads: Any = None,
    positions: Any = None,
    frames: Any = None,
    rows: Any = None,
    when: Any = None,
) -> Restrict:
    """Restricts `edit`. Each place is an index, several, a `range`, a `slice`, or an array (also traced: a cell of a sweep).

    positions: absolute decoder positions, prompt included (encoder: frames, mel frames at `encoder.conv1`).
    frames: encoder frames of 20 ms: the keys that a cross-attention looks at, or the time axis of an encoder site.
    rows: rows of the batch. when: a boolean leaf, or a function of `at` whose result broadcasts to `x`.
    An index that the pass does not have raises ValueError as long as it is concrete.
    """
    places = dict(layers=layers, heads=heads, positions=positions, frames=frames, rows=rows)
    return Restrict(edit, **{name: place(value, name) for name, value in places.items()}, when=when)


def reference(value: Reference, x: Array, at: At) -> Array:
    """`value` at this layer and these positions; `x` itself where it has none."""
    if isinstance(value, FromRow):
        return x[value.rows]
    here, there = aligned(value, x, at)
    return jnp.where(there, here, x)


def check_reference(value: Reference, spec: SiteSpec, partial: bool) -> None:
    if not isinstance(value, FromRow):
        check_fits(value, spec, partial)
    elif value.rows.shape != (spec.size("B"),):
        raise ValueError(
            f"FromRow: expected one source row for each of {spec.size('B')} rows, got shape {list(value.rows.shape)}."
        )


def _check(edit: Any, spec: SiteSpec) -> None:
    if hasattr(edit, "check"):
        edit.check(spec)


def time_axes(axes: tuple[str, ...], site: str) -> tuple[str | None, str | None]:
    """The axis that `positions` select, and the one that `frames` do."""
    time = "T" if "T" in axes else "S"
    listens = ".cross_attn." in site and "S" in axes
    frames = (
        "S"
        if listens
        else "T"
        if site.startswith("encoder.") and "S" not in axes
        else "S"
        if site.startswith("encoder.")
        else None
    )
    return (None if listens and "T" not in axes else time), frames


def _size(spec: SiteSpec, axis: str | None, name: str) -> int:
    size = spec.n_layer if axis == "L" else spec.size(axis) if axis in spec.axes else 0
    if not size:
        has = " ".join([*(["L"] if spec.n_layer else []), *spec.axes])
        raise ValueError(
            f"{name}: {spec.site!r} has no such axis (it has {has}), so the edit would never fire."
        )
    return size


def _along(mask: Bool[Array, "B n"], axis: str | None, axes: tuple[str, ...]) -> Bool[Array, "..."]:
    """A [B or 1, n] mask of `axis` (and rows), shaped to broadcast over `axes`."""
    if axis == "B":
        return mask.reshape(mask.shape[0], *[1] * (len(axes) - 1))
    return jnp.expand_dims(mask, [i for i, a in enumerate(axes) if a not in ("B", axis)])
