"""The null of a patch: a step of the same length in a random direction."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.edits.base import EditBase, Reference, check_reference, resolve
from interventions.edits.noise import Noise
from jaxasr import pytrees
from jaxasr.sites import SiteSpec
from jaxasr.taps import At


@pytrees.dataclass(repr=False)
class RandomDirection(EditBase):
    """Moves an activation as far as `Mix` would, in a random direction: x ← x + α·‖value - x‖·u.

    `Mix` computes x + α·(value - x). Here u is a random unit vector per step, drawn as in `Noise`.
    An effect that this control has too is not specific to `value`.

    Args:
        alpha: strength, as in `Mix`.
        value: as in `Patch`.
        seed: seed of the draw.

    Raises:
        ValueError: in the pass, when `value` does not fit the site.

    Example:
        >>> from interventions.edits import RandomDirection
        >>> RandomDirection(1.0, jnp.ones(384), seed=3)
        RandomDirection(alpha=1.0, value=float32[384], seed=3)
    """

    alpha: Float[Array, ""] | float
    value: Reference
    seed: Int[Array, ""] | int = 0

    def __call__(self, x: Array, at: At) -> Array:
        direction = Noise(self.seed, replace=True)(jnp.ones_like(x), at)
        distance = _norm(resolve(self.value, x, at) - x)
        return x + self.alpha * distance / _norm(direction) * direction

    def check(self, spec: SiteSpec) -> None:
        """Raises ValueError when `value` does not fit the site."""
        check_reference(self.value, spec, False)


def _norm(x: Array) -> Array:
    return jnp.sqrt((x**2).sum(-1, keepdims=True))
