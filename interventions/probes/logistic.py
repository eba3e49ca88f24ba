"""Multinomial logistic regression: preconditioned conjugate gradients, all fits in step.

The objective of one fit is scikit-learn's: cross-entropy summed over its training rows + λ/2 ‖W‖²,
with features standardised by its own training rows and the bias not penalised. Fits differ in rows
(a mask), labels and λ but share features, so every step is two large products with one matrix per
layer. Axes: K classes, J fits (fold × seed), N rows, D features.

Σₖ Wₖ = 0 holds at the optimum and is kept from the start, so the last class is minus the sum of the
others and is never stored. Two classes are scikit-learn's single-vector form: there ‖w‖² = 2 ‖W‖²,
hence twice the λ.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from interventions.probes import line_search, preconditioner as precondition
from interventions.probes.objective import (
    Point,
    Problem,
    Softmax,
    Solution,
    compute_gradient,
    compute_logits,
    softmax,
)
from interventions.probes.preconditioner import Curvature, Preconditioner

_ROUGH_GAP = 1e-3  # the gap at which the preconditioner is recomputed
_MAX_IDLE = 2  # steps in which no fit moves


class _State(NamedTuple):
    """The state of all fits.

    Attributes:
        point: weights and bias.
        logits: of `point`.
        soft: of `logits`.
        gradient: of the objective.
        direction: of the next step.
        decrement: gradient · preconditioned gradient, twice the estimated distance to the optimum.
        objective: of `point`.
        n_iter: steps in which the fit moved.
        is_active: False once the fit's own gap is below `tol`.
        n_steps: steps in all.
        n_idle: steps since any fit moved.
    """

    point: Point
    logits: Float[Array, "K1 J N"]
    soft: Softmax
    gradient: Point
    direction: Point
    decrement: Float[Array, "J"]
    objective: Float[Array, "J"]
    n_iter: Int[Array, "J"]
    is_active: Bool[Array, "J"]
    n_steps: Int[Array, ""]
    n_idle: Int[Array, ""]

    def gap(self) -> Float[Array, "J"]:
        return self.decrement / (2 * self.objective)


class _WarmStart(NamedTuple):
    """What a stage starts from.

    Attributes:
        state: the end of the previous stage.
        previous: the optimum of the λ before that of `state`.
        previous_logits: of `previous`.
        curvature: at the last rough optimum.
    """

    state: _State
    previous: Point
    previous_logits: Float[Array, "K1 J N"]
    curvature: Curvature


class _Stage(NamedTuple):
    """One of the two stages of a λ: first to a rough gap, then to `tol` with a new curvature."""

    penalty: Array
    gap: Array
    is_refinement: Array


def solve_path(
    problem: Problem,
    penalties: Float[Array, "P"],
    n_classes: int,
    tol: Float[Array, ""],
    max_iter: Int[Array, ""],
) -> Solution:
    """Solves all fits for each penalty in the order given.

    Each λ starts from the optimum of the λ before, so strong penalties go first. Its first step
    extrapolates from the last two optima, which lie nearly on a line in log λ. When all fits of a λ
    are close to it, the curvature is recomputed, so that the estimated gap is that of a point near
    the optimum; the next λ starts with the same curvature.

    Args:
        problem: features, labels and rows of J fits.
        penalties: float [P], λ of λ/2 ‖W‖².
        n_classes: K.
        tol: the gap at which a fit has converged.
        max_iter: largest number of steps per λ.

    Returns:
        A `Solution` with leading axes [P, J].
    """

    def solve_stage(warm: _WarmStart, stage: _Stage) -> tuple[_WarmStart, Solution]:
        start, is_refinement = warm.state, stage.is_refinement

        def keep_if_refinement(old: Any, new: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(is_refinement, a, b), old, new)

        state = jax.lax.cond(
            is_refinement, lambda: start, lambda: _extrapolate(problem, stage.penalty, warm)
        )
        metric = precondition.invert(warm.curvature, stage.penalty)
        state = _minimise(problem, metric, stage, tol, max_iter, state)
        curvature = jax.lax.cond(
            is_refinement,
            lambda: warm.curvature,
            lambda: precondition.estimate_curvature(problem, state.soft),
        )
        next_warm = _WarmStart(
            state,
            keep_if_refinement(warm.previous, start.point),
            keep_if_refinement(warm.previous_logits, start.logits),
            curvature,
        )
        return next_warm, _to_solution(problem, state)

    zeros = jnp.zeros((n_classes - 1, *problem.shift.shape))
    start = _init(problem, Point(zeros, _log_odds(problem, n_classes)))
    stages = _Stage(
        penalty=jnp.repeat(penalties * (2 if n_classes == 2 else 1), 2),
        gap=jnp.tile(jnp.stack([jnp.maximum(tol, _ROUGH_GAP), tol]), len(penalties)),
        is_refinement=jnp.tile(jnp.array([False, True]), len(penalties)),
    )
    curvature = precondition.estimate_curvature(problem, start.soft)
    warm = _WarmStart(start, start.point, start.logits, curvature)
    _, solutions = jax.lax.scan(solve_stage, warm, stages)
    return jax.tree.map(lambda leaf: leaf[1::2], solutions)


def _init(problem: Problem, point: Point) -> _State:
    """Makes the state of fits at `point` that have not taken a step."""
    n_fits, logits = len(problem.rows), compute_logits(problem, point)
    zero = jax.tree.map(jnp.zeros_like, point)
    return _State(
        point=point,
        logits=logits,
        soft=softmax(problem, logits),
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
    """Steps from the last optimum along the line from the one before it.

    Logits are recomputed from the weights, so that rounding does not accumulate from λ to λ.
    """
    state = _init(problem, warm.state.point)
    state = state._replace(direction=warm.state.point - warm.previous)
    return _line_search_step(problem, penalty, state, state.logits - warm.previous_logits)


def _log_odds(problem: Problem, n_classes: int) -> Float[Array, "K1 J"]:
    """Returns the optimal bias for W = 0."""
    counts = (jax.nn.one_hot(problem.labels, n_classes, axis=0) * problem.rows).sum(-1)
    logs = jnp.log(jnp.maximum(counts, 0.5))
    return (logs - logs.mean(0))[:-1]


def _minimise(
    problem: Problem,
    metric: Preconditioner,
    stage: _Stage,
    tol: Array,
    max_iter: Array,
    state: _State,
) -> _State:
    """Descends until no gap is above that of the stage; a fit stops at its own `tol`.

    It also ends after two steps without progress: then float32 finds no descent along the direction
    nor, one step later, along the preconditioned gradient. `finish` continues such fits in float64.
    """
    # The last direction belongs to another preconditioner.
    state = state._replace(
        direction=state.direction.times(jnp.zeros_like(state.objective)),
        decrement=jnp.ones_like(state.objective),
        n_idle=jnp.int32(0),
    )

    def is_unfinished(state: _State) -> Bool[Array, ""]:
        # Not `gap > stage.gap`: a NaN must not count as converged.
        is_above = ~(state.gap() <= stage.gap).all()
        return is_above & (state.n_steps <= max_iter) & (state.n_idle < _MAX_IDLE)

    def step(state: _State) -> _State:
        change = compute_logits(problem, state.direction)
        state = _line_search_step(problem, stage.penalty, state, change)
        return _direction_step(problem, metric, stage.penalty, tol, state)

    state = _direction_step(problem, metric, stage.penalty, tol, state)
    return jax.lax.while_loop(is_unfinished, step, state)


def _direction_step(
    problem: Problem, metric: Preconditioner, penalty: Array, tol: Array, state: _State
) -> _State:
    """Computes the gradient, the next direction (Polak-Ribière) and which fits have converged."""
    gradient = compute_gradient(problem, state.soft, state.point, penalty)
    towards = precondition.apply(metric, problem, gradient)
    decrement = gradient.dot(towards)
    beta = jnp.maximum(decrement - state.gradient.dot(towards), 0) / state.decrement
    direction = state.direction.times(beta) + -towards
    # Restarted from the preconditioned gradient where the conjugate direction would ascend.
    descends = direction.dot(gradient) < 0
    direction = direction.times(descends * 1.0) + towards.times(descends - 1.0)
    objective = state.soft.loss + penalty / 2 * state.point.squared_norm()
    return state._replace(
        gradient=gradient,
        direction=direction,
        decrement=decrement,
        objective=objective,
        is_active=decrement > 2 * tol * objective,
        n_steps=state.n_steps + 1,
    )


def _line_search_step(
    problem: Problem, penalty: Array, state: _State, change: Float[Array, "K1 J N"]
) -> _State:
    """Moves active fits nearly to the minimum along their direction, whose logits are `change`."""
    length, soft = line_search.search(
        problem,
        penalty,
        state.point,
        state.direction,
        change,
        state.logits,
        state.soft,
        state.is_active,
    )
    moved = length != 0
    return state._replace(
        point=state.point + state.direction.times(length),
        logits=state.logits + change * length[:, None],
        soft=soft,
        n_iter=state.n_iter + moved,
        n_idle=jnp.where(moved.any(), 0, state.n_idle + 1),
    )


def _to_solution(problem: Problem, state: _State) -> Solution:
    """Adds the last class and the certificates."""
    point, gradient = state.point, state.gradient
    w = jnp.concatenate([point.w, -point.w.sum(0)[None]])
    b = jnp.concatenate([point.b, -point.b.sum(0)[None]])
    largest = jnp.maximum(jnp.abs(gradient.w).max((0, 2)), jnp.abs(gradient.w.sum(0)).max(-1))
    largest_b = jnp.maximum(jnp.abs(gradient.b).max(0), jnp.abs(gradient.b.sum(0)))
    return Solution(
        weights=w.swapaxes(0, 1),
        bias=b.T,
        objective=state.objective,
        gradient_norm=jnp.maximum(largest, largest_b) / problem.rows.sum(-1),
        gap=state.gap(),
        n_iter=state.n_iter,
    )
