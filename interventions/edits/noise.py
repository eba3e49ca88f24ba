"""Adds Gaussian noise to activations."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.edits.base import EditBase
from jaxasr import pytrees
from jaxasr.sites import SiteSpec
from jaxasr.taps import At


@pytrees.dataclass(repr=False)
class Noise(EditBase):
    """Adds Gaussian noise: x ← x + scale·rms(x)·n, with n standard normal.

    The rms is taken over the features of one position, so `scale=1` is a signal-to-noise ratio of
    0 dB at every position. Seed, layer, row and absolute position determine the noise. Cached
    generation therefore adds the same noise as a whole pass.

    Args:
        seed: seed of the noise.
        scale: rms of the noise, relative to that of the activation.
        replace: replaces the activation by the noise alone: x ← scale·rms(x)·n.

    Raises:
        ValueError: in the pass, at `scores` and `pattern` sites.

    Example:
        >>> from interventions import Noise
        >>> Noise(seed=0, scale=0.5)
        Noise(seed=0, scale=0.5, replace=False)
    """

    seed: Int[Array, ""] | int
    scale: Float[Array, ""] | float = 1.0
    replace: bool = pytrees.field(pytree_node=False, default=False)

    def __call__(self, x: Array, at: At) -> Array:
        key = jax.random.fold_in(jax.random.key(self.seed), at.layer)
        rows = jnp.broadcast_to(jnp.arange(x.shape[0])[:, None], at.positions.shape)

        def draw(row: Array, position: Array, features: Array) -> Array:
            # One key per row and position, so that a cached step draws what a whole pass draws.
            step_key = jax.random.fold_in(jax.random.fold_in(key, row), position)
            drawn = jax.random.normal(step_key, features.shape, features.dtype)
            return drawn * jnp.sqrt(jnp.mean(features**2))

        # The two `vmap` map over rows and positions.
        noise = self.scale * jax.vmap(jax.vmap(draw))(rows, at.positions, x)
        return noise if self.replace else x + noise

    def check(self, spec: SiteSpec) -> None:
        """Raises ValueError at sites with a query and a key axis."""
        if "T" in spec.axes and "S" in spec.axes:
            raise ValueError(
                f"Noise: not defined at {spec.site!r}. "
                "Use it at q, k, v or z, or use Patch with a noisy pattern."
            )
