"""Finishes fits in float64 on the host if float32 is too coarse to reach the optimum.

The accuracy of float32 depends on the order in which a processor adds, so a fit may end a few
times `tol` above its optimum on one machine and below it on another. Newton's method continues such
fits. Each step rounds the weights to float32, because a bank stores float32. The gap is computed
after rounding. If the gap of every fit is at most `tol`, nothing is computed.
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
from interventions.probes.solve import FitResults

_STEP_TOL = 1e-2  # relative residual of a Newton step; the gap is then accurate to about 1%
_ROUNDING = 1e-12  # relative increase of the objective that counts as rounding in float64
_STEP_LENGTHS = 0.5 ** np.arange(10)  # tried until one does not raise the objective


class _Loss(NamedTuple):
    """A summed loss of outputs [n, K].

    Attributes:
        value: the loss.
        gradient: its gradient with respect to the outputs.
        mean_curvature: of each row, the mean eigenvalue, zero excluded, of the Hessian with respect
            to its outputs.
        times_curvature: multiplies a change of the outputs by that Hessian.
    """

    value: float
    gradient: Float[np.ndarray, "n K"]
    mean_curvature: Float[np.ndarray, "n"]
    times_curvature: Callable[[np.ndarray], np.ndarray]


class _Point(NamedTuple):
    """Weights and bias of a fit, and what a Newton step needs.

    Attributes:
        parameters: weights, and the bias in the last column.
        value: the objective.
        gradient: the gradient of the objective.
        step: the full Newton step.
        gap: the estimated (objective - optimum) / objective.
    """

    parameters: Float[np.ndarray, "K D1"]
    value: float
    gradient: Float[np.ndarray, "K D1"]
    step: Float[np.ndarray, "K D1"]
    gap: float


class _Fit(NamedTuple):
    """One fit.

    Attributes:
        x: its training rows, with a last column of ones.
        ridge: the penalty of each weight.
        loss: the loss of outputs.
        factor: the preconditioner of the conjugate gradients: a Cholesky factor of an approximate
            Hessian, which has the mean curvature of each row for every class.
    """

    x: Float[np.ndarray, "n D1"]
    ridge: Float[np.ndarray, "D1"]
    loss: Callable[[np.ndarray], _Loss]
    factor: Any

    @classmethod
    def precondition_at(
        cls,
        x: np.ndarray,
        ridge: np.ndarray,
        loss: Callable[[np.ndarray], _Loss],
        start: np.ndarray,
    ) -> "_Fit":
        gram = (x * loss(x @ start.T).mean_curvature[:, None]).T @ x
        # A smaller diagonal could leave the matrix indefinite after rounding.
        smallest_diagonal = len(gram) * np.finfo(float).eps * gram.diagonal().max()
        factor = scipy.linalg.cho_factor(gram + np.diag(np.maximum(ridge, smallest_diagonal)))
        return cls(x, ridge, loss, factor)

    def objective(self, parameters: Float[np.ndarray, "K D1"]) -> float:
        return self.loss(self.x @ parameters.T).value + (self.ridge * parameters**2).sum() / 2

    def evaluate(self, parameters: Float[np.ndarray, "K D1"]) -> _Point:
        """Computes everything that a Newton step at `parameters` needs."""
        loss = self.loss(self.x @ parameters.T)
        value = loss.value + (self.ridge * parameters**2).sum() / 2
        gradient = loss.gradient.T @ self.x + self.ridge * parameters
        shape, size = parameters.shape, parameters.size

        def hessian_product(v: np.ndarray) -> np.ndarray:
            v = v.reshape(shape)
            return (loss.times_curvature(self.x @ v.T).T @ self.x + self.ridge * v).ravel()

        def precondition(v: np.ndarray) -> np.ndarray:
            return scipy.linalg.cho_solve(self.factor, v.reshape(shape).T).T.ravel()

        def as_operator(product: Callable[[np.ndarray], np.ndarray]) -> LinearOperator:
            return LinearOperator((size, size), matvec=product, dtype=np.float64)  # pyright: ignore

        step, _ = cg(
            as_operator(hessian_product),
            -gradient.ravel(),
            rtol=_STEP_TOL,
            M=as_operator(precondition),
        )
        step = step.reshape(shape)
        gap = -(gradient * step).sum() / 2 / max(value, np.finfo(float).tiny)
        return _Point(parameters, value, gradient, step, gap)


def finish_layer(
    results: FitResults,
    problem: Problem,
    test: np.ndarray,
    penalties: np.ndarray,
    tol: float,
    max_iter: int,
) -> None:
    """Continues the fits of one layer whose gap is above `tol`, in place.

    Args:
        results: NumPy arrays [P, J, ...] of one layer, for P penalties and J fits.
        problem: data of the fits. Integer labels are classes, float labels are values.
        test: bool [J, N], the rows that score a fit.
        penalties: [P].
        tol: the gap at which a fit has converged.
        max_iter: largest number of steps, those in float32 included.
    """
    is_class = problem.labels.dtype.kind == "i"
    for p, j in np.argwhere(~(results.solution.gap <= tol)):
        _finish_fit(results, (p, j), problem, test[j], float(penalties[p]), tol, max_iter, is_class)


def _finish_fit(
    results: FitResults,
    index: tuple[int, int],
    problem: Problem,
    test: np.ndarray,
    penalty: float,
    tol: float,
    max_iter: int,
    is_class: bool,
) -> None:
    j = index[1]
    x = (np.asarray(problem.x, np.float64) - problem.shift[j]) / problem.scale[j]
    x, target = np.column_stack([x, np.ones(len(x))]), np.asarray(problem.labels[j])
    rows = np.asarray(problem.rows[j]) > 0
    weights, bias = results.solution.weights[index], results.solution.bias[index]
    start = np.column_stack([weights, bias]).astype(np.float64)
    if not np.isfinite(start).all():
        start = np.zeros_like(start)
    # Two classes are scikit-learn's single weight vector w, with ‖w‖² = 2 ‖W‖².
    penalty_factor = 2 if is_class and len(start) == 2 else 1
    ridge = np.append(np.full(x.shape[1] - 1, penalty_factor * penalty), 0.0)
    loss = _cross_entropy if is_class else _squared_error
    fit = _Fit.precondition_at(x[rows], ridge, functools.partial(loss, target=target[rows]), start)
    n_before = int(results.solution.n_iter[index])
    point, n_steps = _minimise(fit, start, tol, max(0, max_iter - n_before))
    _store_solution(results, index, point, n_before + n_steps, int(rows.sum()))
    _store_scores(results, index, x @ point.parameters.T, target, test, is_class)


def _minimise(fit: _Fit, start: np.ndarray, tol: float, max_steps: int) -> tuple[_Point, int]:
    """Runs Newton's method and returns the last point and the number of steps.

    It ends at `tol`, or when a step no longer halves the gap.
    """
    point = fit.evaluate(start)
    for n_steps in range(max_steps):
        if point.gap <= tol:
            return point, n_steps
        after = _newton_step(fit, point)
        if after is None or not after.gap < point.gap:
            return point, n_steps
        is_slow, point = after.gap > point.gap / 2, after
        if is_slow:
            return point, n_steps + 1
    return point, max_steps


def _newton_step(fit: _Fit, point: _Point) -> _Point | None:
    """Takes the longest step of 1, ½, ¼ … that does not raise the objective.

    Returns None if all of them raise it.
    """
    for length in _STEP_LENGTHS:
        parameters = (point.parameters + length * point.step).astype(np.float32).astype(np.float64)
        if fit.objective(parameters) <= point.value * (1 + _ROUNDING):
            return fit.evaluate(parameters)
    return None


def _cross_entropy(outputs: np.ndarray, target: np.ndarray) -> _Loss:
    logs = scipy.special.log_softmax(outputs, 1)
    p, n_classes = np.exp(logs), outputs.shape[1]
    is_label = target[:, None] == np.arange(n_classes)
    return _Loss(
        value=-logs[is_label].sum(),
        gradient=p - is_label,
        mean_curvature=(p * (1 - p)).sum(1) / (n_classes - 1),
        times_curvature=lambda s: p * (s - (p * s).sum(1, keepdims=True)),
    )


def _squared_error(outputs: np.ndarray, target: np.ndarray) -> _Loss:
    error = outputs - target[:, None]
    return _Loss((error**2).sum() / 2, error, np.ones(len(target)), lambda s: s)


def _store_solution(
    results: FitResults, index: tuple[int, int], point: _Point, n_iter: int, n_rows: int
) -> None:
    gradient_norm = np.abs(point.gradient).max() / n_rows
    weights, bias = point.parameters[:, :-1], point.parameters[:, -1]
    values = weights, bias, point.value, gradient_norm, point.gap, n_iter
    for array, value in zip(results.solution, values):
        np.asarray(array)[index] = value


def _store_scores(
    results: FitResults,
    index: tuple[int, int],
    outputs: np.ndarray,
    target: np.ndarray,
    test: np.ndarray,
    is_class: bool,
) -> None:
    y = target[test]
    if is_class:
        prediction = outputs.argmax(1)
        score = (prediction[test] == y).mean()
        loss = _cross_entropy(outputs[test], y).value / len(y)
    else:
        prediction = outputs[:, 0]
        loss = ((prediction[test] - y) ** 2).mean()
        with np.errstate(divide="ignore", invalid="ignore"):  # r² of equal targets is undefined
            score = 1 - loss / y.var()
    for array, value in zip((results.score, results.log_loss), (score, loss)):
        np.asarray(array)[index] = value
    np.asarray(results.predictions)[index] = prediction
