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
from jaxtyping import Array, Bool, Float, Int

from interventions.probes import line_search
from interventions.probes.objective import (
    Point,
    Problem,
    Softmax,
    Solution,
    compute_gradient,
    compute_logits,
    compute_softmax,
)
from interventions.probes.preconditioner import (
    Curvature,
    Preconditioner,
    apply_inverse_hessian,
    estimate_curvature,
    invert_curvature,
)

_ROUGH_STAGE_GAP = 1e-3  # optimality gap of every fit at which the rough stage ends
_MAX_IDLE_STEPS = 2  # consecutive steps without a fit that moves, after which a stage ends


class _State(NamedTuple):
    """The state of all fits.

    Attributes:
        point: weights and biases.
        logits: logits at `point`.
        softmax: softmax of `logits`.
        gradient: gradient of the objective at `point`.
        direction: direction of the next step.
        decrement: gradient · preconditioned gradient. It estimates 2 (objective - optimum).
        objective: objective at `point`.
        n_iter: number of steps in which each fit moved.
        is_active: whether the optimality gap of each fit is above `tol`.
        n_steps: number of steps taken.
        n_idle: number of steps since a fit moved.
    """

    point: Point
    logits: Float[Array, "K1 J N"]
    softmax: Softmax
    gradient: Point
    direction: Point
    decrement: Float[Array, "J"]
    objective: Float[Array, "J"]
    n_iter: Int[Array, "J"]
    is_active: Bool[Array, "J"]
    n_steps: Int[Array, ""]
    n_idle: Int[Array, ""]

    def optimality_gap(self) -> Float[Array, "J"]:
        return self.decrement / (2 * self.objective)


class _WarmStart(NamedTuple):
    """The values that a stage starts from.

    Attributes:
        state: state at the end of the stage before.
        penultimate_point: optimum of the λ before the last one.
        penultimate_logits: logits at `penultimate_point`.
        curvature: curvature at the end of the last rough stage.
    """

    state: _State
    penultimate_point: Point
    penultimate_logits: Float[Array, "K1 J N"]
    curvature: Curvature


class _Stage(NamedTuple):
    """One of the two stages of each λ."""

    penalty: Array  # λ, doubled for two classes
    target_gap: Array  # optimality gap at which the stage ends
    is_refinement: Array  # whether this is the second stage


