"""Fits multinomial logistic regression by preconditioned conjugate gradients.

The objective of a fit is that of scikit-learn. It is the cross-entropy summed over the training
rows, plus λ/2 ‖W‖². The bias is not penalised. Features are standardised by the training rows of
the fit. Axes: K classes, J fits (fold × seed), N rows, D features.

All fits take their steps together. Fits have different training rows, labels and λ, but the same
features. Every step is therefore two large products with one matrix.

At the optimum the weights of all classes sum to 0. The solver keeps this sum at 0 in every step, so
it stores only K1 = K - 1 classes. For two classes scikit-learn penalises a single vector w, with
‖w‖² = 2 ‖W‖². The solver matches this by doubling λ.

Each λ has two stages. The rough stage ends near the optima. The refinement continues with a
preconditioner that is computed there.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.probes.objective import (
    Point,
    Problem,
    Softmax,
    Solution,
    compute_logits,
    compute_softmax,
)
from interventions.probes.preconditioner import (
    Curvature,
    Inverter,
    estimate_curvature,
    invert_curvature,
)
from interventions.probes.steps import Stage, State, make_state, minimise

_ROUGH_STAGE_GAP = 1e-3  # optimality gap of every fit at which the rough stage ends


class _WarmStart(NamedTuple):
    """The values that a stage starts from.

    Attributes:
        state: state at the end of the stage before.
        penultimate_point: optimum of the λ before the last one.
        penultimate_logits: logits at `penultimate_point`.
        curvature: curvature at the end of the last rough stage.
    """

    state: State
    penultimate_point: Point
    penultimate_logits: Float[Array, "K1 J N"]
    curvature: Curvature


def solve_path(
    problem: Problem,
    penalties: Float[Array, "P"],
    n_classes: int,
    tol: Float[Array, ""],
    max_iter: Int[Array, ""],
    invert: Inverter,
) -> Solution:
    """Solves all fits for each penalty in the order given.

    Penalties should be in descending order, because each λ starts from the optimum of the previous
    λ. The first step extrapolates the line through the last two optima. The curvature is computed
    at the end of the rough stage, because the estimated gap is accurate only with the curvature
    near the optimum. The next λ starts with this curvature.

    Args:
        problem: features, labels and training rows of J fits.
        penalties: float [P], λ of λ/2 ‖W‖².
        n_classes: number of classes K.
        tol: optimality gap at which a fit has converged.
        max_iter: largest number of steps per λ.
        invert: inverts a positive definite matrix.

    Returns:
        A `Solution` with leading axes [P, J].
    """

    def solve_stage(warm: _WarmStart, stage: Stage) -> tuple[_WarmStart, Solution]:
        is_refinement = stage.is_refinement

        def keep_old_in_refinement(old: Any, new: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(is_refinement, a, b), old, new)

        start, first_logit_change = jax.lax.cond(
            is_refinement,
            lambda: (warm.state, jnp.zeros_like(warm.state.logits)),
            lambda: _extrapolate(problem, warm),
        )
        curvature = jax.lax.cond(
            stage.renews_curvature,
            lambda: estimate_curvature(problem, start.softmax),
            lambda: warm.curvature,
        )
        preconditioner = invert_curvature(curvature, stage.penalty, invert)
        state = minimise(problem, preconditioner, stage, tol, max_iter, start, first_logit_change)
        next_warm = _WarmStart(
            state,
            keep_old_in_refinement(warm.penultimate_point, start.point),
            keep_old_in_refinement(warm.penultimate_logits, start.logits),
            curvature,
        )
        return next_warm, _make_solution(problem, state)

    zeros = jnp.zeros((n_classes - 1, *problem.shift.shape))
    start = _make_start(problem, Point(zeros, _fit_bias_only(problem, n_classes)))
    is_refinement = jnp.tile(jnp.array([False, True]), len(penalties))
    stages = Stage(
        penalty=jnp.repeat(penalties * (2 if n_classes == 2 else 1), 2),
        target_gap=jnp.tile(jnp.stack([jnp.maximum(tol, _ROUGH_STAGE_GAP), tol]), len(penalties)),
        is_refinement=is_refinement,
        renews_curvature=is_refinement.at[0].set(True),
    )
    _, solutions = jax.lax.scan(solve_stage, start, stages)
    # Every second solution is that of a refinement.
    return jax.tree.map(lambda leaf: leaf[1::2], solutions)


def _make_start(problem: Problem, point: Point) -> _WarmStart:
    """Makes the start of the first stage, which computes the softmax and the curvature itself."""
    # Weights are 0, so the logits are the bias.
    logits = jnp.broadcast_to(point.b[..., None], (*point.b.shape, problem.labels.shape[-1]))
    n_fits, n_features = problem.shift.shape
    softmax = Softmax(logits, logits[0], jnp.zeros(n_fits))
    gram = jnp.zeros((n_features, n_features))
    curvature = Curvature(gram, jnp.zeros_like(problem.shift), jnp.zeros(n_fits))
    return _WarmStart(make_state(point, logits, softmax), point, logits, curvature)


def _extrapolate(problem: Problem, warm: _WarmStart) -> tuple[State, Float[Array, "K1 J N"]]:
    """Returns a state that will step from the last optimum, along the line from the one before it.

    The second result is the change of the logits along this line. Logits are recomputed from the
    weights, so that rounding errors do not accumulate over λ.
    """
    point = warm.state.point
    logits = compute_logits(problem, point)
    state = make_state(point, logits, compute_softmax(problem, logits))
    direction = point - warm.penultimate_point
    return state._replace(direction=direction), logits - warm.penultimate_logits


def _fit_bias_only(problem: Problem, n_classes: int) -> Float[Array, "K1 J"]:
    """Returns the optimal bias if all weights are 0."""
    counts = (jax.nn.one_hot(problem.labels, n_classes, axis=0) * problem.train_mask).sum(-1)
    logs = jnp.log(jnp.maximum(counts, 0.5))  # finite for a class without training rows
    return (logs - logs.mean(0))[:-1]


def _make_solution(problem: Problem, state: State) -> Solution:
    """Adds the last class, the gradient norm and the optimality gap."""
    point, gradient = state.point, state.gradient
    w = jnp.concatenate([point.w, -point.w.sum(0)[None]])
    b = jnp.concatenate([point.b, -point.b.sum(0)[None]])
    largest_w = jnp.maximum(jnp.abs(gradient.w).max((0, 2)), jnp.abs(gradient.w.sum(0)).max(-1))
    largest_b = jnp.maximum(jnp.abs(gradient.b).max(0), jnp.abs(gradient.b.sum(0)))
    return Solution(
        weights=w.swapaxes(0, 1),
        bias=b.T,
        objective=state.objective,
        gradient_norm=jnp.maximum(largest_w, largest_b) / problem.train_mask.sum(-1),
        optimality_gap=state.optimality_gap(),
        n_iter=state.n_iter,
    )
