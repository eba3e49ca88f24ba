"""Solves ridge regression for many fits with the same features.

The objective is ½‖y - Xw - b‖² + λ/2 ‖w‖² over the training rows, which is half of the objective of
scikit-learn's `Ridge(alpha=λ)`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from interventions.probes.objective import Problem, Solution


def solve_path(problem: Problem, penalties: Float[Array, "P"]) -> Solution:
    """Solves all fits for each penalty in closed form, with one refinement step against rounding.

    Args:
        problem: features and training rows of J fits. Its `labels` are the float targets [J, N].
        penalties: float [P], values of λ.

    Returns:
        A `Solution` with leading axes [P, J].
    """

    def solve_fit(fit: tuple[Array, ...]) -> Solution:
        shift, scale, y, train_mask = fit
        n_train = train_mask.sum()
        # Rows outside of the training rows become 0, so that they add nothing to products.
        x = (problem.x - shift) * (1 / scale) * train_mask[:, None]
        mean = (y * train_mask).sum() / n_train
        y = (y - mean) * train_mask
        gram = x.T @ x
        return jax.vmap(lambda penalty: _solve(x, y, mean, gram, penalty, n_train))(penalties)

    fits = problem.shift, problem.scale, problem.labels, problem.train_mask
    # `map` instead of `vmap`, because every fit has its own copy of the features.
    solutions = jax.lax.map(solve_fit, fits)
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), solutions)


def _solve(
    x: Array, y: Array, mean: Array, gram: Array, penalty: Array, n_train: Array
) -> Solution:
    """Solves one fit with centred features and targets. The bias is the mean of the targets."""
    cholesky = jnp.linalg.cholesky(gram + penalty * jnp.eye(len(gram))), True  # lower triangle

    def refine(w: Array) -> Array:
        return w + jax.scipy.linalg.cho_solve(cholesky, x.T @ (y - x @ w) - penalty * w)

    # From 0, the first call gives the solution, and the second corrects its rounding errors.
    w = refine(refine(jnp.zeros_like(gram[0])))
    residual = y - x @ w
    gradient = penalty * w - x.T @ residual
    objective = (residual @ residual + penalty * w @ w) / 2
    return Solution(
        weights=w[None],
        bias=mean[None],
        objective=objective,
        gradient_norm=jnp.abs(gradient).max() * (1 / n_train),
        optimality_gap=gradient @ jax.scipy.linalg.cho_solve(cholesky, gradient) / (2 * objective),
        n_iter=jnp.int32(2),  # the solution and its refinement
    )
