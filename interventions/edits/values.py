"""Defines edits that replace, mix, add, scale or zero an activation.

An edit is a frozen callable pytree `(x, at) -> x`. Its class decides what is compiled. Its masks,
indices, strengths and vectors are leaves, so `vmap` and `grad` apply to them. A function with this
signature, or a `jaxasr.pytrees.dataclass` that you define, also works as an edit.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from interventions.edits.base import (
    EditBase,
    FromRow,
    PatchValue,
    check_patch_value,
    select_patch_value,
)
from interventions.edits.matching import check_fits, select_matching
from jaxasr import pytrees, sites
from jaxasr.sites import SiteSpec
from jaxasr.taps import At


@pytrees.dataclass(repr=False)
class Patch(EditBase):
    """Replaces an activation: x ← value.

    `value` is indexed by the absolute positions of a pass, so the same value serves a whole pass
    and cached steps.

    Args:
        value: `[L, B, T, ...]` as a readout returns it. The layer axis is optional. Any array that
            broadcasts to `x` is allowed. `FromRow(rows)` takes the activations of other rows of the
            batch.
        partial: allows a value with fewer positions than the pass. Positions without a value stay
            unchanged.

    Raises:
        ValueError: in the pass, if `value` does not fit the site.

    Example:
        ```python
        memory, _ = asr.model.encode(jaxasr.log_mel(audio, asr.config.n_mels)[None])
        tokens, site = np.array([asr.tokenizer.prompt()]), "decoder.resid_post"
        _, acts = asr.model.decode(tokens, memory, readout=jaxasr.select(site))
        logits, _ = asr.model.decode(tokens, memory, edits={site: iv.Patch(acts[site])})
        ```
    """

    value: PatchValue
    partial: bool = pytrees.field(pytree_node=False, default=False)

    def __call__(self, x: Array, at: At) -> Array:
        return select_patch_value(self.value, x, at)

    def check(self, spec: SiteSpec) -> None:
        """Raises ValueError if `value` does not fit the site.

        Example:
            >>> spec = jaxasr.sites.spec(jaxasr.SIZES["tiny.en"], "decoder.mlp_out", 1, 5)
            >>> Patch(jnp.ones(384)).check(spec)  # broadcasts to [1, 5, 384]
        """
        check_patch_value(self.value, spec, self.partial)


@pytrees.dataclass(repr=False)
class Mix(EditBase):
    """Interpolates towards a value: x ← (1-α)·x + α·value.

    Args:
        alpha: strength. 0 leaves `x` unchanged, 1 replaces it, above 1 extrapolates.
        value: the value to move towards, as in `Patch`.
        partial: allows a value with fewer positions than the pass, as in `Patch`.

    Raises:
        ValueError: in the pass, if `value` does not fit the site.

    Example:
        >>> from interventions import Mix
        >>> Mix(0.5, jnp.ones(384))
        Mix(alpha=0.5, value=float32[384], partial=False)
    """

    alpha: Float[Array, ""] | float
    value: PatchValue
    partial: bool = pytrees.field(pytree_node=False, default=False)

    def __call__(self, x: Array, at: At) -> Array:
        return (1 - self.alpha) * x + self.alpha * select_patch_value(self.value, x, at)

    def check(self, spec: SiteSpec) -> None:
        """Raises ValueError if `value` does not fit the site."""
        check_patch_value(self.value, spec, self.partial)


@pytrees.dataclass(repr=False)
class Add(EditBase):
    """Adds a vector: x ← x + scale·value.

    Use a direction to steer the model. Use zeros to take the gradient at a site for attribution.

    Args:
        value: the vector, as in `Patch` but without `FromRow`.
        scale: strength.

    Raises:
        ValueError: in the pass, if `value` does not fit the site.

    Example:
        >>> from interventions import Add, only
        >>> only(Add(jnp.ones(384), scale=2.0), layers=3)
        Restrict(edit=Add(value=float32[384], scale=2.0), layers=[3])
    """

    value: Float[Array, "..."]
    scale: Float[Array, ""] | float = 1.0

    def __call__(self, x: Array, at: At) -> Array:
        value, covered = select_matching(self.value, x, at)
        # Adds 0 at positions that `value` lacks.
        return x + self.scale * jnp.where(covered, value, 0)

    def check(self, spec: SiteSpec) -> None:
        """Raises ValueError if `value` does not fit the site."""
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
    """Returns `edit` with only row `b` of its value. The batch axis remains, with size 1."""
    assert not isinstance(edit.value, FromRow)
    batch_axis = int(site in sites.LAYERED)  # the layer axis, if there is one, comes first
    return dataclasses.replace(edit, value=jnp.take(edit.value, jnp.array([b]), batch_axis))
