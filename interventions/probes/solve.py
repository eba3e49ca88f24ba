"""Solves and scores all fits of a chunk of layers, in one compiled program."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from interventions.probes import logistic, ridge
from interventions.probes.objective import Problem, Solution
from interventions.probes.preconditioner import Inverter, invert_by_cholesky, invert_by_halves
from interventions.probes.standardise import (
    Moments,
    RawLayers,
    StandardisedLayers,
    standardise_on_device,
)
from interventions.probes.targets import FitTargets


class FitResults(NamedTuple):
    """Results of the fits of one layer, for P penalties, J fits and N rows.

    Results of several layers have a leading axis of layers.

    Attributes:
        solution: the optima of the fits, with leading axes [P, J].
        predictions: predicted class numbers or values of all rows, [P, J, N].
        score: accuracy or r² on test rows, [P, J].
        log_loss: mean cross-entropy in nats, or mean squared error, on test rows, [P, J].
    """

    solution: Solution
    predictions: Shaped[Array, "P J N"]
    score: Float[Array, "P J"]
    log_loss: Float[Array, "P J"]


def solve_layers(
    layers: StandardisedLayers,
    targets: FitTargets,
    penalties: Float[Array, "P"],
    tol: Float[Array, ""],
    max_iter: Array,
    *,
    n_classes: int,
) -> FitResults:
    """Solves and scores all fits of C layers, one layer after another.

    Each layer takes only the steps that it needs.

    Args:
        layers: features.
        targets: targets and rows of J fits.
        penalties: values of λ, in the order in which they are solved.
        tol: optimality gap at which a fit has converged.
        max_iter: largest number of steps per λ.
        n_classes: number of classes K; 1 for ridge regression.

    Returns:
        Results with leading axes [C, P, J].
    """

    def solve_layer(layer: StandardisedLayers) -> FitResults:
        problem = _make_problem(layer, targets, n_classes)
        test = jnp.asarray(targets.test)
        return _solve_layer(problem, test, penalties, tol, max_iter, n_classes, invert_by_halves)

    with jax.default_matmul_precision("highest"):
        return jax.lax.map(solve_layer, layers)


def standardise_and_solve_layers(
    layers: RawLayers,
    n_rows: Array,
    targets: FitTargets,
    penalties: Float[Array, "P"],
    tol: Float[Array, ""],
    max_iter: Array,
    *,
    n_classes: int,
    standardize: bool,
) -> tuple[FitResults, Moments]:
    """Standardises C layers, and solves and scores all their fits together.

    Args:
        layers: activations with padding.
        n_rows: number of rows without padding.
        targets: as in `solve_layers`.
        penalties: as in `solve_layers`.
        tol: as in `solve_layers`.
        max_iter: as in `solve_layers`.
        n_classes: as in `solve_layers`.
        standardize: whether features are scaled.

    Returns:
        Results with leading axes [C, P, J], and the moments of the features.
    """

    def solve_layer(layer: RawLayers) -> tuple[FitResults, Moments]:
        train_mask = jnp.asarray(targets.train, jnp.float32)
        features, moments = standardise_on_device(
            *layer, n_rows, train_mask, standardize=standardize
        )
        problem = _make_problem(features, targets, n_classes)
        test = jnp.asarray(targets.test)
        results = _solve_layer(
            problem, test, penalties, tol, max_iter, n_classes, invert_by_cholesky
        )
        return results, moments

    with jax.default_matmul_precision("highest"):
        return jax.vmap(solve_layer)(layers)


def _make_problem(layer: StandardisedLayers, targets: FitTargets, n_classes: int) -> Problem:
    labels = jnp.asarray(targets.targets, jnp.int32 if n_classes > 1 else jnp.float32)
    return Problem(*layer, labels, jnp.asarray(targets.train, jnp.float32))


def _solve_layer(
    problem: Problem,
    test: Bool[Array, "J N"],
    penalties: Float[Array, "P"],
    tol: Array,
    max_iter: Array,
    n_classes: int,
    invert: Inverter,
) -> FitResults:
    """Solves and scores all fits of one layer."""
    if n_classes == 1:
        return _score_values(problem, test, ridge.solve_path(problem, penalties))
    solution = logistic.solve_path(problem, penalties, n_classes, tol, max_iter, invert)
    return _score_classes(problem, test, penalties, solution)


def _compute_outputs(
    problem: Problem, weights: Float[Array, "J K D"], bias: Float[Array, "J K"]
) -> Float[Array, "K J N"]:
    """Computes the logits, or the predictions of ridge regression, for all rows."""
    # The weights are rescaled instead of the features, so that all fits multiply the same matrix.
    w = weights.swapaxes(0, 1) * (1 / problem.scale)
    products = (w.reshape(-1, w.shape[-1]) @ problem.x.T).reshape(*w.shape[:2], -1)
    return products + (bias.T - (w * problem.shift).sum(-1))[..., None]


def _score_classes(
    problem: Problem, test: Array, penalties: Float[Array, "P"], solution: Solution
) -> FitResults:
    """Scores fits of classes by accuracy and cross-entropy.

    Objectives are recomputed from the weights, because rounding errors add up in the solver.
    """
    penalty_factor = 2 if solution.weights.shape[2] == 2 else 1  # as in `logistic.solve_path`

    def score(fits: tuple[Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        penalty, weights, bias = fits
        logits = _compute_outputs(problem, weights, bias)
        loss = _cross_entropy(logits, problem.labels)
        penalty_term = penalty_factor * penalty / 2 * (weights**2).sum((1, 2))
        objective = (loss * problem.train_mask).sum(-1) + penalty_term
        prediction = logits.argmax(0)
        accuracy = _mean_over_test_rows(prediction == problem.labels, test)
        return objective, prediction, accuracy, _mean_over_test_rows(loss, test)

    # `map` instead of `vmap`, so that memory holds the logits of one penalty at a time.
    fits = penalties, solution.weights, solution.bias
    objective, predictions, accuracy, log_loss = jax.lax.map(score, fits)
    return FitResults(solution._replace(objective=objective), predictions, accuracy, log_loss)


def _cross_entropy(logits: Float[Array, "K J N"], labels: Array) -> Float[Array, "J N"]:
    """Computes -log p(label) of every row as log(1 + Σ exp(logit - label logit)).

    The sum excludes the label. Its term is the 1, next to which float32 would round small terms
    away.
    """
    # With -inf in place of the label's term, the sum excludes it.
    is_label = labels == jnp.arange(len(logits))[:, None, None]
    relative = logits - jnp.where(is_label, logits, 0).sum(0)
    log_sum_of_others = jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, relative), axis=0)
    return jnp.logaddexp(0.0, log_sum_of_others)


def _score_values(problem: Problem, test: Array, solution: Solution) -> FitResults:
    """Scores fits of values by r² and mean squared error."""

    def score(fits: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        prediction = _compute_outputs(problem, *fits)[0]
        squared_error = _mean_over_test_rows((prediction - problem.labels) ** 2, test)
        mean = _mean_over_test_rows(problem.labels, test)[:, None]
        variance = _mean_over_test_rows((problem.labels - mean) ** 2, test)
        return prediction, 1 - squared_error / variance, squared_error

    return FitResults(solution, *jax.lax.map(score, (solution.weights, solution.bias)))


def _mean_over_test_rows(values: Shaped[Array, "J N"], test: Array) -> Float[Array, "J"]:
    total = (values * test).sum(-1)
    # An accuracy of 1 must be exact, so this is a division. The zeros give the divisor all axes of
    # `total`; see `objective`.
    return total / (test.sum(-1) + 0 * total)
