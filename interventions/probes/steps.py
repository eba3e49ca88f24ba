"""Takes the steps of preconditioned conjugate gradients for all fits of logistic regression.

Axes: K1 = K - 1 stored classes, J fits, N rows, D features; see `logistic`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from interventions.probes import line_search
from interventions.probes.objective import Point, Problem, Softmax, compute_gradient, compute_logits
from interventions.probes.preconditioner import Preconditioner, apply_inverse_hessian

_MAX_IDLE_STEPS = 2  # consecutive steps without a fit that moves, after which a stage ends


class State(NamedTuple):
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
        n_idle: number of steps since a fit moved; -1 before the first step of a stage.
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


class Stage(NamedTuple):
    """One of the two stages of each λ.

    Attributes:
        is_refinement: whether this is the second stage.
        target_gap: optimality gap at which the stage ends.
    """

    is_refinement: Bool[Array, ""]
    target_gap: Float[Array, ""]


def make_state(point: Point, logits: Float[Array, "K1 J N"], softmax: Softmax) -> State:
    """Makes the state of fits that start at `point`. All fits are active."""
    n_fits = logits.shape[1]
    zero = jax.tree.map(jnp.zeros_like, point)  # replaced by the first direction step
    return State(
        point=point,
        logits=logits,
        softmax=softmax,
        gradient=zero,
        direction=zero,
        decrement=jnp.ones(n_fits),
        objective=jnp.zeros(n_fits),
        n_iter=jnp.zeros(n_fits, jnp.int32),
        is_active=jnp.ones(n_fits, bool),
        n_steps=jnp.int32(0),
        n_idle=jnp.int32(0),
    )


def minimise(
    problem: Problem,
    preconditioner: Preconditioner,
    penalty: Array,
    stage: Stage,
    tol: Array,
    max_iter: Array,
    state: State,
    first_logit_change: Float[Array, "K1 J N"],
) -> State:
    """Takes steps until the optimality gap of every fit is at most the stage's target gap.

    A fit stops moving once its gap is at most `tol`. The loop also ends if no fit descends in
    float32, even along the preconditioned gradient. Then `finish` continues in float64.

    The first step of a rough stage goes along the direction of `state`, and changes the logits by
    `first_logit_change`. The first step of a refinement has length 0, and only computes a
    direction. One body of the loop for all these steps halves the time to compile.
    """
    # A refinement drops the direction, because it was computed with another preconditioner. An
    # infinite decrement makes the first direction independent of the one before it.
    state = state._replace(
        direction=jax.tree.map(
            lambda leaf: jnp.where(stage.is_refinement, 0, leaf), state.direction
        ),
        decrement=jnp.full_like(state.objective, jnp.inf),
        n_idle=jnp.int32(-1),
    )

    def is_unfinished(state: State) -> Bool[Array, ""]:
        # Not written as `optimality_gap > target_gap`, because NaN must count as above the target.
        is_above = ~(state.optimality_gap() <= stage.target_gap).all()
        can_continue = (state.n_steps <= max_iter) & (state.n_idle < _MAX_IDLE_STEPS)
        return (state.n_idle < 0) | (is_above & can_continue)

    def step(state: State) -> State:
        logit_change = jax.lax.cond(
            state.n_idle < 0,
            lambda: jnp.where(stage.is_refinement, 0, first_logit_change),
            lambda: compute_logits(problem, state.direction),
        )
        state = _line_search_step(problem, penalty, state, logit_change)
        return _direction_step(problem, preconditioner, penalty, tol, state)

    return jax.lax.while_loop(is_unfinished, step, state)


def _direction_step(
    problem: Problem, preconditioner: Preconditioner, penalty: Array, tol: Array, state: State
) -> State:
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
    problem: Problem, penalty: Array, state: State, logit_change: Float[Array, "K1 J N"]
) -> State:
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