def solve_path(
    problem: Problem,
    penalties: Float[Array, "P"],
    n_classes: int,
    tol: Float[Array, ""],
    max_iter: Int[Array, ""],
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

    Returns:
        A `Solution` with leading axes [P, J].
    """

    def solve_stage(warm: _WarmStart, stage: _Stage) -> tuple[_WarmStart, Solution]:
        start, is_refinement = warm.state, stage.is_refinement

        def keep_old_in_refinement(old: Any, new: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(is_refinement, a, b), old, new)

        state = jax.lax.cond(
            is_refinement, lambda: start, lambda: _extrapolate(problem, stage.penalty, warm)
        )
        preconditioner = invert_curvature(warm.curvature, stage.penalty)
        state = _minimise(problem, preconditioner, stage, tol, max_iter, state)
        curvature = jax.lax.cond(
            is_refinement,
            lambda: warm.curvature,
            lambda: estimate_curvature(problem, state.softmax),
        )
        next_warm = _WarmStart(
            state,
            keep_old_in_refinement(warm.penultimate_point, start.point),
            keep_old_in_refinement(warm.penultimate_logits, start.logits),
            curvature,
        )
        return next_warm, _make_solution(problem, state)

    zeros = jnp.zeros((n_classes - 1, *problem.shift.shape))
    start = _make_state(problem, Point(zeros, _fit_bias_only(problem, n_classes)))
    stages = _Stage(
        penalty=jnp.repeat(penalties * (2 if n_classes == 2 else 1), 2),
        target_gap=jnp.tile(jnp.stack([jnp.maximum(tol, _ROUGH_STAGE_GAP), tol]), len(penalties)),
        is_refinement=jnp.tile(jnp.array([False, True]), len(penalties)),
    )
    curvature = estimate_curvature(problem, start.softmax)
    warm = _WarmStart(start, start.point, start.logits, curvature)
    _, solutions = jax.lax.scan(solve_stage, warm, stages)
    # Every second solution is that of a refinement.
    return jax.tree.map(lambda leaf: leaf[1::2], solutions)


def _make_state(problem: Problem, point: Point) -> _State:
    """Makes the state of fits that start at `point`. All fits are active."""
    n_fits, logits = len(problem.train_mask), compute_logits(problem, point)
    zero = jax.tree.map(jnp.zeros_like, point)  # replaced by the first direction step
    return _State(
        point=point,
        logits=logits,
        softmax=compute_softmax(problem, logits),
        gradient=zero,
        direction=zero,
        decrement=jnp.ones(n_fits),
        objective=jnp.zeros(n_fits),
        n_iter=jnp.zeros(n_fits, jnp.int32),
        is_active=jnp.ones(n_fits, bool),
        n_steps=jnp.int32(0),
        n_idle=jnp.int32(0),
    )


def _extrapolate(problem: Problem, penalty: Array, warm: _WarmStart) -> _State:
    """Steps from the last optimum, along the line from the optimum before it.

    Logits are recomputed from the weights, so that rounding errors do not accumulate over λ.
    """
    state = _make_state(problem, warm.state.point)
    state = state._replace(direction=warm.state.point - warm.penultimate_point)
    return _line_search_step(problem, penalty, state, state.logits - warm.penultimate_logits)


def _fit_bias_only(problem: Problem, n_classes: int) -> Float[Array, "K1 J"]:
    """Returns the optimal bias if all weights are 0."""
    counts = (jax.nn.one_hot(problem.labels, n_classes, axis=0) * problem.train_mask).sum(-1)
    logs = jnp.log(jnp.maximum(counts, 0.5))  # finite for a class without training rows
    return (logs - logs.mean(0))[:-1]


def _minimise(
    problem: Problem,
    preconditioner: Preconditioner,
    stage: _Stage,
    tol: Array,
    max_iter: Array,
    state: _State,
) -> _State:
    """Takes steps until the optimality gap of every fit is at most the stage's target gap.

    A fit stops moving once its gap is at most `tol`. The loop also ends if no fit descends in
    float32, even along the preconditioned gradient. Then `finish` continues in float64.
    """
    # The direction is reset because it was computed with another preconditioner.
    state = state._replace(
        direction=state.direction.times(jnp.zeros_like(state.objective)),
        decrement=jnp.ones_like(state.objective),
        n_idle=jnp.int32(0),
    )

    def is_unfinished(state: _State) -> Bool[Array, ""]:
        # Not written as `optimality_gap > target_gap`, because NaN must count as above the target.
        is_above = ~(state.optimality_gap() <= stage.target_gap).all()
        return is_above & (state.n_steps <= max_iter) & (state.n_idle < _MAX_IDLE_STEPS)

    def step(state: _State) -> _State:
        logit_change = compute_logits(problem, state.direction)
        state = _line_search_step(problem, stage.penalty, state, logit_change)
        return _direction_step(problem, preconditioner, stage.penalty, tol, state)

    state = _direction_step(problem, preconditioner, stage.penalty, tol, state)
    return jax.lax.while_loop(is_unfinished, step, state)


def _direction_step(
    problem: Problem, preconditioner: Preconditioner, penalty: Array, tol: Array, state: _State
) -> _State:
    """Computes the gradient and the next Polak-Ribière direction, and which fits are active."""
    gradient = compute_gradient(problem, state.softmax, state.point, penalty)
    preconditioned = apply_inverse_hessian(preconditioner, problem, gradient)
    decrement = gradient.dot(preconditioned)
    beta = jnp.maximum(decrement - state.gradient.dot(preconditioned), 0) / state.decrement
    direction = state.direction.times(beta) + -preconditioned
    # A fit whose conjugate direction would ascend restarts along the preconditioned gradient.
    descends = direction.dot(gradient) < 0
    direction = direction.times(descends * 1.0) + preconditioned.times(descends - 1.0)
    objective = state.softmax.loss + penalty / 2 * state.point.squared_norm()
    return state._replace(
        gradient=gradient,
        direction=direction,
        decrement=decrement,
        objective=objective,
        is_active=decrement > 2 * tol * objective,
        n_steps=state.n_steps + 1,
    )


def _line_search_step(
    problem: Problem, penalty: Array, state: _State, logit_change: Float[Array, "K1 J N"]
) -> _State:
    """Moves active fits nearly to the minimum along their direction.

    `logit_change` are the logits of `state.direction`. A step of length 1 adds them.
    """
    length, softmax = line_search.search(
        problem,
        penalty,
        state.point,
        state.direction,
        logit_change,
        state.logits,
        state.softmax,
        state.is_active,
    )
    moved = length != 0
    return state._replace(
        point=state.point + state.direction.times(length),
        logits=state.logits + logit_change * length[:, None],
        softmax=softmax,
        n_iter=state.n_iter + moved,
        n_idle=jnp.where(moved.any(), 0, state.n_idle + 1),
    )


def _make_solution(problem: Problem, state: _State) -> Solution:
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
