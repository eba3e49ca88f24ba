"""Defines the control of a patch: a change of the same size in a random direction."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.edits.base import EditBase, PatchValue, check_patch_value, select_patch_value
from interventions.edits.noise import Noise
from jaxasr import pytrees
from jaxasr.sites import SiteSpec
from jaxasr.taps import At


@pytrees.dataclass(repr=False)
class RandomDirection(EditBase):
    """Changes an activation as much as `Mix`, in a random direction: x ← x + α·‖value - x‖·u.

    `Mix` computes x + α·(value - x). Here u is a random unit vector, drawn per position as in
    `Noise`. If this control has the same effect as `Mix`, the effect is not specific to `value`.

    Args:
        alpha: strength, as in `Mix`.
        value: the value that `Mix` would use, as in `Patch`.
        seed: seed of the random directions.

    Raises:
        ValueError: in the pass, if `value` does not fit the site.

    Example:
        >>> from interventions.edits import RandomDirection
        >>> RandomDirection(1.0, jnp.ones(384), seed=3)
        RandomDirection(alpha=1.0, value=float32[384], seed=3)
    """

    alpha: Float[Array, ""] | float
    value: PatchValue
    seed: Int[Array, ""] | int = 0

    def __call__(self, x: Array, at: At) -> Array:
        # The rms of ones is 1, so this noise is standard normal.
        direction = Noise(self.seed, replace=True)(jnp.ones_like(x), at)
        distance = _norm(select_patch_value(self.value, x, at) - x)
        return x + self.alpha * distance / _norm(direction) * direction

    def check(self, spec: SiteSpec) -> None:
        """Raises ValueError if `value` does not fit the site."""
        check_patch_value(self.value, spec, partial=False)


def _norm(x: Array) -> Array:
    return jnp.sqrt((x**2).sum(-1, keepdims=True))
