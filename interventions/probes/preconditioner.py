"""Approximates the inverse Hessian of logistic regression, once for all fits of a layer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from interventions.probes.objective import Point, Problem, Softmax, sum_classes

_MAX_DIRECT_SIZE = 96  # rows of the largest matrix that is inverted without recursion


class Curvature(NamedTuple):
    """Describes the approximate Hessian of the loss, without the penalty.

    The weight of a row is the mean eigenvalue of its Hessian with respect to its logits.

    Attributes:
        gram: float [D, D], sum of weighted outer products of centred rows, averaged over fits.
        mean: float [J, D], weighted mean of the rows of each fit.
        total: float [J], sum of the weights of each fit.
    """

    gram: Float[Array, "D D"]
    mean: Float[Array, "J D"]
    total: Float[Array, "J"]


class Preconditioner(NamedTuple):
    """The inverse of the approximate Hessian, including the penalty.

    `inverse` is that of the weights. The curvature adds the bias of each fit exactly.
    """

    inverse: Float[Array, "D D"]
    curvature: Curvature


def estimate_curvature(problem: Problem, softmax: Softmax) -> Curvature:
    """Approximates the Hessian with one weight per row, and averages it over fits.

    The mean of the rows is not averaged. If the test rows of a fit are outliers, its mean is far
    from the average, and the average would make the steps of this fit much too short.
    """
    variance = sum_classes(softmax.p * (1 - softmax.p)) + softmax.p_last * (1 - softmax.p_last)
    weight = variance / len(softmax.p) * problem.rows
    total, mean_weight = weight.sum(-1), weight.mean(0)
    centred = problem.x - mean_weight @ problem.x / mean_weight.sum()
    centred = centred * jnp.sqrt(mean_weight)[:, None]
    return Curvature(centred.T @ centred, weight @ problem.x / total[:, None], total)


def invert_curvature(curvature: Curvature, penalty: Array) -> Preconditioner:
    """Inverts the approximate Hessian of the loss plus the penalty."""
    hessian = curvature.gram + penalty * jnp.eye(len(curvature.gram))
    return Preconditioner(_invert_by_halves(hessian)[1], curvature)


def _invert_by_halves(a: Float[Array, "D D"]) -> tuple[Float[Array, "D D"], Float[Array, "D D"]]:
    """Returns the inverses of L and of a = LLᵀ, computed from those of half the size.

    This takes about half the time of LAPACK's solver, because nearly all work is in matrix
    products. It inverts L rather than `a`, because L has a much smaller condition number. Rounding
    would otherwise leave blocks that are not positive definite.
    """
    half = len(a) // 2
    if len(a) <= _MAX_DIRECT_SIZE:
        factor = jnp.linalg.cholesky(a)
        root = jax.scipy.linalg.solve_triangular(factor, jnp.eye(len(a)), lower=True)
        return root, root.T @ root
    root, inverse = _invert_by_halves(a[:half, :half])
    across = root @ a[:half, half:]
    schur_root, schur_inverse = _invert_by_halves(a[half:, half:] - across.T @ across)
    below = -schur_root @ (across.T @ root)
    corner = below.T @ schur_root
    roots = jnp.block([[root, jnp.zeros_like(corner)], [below, schur_root]])
    return roots, jnp.block([[inverse + below.T @ below, corner], [corner.T, schur_inverse]])


def apply_inverse_hessian(
    preconditioner: Preconditioner, problem: Problem, gradient: Point
) -> Point:
    """Multiplies a gradient by the approximate inverse Hessian of each fit."""
    curvature = preconditioner.curvature
    offset = (curvature.mean - problem.shift) / problem.scale
    right = gradient.w - gradient.b[..., None] * offset
    w = (right.reshape(-1, right.shape[-1]) @ preconditioner.inverse).reshape(right.shape)
    return Point(w, gradient.b / curvature.total - (offset * w).sum(-1))
