"""An approximate inverse Hessian of logistic regression, shared by all fits of a layer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from interventions.probes.objective import Point, Problem, Softmax, sum_classes

_LEAF = 96  # features; matrices up to this size are inverted by LAPACK


class Curvature(NamedTuple):
    """The approximate Hessian of the loss, without the penalty.

    Attributes:
        gram: float [D, D], the scatter of weighted rows, averaged over fits.
        mean: float [J, D], the weighted mean of the rows of each fit.
        total: float [J], the summed weight of each fit.
    """

    gram: Float[Array, "D D"]
    mean: Float[Array, "J D"]
    total: Float[Array, "J"]


class Preconditioner(NamedTuple):
    """The inverse of the curvature plus a penalty; exact in the bias of each fit."""

    inverse: Float[Array, "D D"]
    curvature: Curvature


def estimate_curvature(problem: Problem, soft: Softmax) -> Curvature:
    """Averages the Hessian over fits, each row's class block replaced by its mean eigenvalue.

    Only the scatter of rows is averaged. The mean of a fit may be far from the average mean, in
    units of the fit's own scale, if its test rows are outliers; with the average mean, the bias
    would hide most of the descent from that fit.
    """
    spread = sum_classes(soft.p * (1 - soft.p)) + soft.last * (1 - soft.last)
    weight = spread / len(soft.p) * problem.rows
    total, shared = weight.sum(-1), weight.mean(0)
    centred = (problem.x - shared @ problem.x / shared.sum()) * jnp.sqrt(shared)[:, None]
    return Curvature(centred.T @ centred, weight @ problem.x / total[:, None], total)


def invert(curvature: Curvature, penalty: Array) -> Preconditioner:
    """Inverts the curvature plus the penalty."""
    hessian = curvature.gram + penalty * jnp.eye(len(curvature.gram))
    return Preconditioner(_invert_factor(hessian)[1], curvature)


def _invert_factor(a: Float[Array, "D D"]) -> tuple[Float[Array, "D D"], Float[Array, "D D"]]:
    """Returns the inverses of L and of a, where a = LLᵀ, by recursion on halves.

    Nearly all work is in matrix products, which take half the time of LAPACK's solver. The
    recursion goes through L, whose condition number is the root of that of `a`, because otherwise
    rounding leaves halves that are not positive definite.
    """
    half = len(a) // 2
    if len(a) <= _LEAF:
        factor = jnp.linalg.cholesky(a)
        root = jax.scipy.linalg.solve_triangular(factor, jnp.eye(len(a)), lower=True)
        return root, root.T @ root
    root, inverse = _invert_factor(a[:half, :half])
    across = root @ a[:half, half:]
    schur_root, schur_inverse = _invert_factor(a[half:, half:] - across.T @ across)
    below = -schur_root @ (across.T @ root)
    corner = below.T @ schur_root
    roots = jnp.block([[root, jnp.zeros_like(corner)], [below, schur_root]])
    return roots, jnp.block([[inverse + below.T @ below, corner], [corner.T, schur_inverse]])


def apply(preconditioner: Preconditioner, problem: Problem, gradient: Point) -> Point:
    """Multiplies a gradient by the approximate inverse Hessian of each fit."""
    curvature = preconditioner.curvature
    offset = (curvature.mean - problem.shift) / problem.scale
    right = gradient.w - gradient.b[..., None] * offset
    w = (right.reshape(-1, right.shape[-1]) @ preconditioner.inverse).reshape(right.shape)
    return Point(w, gradient.b / curvature.total - (offset * w).sum(-1))
