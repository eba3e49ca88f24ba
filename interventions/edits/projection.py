"""Removes a subspace from activations, or keeps only the subspace."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from interventions.edits.base import EditBase
from jaxasr import pytrees
from jaxasr.sites import SiteSpec
from jaxasr.taps import At, is_traced


@pytrees.dataclass(repr=False)
class Project(EditBase):
    """Removes a subspace from an activation: x ← x - BᵀBx.

    With `keep=True` only the subspace remains: x ← BᵀBx. The rows of B are an orthonormal basis.
    `Project.span(vectors)` makes a basis from other vectors.

    Args:
        basis: B, float [k, D] with orthonormal rows, or [L, k, D] with one basis per layer. D is
            the size of the site's last axis.
        keep: keeps the subspace and removes the rest.

    Raises:
        ValueError: in the pass, if D is not the size of the site's last axis.

    Example:
        >>> from interventions import Project
        >>> edit = Project.span(jnp.array([[2.0, 0.0, 0.0]]))
        >>> edit(jnp.array([[[3.0, 4.0, 5.0]]]), at=None).tolist()
        [[[0.0, 4.0, 5.0]]]
    """

    basis: Float[Array, "*L k D"]
    keep: bool = pytrees.field(pytree_node=False, default=False)

    @classmethod
    def span(cls, vectors: Float[Array, "*L k D"], keep: bool = False) -> "Project":
        """Makes the projection of the subspace that `vectors` span.

        Args:
            vectors: float [k, D] or [L, k, D], linearly independent. They need not be orthogonal or
                of unit length.
            keep: keeps the subspace and removes the rest.

        Raises:
            ValueError: the vectors are linearly dependent.

        Example:
            >>> from interventions import Project
            >>> Project.span(jnp.array([[1.0, 0.0], [1.0, 1.0]])).basis.shape
            (2, 2)
        """
        q, r = jnp.linalg.qr(jnp.swapaxes(jnp.atleast_2d(vectors), -1, -2))
        # |r_ii| is the distance of vector i from the span of the vectors before it.
        smallest = jnp.abs(jnp.diagonal(r, axis1=-2, axis2=-1)).min()
        if not is_traced(smallest) and smallest < 1e-6:
            raise ValueError(
                f"vectors: expected linearly independent vectors, got {vectors.shape[-2]} "
                "that span a smaller subspace. Remove those that depend on the others."
            )
        return cls(jnp.swapaxes(q, -1, -2), keep)

    def __call__(self, x: Array, at: At) -> Array:
        basis = self.basis[at.layer] if self.basis.ndim == 3 else self.basis
        inside = (x @ basis.T) @ basis
        return inside if self.keep else x - inside

    def check(self, spec: SiteSpec) -> None:
        """Raises ValueError if the vectors are not as long as the site's last axis."""
        if self.basis.shape[-1] != spec.shape[-1]:
            raise ValueError(
                f"basis: expected vectors of length {spec.shape[-1]} at {spec.site!r}, "
                f"got {self.basis.shape[-1]}."
            )
