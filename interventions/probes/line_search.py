"""The line search of logistic regression: a step length for every fit."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from interventions.probes.objective import (
    Point,
    Problem,
    Softmax,
    select_label,
    softmax,
    sum_classes,
)

_SLOPE = 0.05  # a step is accepted once the slope along it has fallen to this share
_MAX_TRIALS = 12  # of step lengths


class _Search(NamedTuple):
    """The state of a line search: step lengths, their bracket, and the slope at each length."""

    n_trials: Int[Array, ""]
    length: Float[Array, "J"]
    low: Float[Array, "J"]
    high: Float[Array, "J"]
    soft: Softmax
    slope: Float[Array, "J"]
    curvature: Float[Array, "J"]


def search(
    problem: Problem,
    penalty: Array,
    point: Point,
    direction: Point,
    change: Float[Array, "K1 J N"],
    logits: Float[Array, "K1 J N"],
    soft: Softmax,
    is_active: Bool[Array, "J"],
) -> tuple[Float[Array, "J"], Softmax]:
    """Finds a root of the slope by Newton's method within a bracket.

    The objective is convex along the line, so the slope has at most one root.

    Args:
        problem: features, labels and rows.
        penalty: λ.
        point: where the line starts.
        direction: of the line.
        change: the logits of `direction`.
        logits: of `point`.
        soft: of `logits`.
        is_active: the fits that move; only where the line descends.

    Returns:
        Step lengths, 0 for fits that stay, and the softmax after the step.
    """
    weights = Point(point.w, 0 * point.b)
    label_change = (select_label(problem, change) * problem.rows).sum(-1)
    fixed_slope = penalty * weights.dot(direction) - label_change
    fixed_curvature = penalty * direction.squared_norm()
    change_of_last = -sum_classes(change)

    def differentiate(soft: Softmax, length: Array) -> tuple[Array, Array]:
        mean = sum_classes(soft.p * change) + soft.last * change_of_last
        square = sum_classes(soft.p * change**2) + soft.last * change_of_last**2
        slope = (mean * problem.rows).sum(-1) + fixed_slope + length * fixed_curvature
        return slope, ((square - mean**2) * problem.rows).sum(-1) + fixed_curvature

    def evaluate(length: Array) -> tuple[Softmax, Array, Array]:
        soft = softmax(problem, logits + change * length[:, None])
        return soft, *differentiate(soft, length)

    slope, curvature = differentiate(soft, jnp.zeros_like(fixed_slope))
    moves = is_active & (slope < 0)
    accepted_slope = _SLOPE * jnp.abs(slope)

    def is_unfinished(search: _Search) -> Bool[Array, ""]:
        is_steep = (jnp.abs(search.slope) > accepted_slope) & moves
        return is_steep.any() & (search.n_trials < _MAX_TRIALS)

    def improve(search: _Search) -> _Search:
        length, slope = search.length, search.slope
        is_steep = moves & (jnp.abs(slope) > accepted_slope)
        low = jnp.where(is_steep & (slope < 0), length, search.low)
        high = jnp.where(is_steep & (slope > 0), length, search.high)
        newton = length - slope / search.curvature
        # Bisection, or doubling while there is no upper end, where Newton leaves the bracket.
        fallback = jnp.where(jnp.isfinite(high), (low + high) / 2, 2 * length)
        is_inside = (newton > low) & (newton < high)
        length = jnp.where(is_steep, jnp.where(is_inside, newton, fallback), length)
        return _Search(search.n_trials + 1, length, low, high, *evaluate(length))

    length = jnp.where(moves, -slope / curvature, 0)
    low, high = jnp.zeros_like(length), jnp.full_like(length, jnp.inf)
    start = _Search(jnp.int32(0), length, low, high, *evaluate(length))
    result = jax.lax.while_loop(is_unfinished, improve, start)
    return result.length, result.soft
