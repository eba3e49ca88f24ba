"""Approximates the inverse Hessian of logistic regression, once for all fits of a layer."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from interventions.probes.objective import Point, Problem, Softmax, sum_classes

_MAX_DIRECT_SIZE = 96  # number of rows of the largest matrix that is inverted without recursion


# Inverts a positive definite matrix [D, D].
Inverter = Callable[[Array], Array]


class Curvature(NamedTuple):
    """Describes the approximate Hessian of the loss, without the penalty.

    Each row has a weight. It is the mean eigenvalue of the Hessian of the row's loss with respect
    to its logits.

    Attributes:
        gram: float [D, D], weighted sum of the outer products of centred rows, averaged over fits.
        mean: float [J, D], weighted mean of the training rows of each fit.
        total: float [J], sum of the weights of each fit.
    """

    gram: Float[Array, "D D"]
    mean: Float[Array, "J D"]
    total: Float[Array, "J"]


class Preconditioner(NamedTuple):
    """The inverse of the approximate Hessian, including the penalty.

    Attributes:
        inverse: float [D, D], inverse of the part of the weights, which all fits share.
        curvature: mean and total weight of each fit, which give the part of its bias exactly.
    """

    inverse: Float[Array, "D D"]
    curvature: Curvature


def estimate_curvature(problem: Problem, softmax: Softmax) -> Curvature:
    """Approximates the Hessian with one weight per row, and averages it over fits.

    The mean of the rows is not averaged over fits. If the test rows of a fit are outliers, its mean
    is far from the average. The average would then make the steps of this fit much too short.
    """
    variance = sum_classes(softmax.p * (1 - softmax.p)) + softmax.p_last * (1 - softmax.p_last)
    weight = variance / len(softmax.p) * problem.train_mask
    total, mean_weight = weight.sum(-1), weight.mean(0)
    centred = problem.x - mean_weight @ problem.x * (1 / mean_weight.sum())
    # With the square root of the weights on both sides, one product gives the weighted sum.
    centred = centred * jnp.sqrt(mean_weight)[:, None]
    return Curvature(centred.T @ centred, weight @ problem.x * (1 / total)[:, None], total)


def invert_curvature(curvature: Curvature, penalty: Array, invert: Inverter) -> Preconditioner:
    """Inverts the approximate Hessian of the loss plus the penalty."""
    hessian = curvature.gram + penalty * jnp.eye(len(curvature.gram))
    return Preconditioner(invert(hessian), curvature)


def invert_by_halves(matrix: Float[Array, "D D"]) -> Float[Array, "D D"]:
    """Inverts a positive definite matrix in half of LAPACK's time; see `_factor_by_halves`."""
    return _factor_by_halves(matrix)[1]


def invert_by_cholesky(matrix: Float[Array, "D D"]) -> Float[Array, "D D"]:
    """Inverts a positive definite matrix by few calls of the solver library.

    On an accelerator every product of another shape is tuned when it is compiled, so that the
    recursion of `invert_by_halves` would take most of the time to compile.
    """
    factor_inverse = _invert_factor(matrix)
    return factor_inverse.T @ factor_inverse


def _invert_factor(matrix: Float[Array, "D D"]) -> Float[Array, "D D"]:
    """Returns the inverse of the Cholesky factor L of a matrix LLᵀ."""
    cholesky = jnp.linalg.cholesky(matrix)
    return jax.scipy.linalg.solve_triangular(cholesky, jnp.eye(len(matrix)), lower=True)


def _factor_by_halves(
    matrix: Float[Array, "D D"],
) -> tuple[Float[Array, "D D"], Float[Array, "D D"]]:
    """Returns the inverses of L and of the matrix LLᵀ, by recursion on halves.

    This takes about half the time of LAPACK's solver, because nearly all work is in matrix
    products. The recursion inverts L and not the matrix, because the condition number of L is much
    smaller. With inverses of the matrix, rounding would leave blocks that are not positive
    definite.
    """
    half = len(matrix) // 2
    if len(matrix) <= _MAX_DIRECT_SIZE:
        factor_inverse = _invert_factor(matrix)
        return factor_inverse, factor_inverse.T @ factor_inverse
    # L is [[U, 0], [A, B]]: U is the factor of the upper left block, A is `across` transposed, and
    # B is the factor of the lower right block minus A Aᵀ.
    upper_factor_inverse, upper_inverse = _factor_by_halves(matrix[:half, :half])
    across = upper_factor_inverse @ matrix[:half, half:]
    lower_factor_inverse, lower_inverse = _factor_by_halves(
        matrix[half:, half:] - across.T @ across
    )
    below = -lower_factor_inverse @ (across.T @ upper_factor_inverse)
    corner = below.T @ lower_factor_inverse
    zeros = jnp.zeros_like(corner)
    factor_inverse = jnp.block([[upper_factor_inverse, zeros], [below, lower_factor_inverse]])
    inverse = jnp.block([[upper_inverse + below.T @ below, corner], [corner.T, lower_inverse]])
    return factor_inverse, inverse


def apply_inverse_hessian(
    preconditioner: Preconditioner, problem: Problem, gradient: Point
) -> Point:
    """Multiplies a gradient by the approximate inverse Hessian of each fit."""
    curvature = preconditioner.curvature
    # Weighted mean of the standardised rows of each fit. It couples the weights to the bias.
    offset = (curvature.mean - problem.shift) / problem.scale
    right_side = gradient.w - gradient.b[..., None] * offset
    w = (right_side.reshape(-1, right_side.shape[-1]) @ preconditioner.inverse).reshape(
        right_side.shape
    )
    return Point(w, gradient.b * (1 / curvature.total) - (offset * w).sum(-1))
