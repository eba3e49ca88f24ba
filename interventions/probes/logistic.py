"""Multinomial logistic regression for many fits that share their features: preconditioned conjugate gradients, all fits in step.

The objective of one fit is scikit-learn's: cross-entropy summed over its training rows + λ/2 ‖W‖², features standardised by its
own training rows, the bias free. Fits differ in rows (a mask), labels and λ, not in features, so every step is two large
products with the one matrix of a layer. Axes: K classes, J fits (fold × seed), N rows, D features.

With Σₖ Wₖ = 0, which holds at the optimum and is kept from the start, the last class is minus the sum of the others and is
never stored. Two classes are scikit-learn's single-vector form: there ‖w‖² = 2 ‖W‖², hence twice the λ.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from interventions.probes.objective import (
    Point,
    Problem,
    Softmax,
    gradient_of,
    logits_of,
    own_class,
    softmax,
    sum_classes,
)

_SLOPE = 0.05  # a step is accepted once the slope along it has fallen to this share
_ROUGH = 1e-3  # a gap at which the metric is taken anew
_TRIALS = 12  # of step lengths
_LEAF = 96  # features


class Solution(NamedTuple):
    """Per fit: the optimum (all K classes), its objective, the certificate, and the steps it took.

    gradient_norm: largest component of the gradient over the number of training rows: what scikit-learn compares with its `tol`.
    gap: estimated (objective - optimum) / objective, from the gradient in the norm of the approximate Hessian.
    """

    weights: Float[Array, "J K D"]
    bias: Float[Array, "J K"]
    objective: Float[Array, "J"]
    gradient_norm: Float[Array, "J"]
    gap: Float[Array, "J"]
    n_iter: Int[Array, "J"]


class _Spread(NamedTuple):
    """The curvature of the loss, approximately: of weighted rows, averaged over fits; the mean and weight of the rows of each fit."""

    gram: Float[Array, "D D"]
    mean: Float[Array, "J D"]
    total: Float[Array, "J"]


class _Metric(NamedTuple):
    """An approximate inverse Hessian: the inverse of the spread and a penalty, exact in the bias of each fit."""

    inverse: Float[Array, "D D"]
    spread: _Spread


class _State(NamedTuple):
    at: Point
    logits: Float[Array, "K1 J N"]
    soft: Softmax
    gradient: Point
    direction: Point
    decrement: Float[Array, "J"]
    loss: Float[Array, "J"]
    n_iter: Int[Array, "J"]
    going: Bool[Array, "J"]
    n: Int[Array, ""]
    idle: Int[Array, ""]  # steps since a fit last moved

    def gap(self) -> Float[Array, "J"]:
        return self.decrement / (2 * self.loss)


class _Before(NamedTuple):
    """What a stage starts from: where the last one ended, the optimum of the λ before and its logits, the curvature."""

    state: _State
    optimum: Point
    logits: Float[Array, "K1 J N"]
    spread: _Spread


def solve_path(
    problem: Problem, penalties: Float[Array, "P"], n_classes: int, tol: float, max_iter: int
) -> Solution:
    """Solutions [P, J, ...] for `penalties` in the order given; each λ starts from the last one's optimum, so strong ones go first.

    The first step goes on from the optimum before the last through the last one: along log λ the optima lie nearly on a line.
    The metric is taken anew when all fits of a λ are close to it, so that the estimate of the gap is that of a point near the optimum.
    The next λ starts with the same rows' spread.
    """

    def one(before: _Before, stage: tuple[Array, Array, Array]) -> tuple[_Before, Solution]:
        penalty, until, is_close = stage
        start = before.state
        keep = functools.partial(jax.tree.map, lambda last, now: jnp.where(is_close, last, now))
        state = jax.lax.cond(is_close, lambda: start, lambda: _ahead(problem, penalty, before))
        state = _descended(
            problem, _metric(before.spread, penalty), penalty, tol, until, max_iter, state
        )
        spread = jax.lax.cond(is_close, lambda: before.spread, lambda: _spread(problem, state.soft))
        after = _Before(
            state, keep(before.optimum, start.at), keep(before.logits, start.logits), spread
        )
        return after, _solution(problem, state)

    start = _at_rest(
        problem,
        Point(jnp.zeros((n_classes - 1, *problem.shift.shape)), _log_odds(problem, n_classes)),
    )
    strengths = jnp.repeat(penalties * (2 if n_classes == 2 else 1), 2)
    until = jnp.tile(jnp.stack([jnp.maximum(tol, _ROUGH), tol]), len(penalties))
    is_close = jnp.tile(jnp.array([False, True]), len(penalties))
    before = _Before(start, start.at, start.logits, _spread(problem, start.soft))
    found = jax.lax.scan(one, before, (strengths, until, is_close))[1]
    return jax.tree.map(lambda leaf: leaf[1::2], found)._replace(n_iter=found.n_iter[1::2])


def _at_rest(problem: Problem, start: Point) -> _State:
    logits, zero, fits = (
        logits_of(problem, start),
        jax.tree.map(jnp.zeros_like, start),
        len(problem.rows),
    )
    counts, going = jnp.zeros(fits, jnp.int32), jnp.ones(fits, bool)
    soft = softmax(problem, logits)
    return _State(
        start,
        logits,
        soft,
        zero,
        zero,
        jnp.ones(fits),
        jnp.zeros(fits),
        counts,
        going,
        jnp.int32(0),
        jnp.int32(0),
    )


def _ahead(problem: Problem, penalty: Array, before: _Before) -> _State:
    """From the last optimum on along the line from the one before; its logits anew, so that errors do not add up from λ to λ."""
    state = _at_rest(problem, before.state.at)._replace(direction=before.state.at - before.optimum)
    return _move(problem, penalty, state, state.logits - before.logits)


def _log_odds(problem: Problem, n_classes: int) -> Float[Array, "K1 J"]:
    """The optimum for W = 0."""
    counts = (jax.nn.one_hot(problem.labels, n_classes, axis=0) * problem.rows).sum(-1)
    logs = jnp.log(jnp.maximum(counts, 0.5))
    return (logs - logs.mean(0))[:-1]


def _descended(
    problem: Problem,
    metric: _Metric,
    penalty: Array,
    tol: float,
    until: Array,
    max_iter: int,
    state: _State,
) -> _State:
    """On from `state` until no gap is above `until`; a fit rests as soon as its own is below `tol`.

    Where float32 sees no way down, neither along the direction nor, one step later, straight down, there will never be one:
    `finish` goes on in float64.
    """
    # No direction to go on in: the last one was another metric's.
    nowhere = state.direction.times(jnp.zeros_like(state.loss))
    state = state._replace(
        direction=nowhere, decrement=jnp.ones_like(state.loss), idle=jnp.int32(0)
    )

    def more(state: _State) -> Array:
        return (
            ~(state.gap() <= until).all() & (state.n <= max_iter) & (state.idle < 2)
        )  # NaN is not the end

    def step(state: _State) -> _State:
        return _look(
            problem,
            metric,
            penalty,
            tol,
            _move(problem, penalty, state, logits_of(problem, state.direction)),
        )

    return jax.lax.while_loop(more, step, _look(problem, metric, penalty, tol, state))


def _spread(problem: Problem, soft: Softmax) -> _Spread:
    """The Hessian of the loss with each row's class-by-class block replaced by its mean eigenvalue, averaged over fits.

    Only the rows' spread is averaged. A fit's own mean may be far from the average one, in units of its own scale, when its test rows
    are far away; with the average one the bias would hide from it most of what there is to descend.
    """
    weight = (
        (sum_classes(soft.p * (1 - soft.p)) + soft.last * (1 - soft.last))
        / len(soft.p)
        * problem.rows
    )
    total, shared = weight.sum(-1), weight.mean(0)
    centred = (problem.x - shared @ problem.x / shared.sum()) * jnp.sqrt(shared)[:, None]
    return _Spread(centred.T @ centred, weight @ problem.x / total[:, None], total)


def _metric(spread: _Spread, penalty: Array) -> _Metric:
    return _Metric(_inverse(spread.gram + penalty * jnp.eye(len(spread.gram)))[1], spread)


def _inverse(a: Float[Array, "D D"]) -> tuple[Float[Array, "D D"], Float[Array, "D D"]]:
    """Of a = LLᵀ the inverses of L and of a, by halves: nearly all of it is products, which take half the time of LAPACK's solutions.

    By way of L, whose condition is the root of that of `a`: without it, rounding leaves halves that are not positive definite.
    """
    half = len(a) // 2
    if len(a) <= _LEAF:
        root = jax.scipy.linalg.solve_triangular(
            jnp.linalg.cholesky(a), jnp.eye(len(a)), lower=True
        )
        return root, root.T @ root
    root, inverse = _inverse(a[:half, :half])
    across = root @ a[:half, half:]
    second, its_inverse = _inverse(a[half:, half:] - across.T @ across)
    below = -second @ (across.T @ root)
    beside = below.T @ second
    roots = jnp.block([[root, jnp.zeros_like(beside)], [below, second]])
    return roots, jnp.block([[inverse + below.T @ below, beside], [beside.T, its_inverse]])


def _apply(metric: _Metric, problem: Problem, g: Point) -> Point:
    away = (metric.spread.mean - problem.shift) / problem.scale
    right = g.w - g.b[..., None] * away
    w = (right.reshape(-1, right.shape[-1]) @ metric.inverse).reshape(right.shape)
    return Point(w, g.b / metric.spread.total - (away * w).sum(-1))


def _look(problem: Problem, metric: _Metric, penalty: Array, tol: float, state: _State) -> _State:
    """Gradient, the next direction (Polak-Ribière, restarted when it would not go down), and who is done."""
    gradient = gradient_of(problem, state.soft, state.at, penalty)
    towards = _apply(metric, problem, gradient)
    decrement = gradient.dot(towards)
    beta = jnp.maximum(decrement - state.gradient.dot(towards), 0) / state.decrement
    direction = state.direction.times(beta) + jax.tree.map(jnp.negative, towards)
    downhill = direction.dot(gradient) < 0
    direction = direction.times(downhill * 1.0) + towards.times(downhill - 1.0)
    loss = state.soft.loss + penalty / 2 * _square(state.at)
    going = decrement > 2 * tol * loss
    return state._replace(
        gradient=gradient,
        direction=direction,
        decrement=decrement,
        loss=loss,
        going=going,
        n=state.n + 1,
    )


def _square(point: Point) -> Float[Array, "J"]:
    return (sum_classes(point.w**2) + sum_classes(point.w) ** 2).sum(-1)


def _move(problem: Problem, penalty: Array, state: _State, along: Float[Array, "K1 J N"]) -> _State:
    """Along the direction, whose logits are `along`, to (nearly) the lowest point of the line; a fit that is done stays where it is."""
    length, soft = _search(problem, penalty, state, along)
    return state._replace(
        at=state.at + state.direction.times(length),
        logits=state.logits + along * length[:, None],
        soft=soft,
        n_iter=state.n_iter + (length != 0),
        idle=jnp.where((length != 0).any(), 0, state.idle + 1),
    )


def _search(
    problem: Problem, penalty: Array, state: _State, along: Float[Array, "K1 J N"]
) -> tuple[Float[Array, "J"], Softmax]:
    """A root of the slope by Newton's method, kept within a bracket: the objective is convex along the line."""
    base = penalty * Point(state.at.w, 0 * state.at.b).dot(state.direction) - (
        own_class(problem, along) * problem.rows
    ).sum(-1)
    curve = penalty * _square(state.direction)
    last = -sum_classes(along)

    def slopes(soft: Softmax, length: Array) -> tuple[Array, Array]:
        mean = sum_classes(soft.p * along) + soft.last * last
        square = sum_classes(soft.p * along**2) + soft.last * last**2
        return (mean * problem.rows).sum(-1) + base + length * curve, (
            (square - mean**2) * problem.rows
        ).sum(-1) + curve

    def at(length: Array) -> tuple[Softmax, Array, Array]:
        soft = softmax(problem, state.logits + along * length[:, None])
        return soft, *slopes(soft, length)

    first, second = slopes(state.soft, jnp.zeros_like(base))
    moves = state.going & (first < 0)
    enough = _SLOPE * jnp.abs(first)

    def more(search: tuple) -> Array:
        n, *_, slope, _ = search
        return ((jnp.abs(slope) > enough) & moves).any() & (n < _TRIALS)

    def better(search: tuple) -> tuple:
        n, length, low, high, _, slope, second = search
        bad = moves & (jnp.abs(slope) > enough)
        low, high = (
            jnp.where(bad & (slope < 0), length, low),
            jnp.where(bad & (slope > 0), length, high),
        )
        newton = length - slope / second
        between = jnp.where(jnp.isfinite(high), (low + high) / 2, 2 * length)
        length = jnp.where(
            bad, jnp.where((newton > low) & (newton < high), newton, between), length
        )
        return n + 1, length, low, high, *at(length)

    length = jnp.where(moves, -first / second, 0)
    found = jax.lax.while_loop(
        more,
        better,
        (0, length, jnp.zeros_like(length), jnp.full_like(length, jnp.inf), *at(length)),
    )
    return found[1], found[4]


def _solution(problem: Problem, state: _State) -> Solution:
    w = jnp.concatenate([state.at.w, -state.at.w.sum(0)[None]])
    b = jnp.concatenate([state.at.b, -state.at.b.sum(0)[None]])
    g = state.gradient
    largest = jnp.maximum(jnp.abs(g.w).max((0, 2)), jnp.abs(g.w.sum(0)).max(-1))
    largest = jnp.maximum(largest, jnp.maximum(jnp.abs(g.b).max(0), jnp.abs(g.b.sum(0))))
    return Solution(
        w.swapaxes(0, 1), b.T, state.loss, largest / problem.rows.sum(-1), state.gap(), state.n_iter
    )
