"""Ridge regression for many fits: ½‖y - Xw - b‖² + λ/2 ‖w‖² over the training rows, as scikit-learn's `Ridge(alpha=λ)`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from interventions.probes.logistic import Solution
from interventions.probes.objective import Problem


def solve_path(problem: Problem, penalties: Float[Array, "P"]) -> Solution:
    """Solutions [P, J, ...] in closed form, each refined once; `problem.labels` [J, N] are the targets, float."""

    def fit(shift: Array, scale: Array, y: Array, rows: Array) -> Solution:
        x = (problem.x - shift) / scale * rows[:, None]
        mean = (y * rows).sum() / rows.sum()
        away = (y - mean) * rows
        gram = x.T @ x
        return jax.vmap(lambda penalty: _one(x, away, mean, gram, penalty, rows.sum()))(penalties)

    found = jax.lax.map(
        lambda fit_of: fit(*fit_of), (problem.shift, problem.scale, problem.labels, problem.rows)
    )
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), found)


def _one(x: Array, y: Array, mean: Array, gram: Array, penalty: Array, n: Array) -> Solution:
    factor = jnp.linalg.cholesky(gram + penalty * jnp.eye(len(gram))), True

    def refined(w: Array) -> Array:
        return w + jax.scipy.linalg.cho_solve(factor, x.T @ (y - x @ w) - penalty * w)

    w = refined(refined(jnp.zeros_like(gram[0])))
    off = y - x @ w
    gradient = penalty * w - x.T @ off
    objective = (off @ off + penalty * w @ w) / 2
    gap = gradient @ jax.scipy.linalg.cho_solve(factor, gradient) / (2 * objective)
    return Solution(w[None], mean[None], objective, jnp.abs(gradient).max() / n, gap, jnp.int32(2))
