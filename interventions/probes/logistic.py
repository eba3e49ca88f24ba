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

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.probes.objective import Point, Problem, Solution, compute_logits, compute_softmax
from interventions.probes.preconditioner import (
    Curvature,
    Inverter,
    estimate_curvature,
    invert_curvature,
)
from interventions.probes.steps import Stage, State, make_state, minimise

_ROUGH_STAGE_GAP = 1e-3  # optimality gap of every fit at which the rough stage ends


class _WarmStart(NamedTuple):
    """The values that the fits of a λ start from.

    Attributes:
        point: optimum of the last λ.
        previous_point: optimum of the λ before the last one.
        previous_logits: logits at `previous_point`.
        curvature: curvature at the end of the last rough stage.
    """

    point: Point
    previous_point: Point
    previous_logits: Float[Array, "K1 J N"]
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

    def solve_penalty(
        warm: _WarmStart, penalty_and_place: tuple[Array, Array]
    ) -> tuple[_WarmStart, Solution]:
        penalty, is_first = penalty_and_place
        # Recomputed from the weights, so that rounding errors do not accumulate over λ.
        logits = compute_logits(problem, warm.point)
        logit_change = logits - warm.previous_logits
        start = make_state(warm.point, logits, compute_softmax(problem, logits))
        start = start._replace(direction=warm.point - warm.previous_point)

        def solve_stage(
            start: tuple[State, Curvature], stage: Stage
        ) -> tuple[tuple[State, Curvature], None]:
            state, curvature = start
            curvature = jax.lax.cond(
                stage.is_refinement | is_first,
                lambda: estimate_curvature(problem, state.softmax),
                lambda: curvature,
            )
            preconditioner = invert_curvature(curvature, penalty, invert)
            state = minimise(
                problem, preconditioner, penalty, stage, tol, max_iter, state, logit_change
            )
            return (state, curvature), None

        (state, curvature), _ = jax.lax.scan(solve_stage, (start, warm.curvature), stages)
        next_warm = _WarmStart(state.point, start.point, logits, curvature)
        return next_warm, _make_solution(problem, state)

    stages = Stage(
        is_refinement=jnp.array([False, True]),
        target_gap=jnp.stack([jnp.maximum(tol, _ROUGH_STAGE_GAP), tol]),
    )
    penalties = penalties * (2 if n_classes == 2 else 1)
    is_first = jnp.arange(len(penalties)) == 0
    start = _start(problem, n_classes)
    return jax.lax.scan(solve_penalty, start, (penalties, is_first))[1]


def _start(problem: Problem, n_classes: int) -> _WarmStart:
    """Returns weights of 0 with the optimal bias. The first λ computes the curvature there."""
    (n_fits, n_features), n_rows = problem.shift.shape, problem.labels.shape[-1]
    weights = jnp.zeros((n_classes - 1, n_fits, n_features))
    point = Point(weights, _fit_bias_only(problem, n_classes))
    logits = jnp.broadcast_to(point.b[..., None], (*point.b.shape, n_rows))
    gram = jnp.zeros((n_features, n_features))
    curvature = Curvature(gram, jnp.zeros_like(problem.shift), jnp.zeros(n_fits))
    return _WarmStart(point, point, logits, curvature)


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
        gradient_norm=jnp.maximum(largest_w, largest_b) * (1 / problem.train_mask.sum(-1)),
        optimality_gap=state.optimality_gap(),
        n_iter=state.n_iter,
    )
