"""Solves ridge regression for many fits with the same features.

The objective is that of scikit-learn's `Ridge(alpha=λ)` over the training rows:
½‖y - Xw - b‖² + λ/2 ‖w‖².
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from interventions.probes.objective import Problem, Solution


def solve_path(problem: Problem, penalties: Float[Array, "P"]) -> Solution:
    """Solves all fits for each penalty in closed form, with one refinement step against rounding.

    Args:
        problem: features and rows of J fits. Its `labels` are the float targets [J, N].
        penalties: float [P], values of λ.

    Returns:
        A `Solution` with leading axes [P, J].
    """

    def solve_fit(fit: tuple[Array, ...]) -> Solution:
        shift, scale, y, rows = fit
        n_train = rows.sum()
        x = (problem.x - shift) / scale * rows[:, None]
        mean = (y * rows).sum() / n_train
        y = (y - mean) * rows
        gram = x.T @ x
        return jax.vmap(lambda penalty: _solve(x, y, mean, gram, penalty, n_train))(penalties)

    fits = problem.shift, problem.scale, problem.labels, problem.rows
    solutions = jax.lax.map(solve_fit, fits)
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), solutions)


def _solve(
    x: Array, y: Array, mean: Array, gram: Array, penalty: Array, n_train: Array
) -> Solution:
    """Solves one fit with centred features and targets; the bias is the mean of the targets."""
    cholesky = jnp.linalg.cholesky(gram + penalty * jnp.eye(len(gram))), True  # lower triangle

    def refine(w: Array) -> Array:
        return w + jax.scipy.linalg.cho_solve(cholesky, x.T @ (y - x @ w) - penalty * w)

    w = refine(refine(jnp.zeros_like(gram[0])))
    residual = y - x @ w
    gradient = penalty * w - x.T @ residual
    objective = (residual @ residual + penalty * w @ w) / 2
    return Solution(
        weights=w[None],
        bias=mean[None],
        objective=objective,
        gradient_norm=jnp.abs(gradient).max() / n_train,
        gap=gradient @ jax.scipy.linalg.cho_solve(cholesky, gradient) / (2 * objective),
        n_iter=jnp.int32(2),  # the solution and its refinement
    )
