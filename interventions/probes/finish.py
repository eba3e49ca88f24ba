"""Finishes fits in float64 on the host where the rounding of float32 hides the way to the optimum.

How far float32 gets depends on the order in which a processor adds: a fit may end a few times
`tol` above its optimum on one machine and below it on another. Newton's method continues such a
fit. A bank keeps weights in float32, so each step rounds them to float32, and the gap is that of
the rounded weights. Where every fit is within `tol`, nothing is computed.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.special
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, cg

from interventions.probes.objective import Problem

_ACCURACY = 1e-2  # of a Newton step's linear system; the gap that follows is right within a percent
_ROUNDING = 1e-12  # share of an objective within which two of them count as equal in float64
_LENGTHS = 0.5 ** np.arange(10)  # of a step, tried until one does not raise the objective


class _Loss(NamedTuple):
    """A summed loss of outputs [n, K].

    slope: its derivative. weight: the mean curvature of each row. curve: multiplies a change of
    the outputs by the curvature.
    """

    value: float
    slope: Float[np.ndarray, "n K"]
    weight: Float[np.ndarray, "n"]
    curve: Callable[[np.ndarray], np.ndarray]


class _Point(NamedTuple):
    """Weights and bias, with the objective, its gradient, the Newton step and the relative gap."""

    at: Float[np.ndarray, "K D1"]
    value: float
    gradient: Float[np.ndarray, "K D1"]
    step: Float[np.ndarray, "K D1"]
    gap: float


class _Fit(NamedTuple):
    """One fit.

    x: its training rows, with a last column of ones. ridge: the penalty of each weight.
    metric: a Cholesky factor of the Hessian at the start, in which each row's block of classes is
    replaced by its mean eigenvalue. It preconditions the conjugate gradients.
    """

    x: Float[np.ndarray, "n D1"]
    ridge: Float[np.ndarray, "D1"]
    loss: Callable[[np.ndarray], _Loss]
    metric: Any

    @classmethod
    def of(
        cls,
        x: np.ndarray,
        ridge: np.ndarray,
        loss: Callable[[np.ndarray], _Loss],
        start: np.ndarray,
    ) -> "_Fit":
        spread = (x * loss(x @ start.T).weight[:, None]).T @ x
        least = (
            len(spread) * np.finfo(float).eps * spread.diagonal().max()
        )  # below, rounding could make it indefinite
        return cls(
            x, ridge, loss, scipy.linalg.cho_factor(spread + np.diag(np.maximum(ridge, least)))
        )

    def value(self, at: Float[np.ndarray, "K D1"]) -> float:
        return self.loss(self.x @ at.T).value + (self.ridge * at**2).sum() / 2

    def point(self, at: Float[np.ndarray, "K D1"]) -> _Point:
        here = self.loss(self.x @ at.T)
        value = here.value + (self.ridge * at**2).sum() / 2
        gradient = here.slope.T @ self.x + self.ridge * at

        def hessian(v: np.ndarray) -> np.ndarray:
            v = v.reshape(at.shape)
            return (here.curve(self.x @ v.T).T @ self.x + self.ridge * v).ravel()

        def precondition(v: np.ndarray) -> np.ndarray:
            return scipy.linalg.cho_solve(self.metric, v.reshape(at.shape).T).T.ravel()

        def operator(product: Callable[[np.ndarray], np.ndarray]) -> LinearOperator:
            size = (at.size, at.size)
            return LinearOperator(size, matvec=product, dtype=np.float64)  # pyright: ignore

        step, _ = cg(operator(hessian), -gradient.ravel(), rtol=_ACCURACY, M=operator(precondition))
        step = step.reshape(at.shape)
        gap = -(gradient * step).sum() / 2 / max(value, np.finfo(float).tiny)
        return _Point(at, value, gradient, step, gap)


def finish(
    found: Any, problem: Problem, test: np.ndarray, penalties: np.ndarray, tol: float, max_iter: int
) -> None:
    """Continues the fits of one layer whose gap is above `tol`, up to `max_iter` steps in all.

    Args:
        found: `fit.Found` of one layer, arrays [P, J, ...]; changed in place.
        problem: what the fits share, as for `logistic` or, with labels of type float, for `ridge`.
        test: bool [J, N], the rows that score a fit. penalties: [P].
    """
    is_class = problem.labels.dtype.kind == "i"
    for p, j in np.argwhere(~(found.solution.gap <= tol)):
        x = (problem.x.astype(np.float64) - problem.shift[j]) / problem.scale[j]
        x, target = np.column_stack([x, np.ones(len(x))]), problem.labels[j]
        rows = problem.rows[j] > 0
        solved = type(found.solution)(*(leaf[p, j] for leaf in found.solution))
        start = np.column_stack([solved.weights, solved.bias]).astype(np.float64)
        start = start if np.isfinite(start).all() else np.zeros_like(start)
        doubled = 2 if is_class and len(start) == 2 else 1  # as in `logistic.solve_path`
        ridge = np.append(np.full(x.shape[1] - 1, doubled * penalties[p]), 0.0)
        loss = _cross_entropy if is_class else _squared_error
        fit = _Fit.of(x[rows], ridge, functools.partial(loss, target=target[rows]), start)
        point, n_steps = _descended(fit, start, tol, max(0, max_iter - int(solved.n_iter)))
        _write(found, (p, j), point, int(solved.n_iter) + n_steps, rows.sum())
        _score(found, (p, j), x @ point.at.T, target, test[j], loss)


def _descended(fit: _Fit, start: np.ndarray, tol: float, steps: int) -> tuple[_Point, int]:
    """Returns the last point of Newton's method and the number of steps.

    It ends at `tol`, or where a step no longer halves the gap.
    """
    point = fit.point(start)
    for n in range(steps):
        if point.gap <= tol or (after := _stepped(fit, point)) is None or not after.gap < point.gap:
            return point, n
        slow, point = after.gap > point.gap / 2, after
        if slow:
            return point, n + 1
    return point, steps


def _stepped(fit: _Fit, point: _Point) -> _Point | None:
    """Returns the point after the longest step of 1, ½, ¼ … that does not raise the objective.

    None if every one of them does.
    """
    for length in _LENGTHS:
        at = (point.at + length * point.step).astype(np.float32).astype(np.float64)
        if fit.value(at) <= point.value * (1 + _ROUNDING):
            return fit.point(at)
    return None


def _cross_entropy(outputs: np.ndarray, target: np.ndarray) -> _Loss:
    logs = scipy.special.log_softmax(outputs, 1)
    p, n_classes = np.exp(logs), outputs.shape[1]
    is_label = target[:, None] == np.arange(n_classes)
    weight = (p * (1 - p)).sum(1) / (n_classes - 1)
    return _Loss(
        -logs[is_label].sum(),
        p - is_label,
        weight,
        lambda s: p * (s - (p * s).sum(1, keepdims=True)),
    )


def _squared_error(outputs: np.ndarray, target: np.ndarray) -> _Loss:
    off = outputs - target[:, None]
    return _Loss((off**2).sum() / 2, off, np.ones(len(target)), lambda s: s)


def _write(found: Any, where: tuple[int, int], point: _Point, n_iter: int, n_rows: int) -> None:
    solution = found.solution
    largest = np.abs(point.gradient).max() / n_rows
    values = point.at[:, :-1], point.at[:, -1], point.value, largest, point.gap, n_iter
    for leaf, value in zip(solution, values):
        leaf[where] = value


def _score(
    found: Any,
    where: tuple[int, int],
    outputs: np.ndarray,
    target: np.ndarray,
    test: np.ndarray,
    loss: Callable,
) -> None:
    tested, y = outputs[test], target[test]
    if loss is _cross_entropy:
        guess = outputs.argmax(1)
        found.score[where], found.log_loss[where] = (
            (guess[test] == y).mean(),
            loss(tested, y).value / len(y),
        )
    else:
        guess = outputs[:, 0]
        error = ((guess[test] - y) ** 2).mean()
        with np.errstate(divide="ignore", invalid="ignore"):  # equal targets have no r²
            found.log_loss[where], found.score[where] = error, 1 - error / y.var()
    found.predictions[where] = guess
