"""Finds the step lengths of logistic regression, one per fit, by a line search."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from interventions.probes.objective import (
    Point,
    Problem,
    Softmax,
    compute_softmax,
    select_label_logits,
    sum_classes,
)

_ACCEPTED_SLOPE_RATIO = 0.05  # largest accepted |slope after a step| / |slope before it|
_MAX_TRIALS = 13  # largest number of step lengths per line search


class _SearchState(NamedTuple):
    """The state of the line searches of all fits.

    Attributes:
        n_trials: number of step lengths.
        length: step length of each fit.
        low: largest step length known to be too short.
        high: smallest step length known to be too long.
        softmax: softmax after a step of `length`.
        slope: first derivative of the objective with respect to the step length.
        curvature: second derivative of the objective with respect to the step length.
    """

    n_trials: Int[Array, ""]
    length: Float[Array, "J"]
    low: Float[Array, "J"]
    high: Float[Array, "J"]
    softmax: Softmax
    slope: Float[Array, "J"]
    curvature: Float[Array, "J"]


def search(
    problem: Problem,
    penalty: Array,
    point: Point,
    direction: Point,
    logit_change: Float[Array, "K1 J N"],
    logits: Float[Array, "K1 J N"],
    softmax: Softmax,
    is_active: Bool[Array, "J"],
) -> tuple[Float[Array, "J"], Softmax]:
    """Finds the minimum along the direction, by Newton's method within a bracket.

    The objective is convex, so its slope is 0 at one step length at most.

    Args:
        problem: features, labels and training rows.
        penalty: λ of λ/2 ‖W‖².
        point: start of the line.
        direction: direction of the line.
        logit_change: logits of `direction`, which a step of length 1 adds to `logits`.
        logits: logits at `point`.
        softmax: softmax of `logits`.
        is_active: whether each fit may move. A fit stays if the objective does not descend along
            its direction.

    Returns:
        Step lengths, 0 for fits that stay, and the softmax after the step.
    """
    # The penalty excludes the bias. The parts of the slope and the curvature that come from the
    # penalty and the labels need no softmax, so they are computed once.
    weights = Point(point.w, 0 * point.b)
    label_logit_change = (select_label_logits(problem, logit_change) * problem.train_mask).sum(-1)
    fixed_slope = penalty * weights.dot(direction) - label_logit_change
    fixed_curvature = penalty * direction.squared_norm()
    last_logit_change = -sum_classes(logit_change)

    def differentiate(softmax: Softmax, length: Array) -> tuple[Array, Array]:
        # Derivatives of log Σ exp(logit): the mean and the variance of the change of the logits.
        mean = sum_classes(softmax.p * logit_change) + softmax.p_last * last_logit_change
        square = sum_classes(softmax.p * logit_change**2) + softmax.p_last * last_logit_change**2
        slope = (mean * problem.train_mask).sum(-1) + fixed_slope + length * fixed_curvature
        return slope, ((square - mean**2) * problem.train_mask).sum(-1) + fixed_curvature

    def evaluate(length: Array) -> tuple[Softmax, Array, Array]:
        softmax = compute_softmax(problem, logits + logit_change * length[:, None])
        return softmax, *differentiate(softmax, length)

    slope, curvature = differentiate(softmax, jnp.zeros_like(fixed_slope))
    moves = is_active & (slope < 0)
    accepted_slope = _ACCEPTED_SLOPE_RATIO * jnp.abs(slope)

    def is_unfinished(state: _SearchState) -> Bool[Array, ""]:
        is_steep = (jnp.abs(state.slope) > accepted_slope) & moves
        return is_steep.any() & (state.n_trials < _MAX_TRIALS)

    def improve(state: _SearchState) -> _SearchState:
        length, slope = state.length, state.slope
        is_steep = moves & (jnp.abs(slope) > accepted_slope)
        low = jnp.where(is_steep & (slope < 0), length, state.low)
        high = jnp.where(is_steep & (slope > 0), length, state.high)
        newton_length = length - slope / state.curvature
        # A Newton step outside of the bracket is replaced by bisection, or by doubling while the
        # bracket has no upper end.
        safe_length = jnp.where(jnp.isfinite(high), (low + high) / 2, 2 * length)
        is_inside = (newton_length > low) & (newton_length < high)
        length = jnp.where(is_steep, jnp.where(is_inside, newton_length, safe_length), length)
        return _SearchState(state.n_trials + 1, length, low, high, *evaluate(length))

    # The first trial is the Newton step from length 0. If no fit moves, there is no trial.
    length = jnp.zeros_like(slope)
    start = _SearchState(
        jnp.int32(0), length, length, jnp.full_like(length, jnp.inf), softmax, slope, curvature
    )
    result = jax.lax.while_loop(is_unfinished, improve, start)
    return result.length, result.softmax
