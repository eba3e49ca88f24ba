"""Finishes fits in float64 on the host, if float32 is too coarse to reach the optimum.

The rounding errors of float32 depend on the order in which a processor adds. An optimality gap may
therefore end above `tol` on one machine and below `tol` on another. Newton's method continues the
fits whose gap is above `tol`. Each step rounds the weights to float32, because a bank stores
float32. The gap is computed after rounding.

Axes: K classes, n training rows, D1 = D + 1 features with a last one for the bias.
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

# Relative residual at which conjugate gradients end. The gap is then accurate to about 1%.
_STEP_TOL = 1e-2
_ROUNDING = 1e-12  # relative increase of the objective that counts as rounding in float64
_STEP_LENGTHS = 0.5 ** np.arange(10)  # tried in order, until one does not raise the objective


class _Loss(NamedTuple):
    """A summed loss of outputs [n, K].

    Attributes:
        value: the loss.
        gradient: its gradient with respect to the outputs.
        mean_curvature: for each row, the mean of the nonzero eigenvalues of the Hessian with
            respect to its outputs.
        times_curvature: function that multiplies a change of the outputs by that Hessian.
    """

    value: float
    gradient: Float[np.ndarray, "n K"]
    mean_curvature: Float[np.ndarray, "n"]
    times_curvature: Callable[[np.ndarray], np.ndarray]


class _Point(NamedTuple):
    """Weights and bias of a fit, with the objective and the Newton step there.

    Attributes:
        parameters: weights, and the bias in the last column.
        value: the objective.
        gradient: the gradient of the objective.
        step: the full Newton step.
        optimality_gap: the estimated (objective - optimum) / objective.
    """

    parameters: Float[np.ndarray, "K D1"]
    value: float
    gradient: Float[np.ndarray, "K D1"]
    step: Float[np.ndarray, "K D1"]
    optimality_gap: float


class _Fit(NamedTuple):
    """The data of one fit.

    Attributes:
        x: its training rows, with a last column of ones for the bias.
        weight_penalties: the penalty of each weight, and 0 for the bias.
        loss: function that computes the loss of outputs.
        preconditioner: preconditioner of the conjugate gradients. It is the Cholesky factor of an
            approximate Hessian, which uses the mean curvature of each row for every class.
    """

    x: Float[np.ndarray, "n D1"]
    weight_penalties: Float[np.ndarray, "D1"]
    loss: Callable[[np.ndarray], _Loss]
    preconditioner: Any

    @classmethod
    def precondition_at(
        cls,
        x: np.ndarray,
        weight_penalties: np.ndarray,
        loss: Callable[[np.ndarray], _Loss],
        start: np.ndarray,
    ) -> "_Fit":
        """Makes a fit whose preconditioner is computed at the parameters `start`."""
        gram = (x * loss(x @ start.T).mean_curvature[:, None]).T @ x
        # A smaller diagonal could leave the matrix indefinite after rounding.
        smallest_diagonal = len(gram) * np.finfo(float).eps * gram.diagonal().max()
        preconditioner = scipy.linalg.cho_factor(
            gram + np.diag(np.maximum(weight_penalties, smallest_diagonal))
        )
        return cls(x, weight_penalties, loss, preconditioner)

    def objective(self, parameters: Float[np.ndarray, "K D1"]) -> float:
        """Computes the objective at `parameters`."""
        return (
            self.loss(self.x @ parameters.T).value
            + (self.weight_penalties * parameters**2).sum() / 2
        )

    def evaluate(self, parameters: Float[np.ndarray, "K D1"]) -> _Point:
        """Computes the objective, its gradient, the Newton step and the gap at `parameters`."""
        loss = self.loss(self.x @ parameters.T)
        value = loss.value + (self.weight_penalties * parameters**2).sum() / 2
        gradient = loss.gradient.T @ self.x + self.weight_penalties * parameters
        shape, size = parameters.shape, parameters.size

        def hessian_product(v: np.ndarray) -> np.ndarray:
            v = v.reshape(shape)
            return (
                loss.times_curvature(self.x @ v.T).T @ self.x + self.weight_penalties * v
            ).ravel()

        def precondition(v: np.ndarray) -> np.ndarray:
            return scipy.linalg.cho_solve(self.preconditioner, v.reshape(shape).T).T.ravel()

        def as_operator(product: Callable[[np.ndarray], np.ndarray]) -> LinearOperator:
            return LinearOperator((size, size), matvec=product, dtype=np.float64)  # pyright: ignore

        step, _ = cg(
            as_operator(hessian_product),
            -gradient.ravel(),
            rtol=_STEP_TOL,
            M=as_operator(precondition),
        )
        step = step.reshape(shape)
        # With the Newton step -H⁻¹g, the objective is about ½ gᵀH⁻¹g above its optimum.
        optimality_gap = -(gradient * step).sum() / 2 / max(value, np.finfo(float).tiny)
        return _Point(parameters, value, gradient, step, optimality_gap)


def finish_layer(
    results: FitResults,
    problem: Problem,
    test: np.ndarray,
    penalties: np.ndarray,
    tol: float,
    max_iter: int,
) -> None:
    """Continues the fits of one layer whose optimality gap is above `tol`, in place.

    Args:
        results: NumPy arrays [P, J, ...] of one layer, for P penalties and J fits.
        problem: data of the fits. Integer labels are classes, float labels are values.
        test: bool [J, N], the test rows of each fit.
        penalties: [P], values of λ.
        tol: the optimality gap at which a fit has converged.
        max_iter: largest number of steps of a fit, in float32 and float64 together.
    """
    is_class = problem.labels.dtype.kind == "i"
    for p, j in np.argwhere(~(results.solution.optimality_gap <= tol)):
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
    """Continues the fit with the indices (penalty, fit), and stores its result in `results`."""
    j = index[1]
    x = (np.asarray(problem.x, np.float64) - problem.shift[j]) / problem.scale[j]
    x, target = np.column_stack([x, np.ones(len(x))]), np.asarray(problem.labels[j])
    rows = np.asarray(problem.train_mask[j]) > 0
    weights, bias = results.solution.weights[index], results.solution.bias[index]
    start = np.column_stack([weights, bias]).astype(np.float64)
    if not np.isfinite(start).all():
        # The fit diverged in float32, so it starts again.
        start = np.zeros_like(start)
    # For two classes scikit-learn penalises a single vector w, with ‖w‖² = 2 ‖W‖².
    penalty_factor = 2 if is_class and len(start) == 2 else 1
    weight_penalties = np.append(np.full(x.shape[1] - 1, penalty_factor * penalty), 0.0)
    loss = _cross_entropy if is_class else _squared_error
    fit = _Fit.precondition_at(
        x[rows], weight_penalties, functools.partial(loss, target=target[rows]), start
    )
    n_before = int(results.solution.n_iter[index])
    point, n_steps = _minimise(fit, start, tol, max(0, max_iter - n_before))
    _store_solution(results, index, point, n_before + n_steps, int(rows.sum()))
    _store_scores(results, index, x @ point.parameters.T, target, test, is_class)


def _minimise(fit: _Fit, start: np.ndarray, tol: float, max_steps: int) -> tuple[_Point, int]:
    """Runs Newton's method, until the gap is at most `tol` or a step no longer halves it.

    Returns:
        The last point, and the number of steps.
    """
    point = fit.evaluate(start)
    for n_steps in range(max_steps):
        if point.optimality_gap <= tol:
            return point, n_steps
        after = _newton_step(fit, point)
        if after is None or not after.optimality_gap < point.optimality_gap:
            return point, n_steps
        # Compared with the gap before the step, then the step is taken.
        is_slow, point = after.optimality_gap > point.optimality_gap / 2, after
        if is_slow:
            return point, n_steps + 1
    return point, max_steps


def _newton_step(fit: _Fit, point: _Point) -> _Point | None:
    """Takes the longest step of length 1, ½, ¼ … that does not raise the objective.

    Returns:
        The point after the step; None if every step raises the objective.
    """
    for length in _STEP_LENGTHS:
        parameters = (point.parameters + length * point.step).astype(np.float32).astype(np.float64)
        if fit.objective(parameters) <= point.value * (1 + _ROUNDING):
            return fit.evaluate(parameters)
    return None


def _cross_entropy(outputs: np.ndarray, target: np.ndarray) -> _Loss:
    """Computes the cross-entropy of logits [n, K] for class numbers [n]."""
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
    """Computes half of the squared error of outputs [n, 1] for values [n]."""
    error = outputs - target[:, None]
    return _Loss((error**2).sum() / 2, error, np.ones(len(target)), lambda s: s)


def _store_solution(
    results: FitResults, index: tuple[int, int], point: _Point, n_iter: int, n_rows: int
) -> None:
    """Writes the solution of one fit into the arrays of `results`."""
    gradient_norm = np.abs(point.gradient).max() / n_rows
    weights, bias = point.parameters[:, :-1], point.parameters[:, -1]
    # In the order of the fields of `Solution`.
    values = weights, bias, point.value, gradient_norm, point.optimality_gap, n_iter
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
    """Writes the predictions and scores of one fit into the arrays of `results`."""
    y = target[test]
    if is_class:
        prediction = outputs.argmax(1)
        score = (prediction[test] == y).mean()
        loss = _cross_entropy(outputs[test], y).value / len(y)
    else:
        prediction = outputs[:, 0]
        loss = ((prediction[test] - y) ** 2).mean()
        # r² of equal targets is 0 / 0 or infinite, as in the compiled scores.
        with np.errstate(divide="ignore", invalid="ignore"):
            score = 1 - loss / y.var()
    for array, value in zip((results.score, results.log_loss), (score, loss)):
        np.asarray(array)[index] = value
    np.asarray(results.predictions)[index] = prediction
