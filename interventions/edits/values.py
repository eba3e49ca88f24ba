"""Edits that replace, mix, add, scale or zero an activation.

An edit is a frozen callable pytree `(x, at) -> x`. Its class is structure; masks, indices,
strengths and vectors are leaves. So `vmap` over an edit is a sweep, `vmap` over its strength a
dose curve, and `grad` with respect to `Add(zeros)` is attribution. A function of your own, or your
own `jaxasr.pytrees.dataclass`, works wherever these do.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from interventions.edits.base import EditBase, FromRow, Reference, check_reference, resolve
from interventions.edits.matching import check_fits, matched
from jaxasr import pytrees, sites
from jaxasr.sites import SiteSpec
from jaxasr.taps import At


@pytrees.dataclass(repr=False)
class Patch(EditBase):
    """Replaces an activation: x ← value.

    Time is matched by absolute position, so the same value serves a whole pass and cached steps.

    Args:
        value: `[L, B, T, ...]` as a readout returns it (each layer takes its own entry), or without
            the layer axis, or anything that broadcasts to `x`; or `FromRow(rows)`.
        partial: allows a value with fewer positions than the pass; the others stay unchanged.

    Raises:
        ValueError: in the pass, when `value` does not fit the site.

    Example:
        ```python
        memory, _ = asr.model.encode(jaxasr.log_mel(audio, asr.config.n_mels)[None])
        tokens, site = np.array([asr.tokenizer.prompt()]), "decoder.resid_post"
        _, acts = asr.model.decode(tokens, memory, readout=jaxasr.select(site))
        logits, _ = asr.model.decode(tokens, memory, edits={site: iv.Patch(acts[site])})
        ```
    """

    value: Reference
    partial: bool = pytrees.field(pytree_node=False, default=False)

    def __call__(self, x: Array, at: At) -> Array:
        return resolve(self.value, x, at)

    def check(self, spec: SiteSpec) -> None:
        """Raises ValueError when `value` does not fit the site."""
        check_reference(self.value, spec, self.partial)


@pytrees.dataclass(repr=False)
class Mix(EditBase):
    """Interpolates towards a value: x ← (1-α)·x + α·value.

    Args:
        alpha: strength. 0 leaves `x` unchanged, 1 replaces it, above 1 extrapolates.
        value: as in `Patch`.
        partial: as in `Patch`.

    Raises:
        ValueError: in the pass, when `value` does not fit the site.

    Example:
        >>> from interventions import Mix
        >>> Mix(0.5, jnp.ones(384))
        Mix(alpha=0.5, value=float32[384], partial=False)
    """

    alpha: Float[Array, ""] | float
    value: Reference
    partial: bool = pytrees.field(pytree_node=False, default=False)

    def __call__(self, x: Array, at: At) -> Array:
        return (1 - self.alpha) * x + self.alpha * resolve(self.value, x, at)

    def check(self, spec: SiteSpec) -> None:
        """Raises ValueError when `value` does not fit the site."""
        check_reference(self.value, spec, self.partial)


@pytrees.dataclass(repr=False)
class Add(EditBase):
    """Adds a vector: x ← x + scale·value.

    A direction steers the model. Zeros mark the place where a gradient is taken.

    Args:
        value: as in `Patch`, but not `FromRow`.
        scale: strength.

    Raises:
        ValueError: in the pass, when `value` does not fit the site.

    Example:
        >>> from interventions import Add, only
        >>> only(Add(jnp.ones(384), scale=2.0), layers=3)
        Restrict(edit=Add(value=float32[384], scale=2.0), layers=[3])
    """

    value: Float[Array, "..."]
    scale: Float[Array, ""] | float = 1.0

    def __call__(self, x: Array, at: At) -> Array:
        value, covered = matched(self.value, x, at)
        return x + self.scale * jnp.where(covered, value, 0)

    def check(self, spec: SiteSpec) -> None:
        """Raises ValueError when `value` does not fit the site."""
        check_fits(self.value, spec, partial=False)


@pytrees.dataclass(repr=False)
class Scale(EditBase):
    """Multiplies an activation: x ← factor·x.

    Args:
        factor: 0 ablates, 1 leaves `x` unchanged.

    Example:
        >>> from interventions import Scale
        >>> Scale(0.5)(jnp.ones((1, 2, 3)), at=None).tolist()
        [[[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]]
    """

    factor: Float[Array, ""] | float

    def __call__(self, x: Array, at: At) -> Array:
        return x * self.factor


@pytrees.dataclass(repr=False)
class Zero(EditBase):
    """Ablates an activation: x ← 0.

    Example:
        >>> from interventions import Zero, only
        >>> {"decoder.cross_attn.z": only(Zero(), layers=2, heads=[1, 3])}
        {'decoder.cross_attn.z': Restrict(edit=Zero(), layers=[2], heads=[1, 3])}
    """

    def __call__(self, x: Array, at: At) -> Array:
        return jnp.zeros_like(x)


def select_row(edit: Patch | Mix, site: str, b: int) -> Patch | Mix:
    """`edit` with the value of row `b` alone, still with a batch axis."""
    assert not isinstance(edit.value, FromRow)
    batch = int(site in sites.LAYERED)
    return dataclasses.replace(edit, value=jnp.take(edit.value, jnp.array([b]), batch))
