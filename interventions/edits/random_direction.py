"""The null of a patch: as far from the activation as the patch goes, but in a direction that means nothing."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.edits.values import Noise, Reference, _Edit, check_reference, reference
from jaxasr import pytrees
from jaxasr.sites import SiteSpec
from jaxasr.taps import At


@pytrees.dataclass(repr=False)
class RandomDirection(_Edit):
    """x ← x + α·‖value - x‖·u, where `Mix` goes x + α·(value - x); u is a random unit vector of each step.

    The draw is that of `Noise`: it depends on the seed, layer, row and absolute position alone.
    """

    alpha: Float[Array, ""] | float
    value: Reference
    seed: Int[Array, ""] | int = 0

    def __call__(self, x: Array, at: At) -> Array:
        drawn = Noise(self.seed, replace=True)(jnp.ones_like(x), at)
        return x + self.alpha * _length(reference(self.value, x, at) - x) / _length(drawn) * drawn

    def check(self, spec: SiteSpec) -> None:
        check_reference(self.value, spec, False)


def _length(x: Array) -> Any:
    return jnp.sqrt((x**2).sum(-1, keepdims=True))
