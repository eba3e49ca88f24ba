"""Ridge regression for many fits that share their features.

The objective is that of scikit-learn's `Ridge(alpha=λ)` over the training rows:
½‖y - Xw - b‖² + λ/2 ‖w‖².
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from interventions.probes.objective import Problem, Solution


def solve_path(problem: Problem, penalties: Float[Array, "P"]) -> Solution:
    """Solves all fits for each penalty in closed form, refined once against rounding.

    Args:
        problem: features and rows of J fits; `labels` [J, N] are the targets, float.
        penalties: float [P], λ.

    Returns:
        A `Solution` with leading axes [P, J].
    """

    def solve_fit(fit: tuple[Array, ...]) -> Solution:
        shift, scale, y, rows = fit
        n = rows.sum()
        x = (problem.x - shift) / scale * rows[:, None]
        mean = (y * rows).sum() / n
        y = (y - mean) * rows
        gram = x.T @ x
        return jax.vmap(lambda penalty: _solve(x, y, mean, gram, penalty, n))(penalties)

    fits = problem.shift, problem.scale, problem.labels, problem.rows
    solutions = jax.lax.map(solve_fit, fits)
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), solutions)


def _solve(x: Array, y: Array, mean: Array, gram: Array, penalty: Array, n: Array) -> Solution:
    factor = jnp.linalg.cholesky(gram + penalty * jnp.eye(len(gram))), True

    def refine(w: Array) -> Array:
        return w + jax.scipy.linalg.cho_solve(factor, x.T @ (y - x @ w) - penalty * w)

    w = refine(refine(jnp.zeros_like(gram[0])))
    residual = y - x @ w
    gradient = penalty * w - x.T @ residual
    objective = (residual @ residual + penalty * w @ w) / 2
    return Solution(
        weights=w[None],
        bias=mean[None],
        objective=objective,
        gradient_norm=jnp.abs(gradient).max() / n,
        gap=gradient @ jax.scipy.linalg.cho_solve(factor, gradient) / (2 * objective),
        n_iter=jnp.int32(2),
    )
