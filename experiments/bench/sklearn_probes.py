"""Fits probes with scikit-learn, and compares the fits with ours."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

N_PROCESSES = 2  # number of processes that fit in parallel


def fit_all(
    X: np.ndarray, y: np.ndarray, test: np.ndarray, penalties: Sequence[float], tol: float
) -> np.ndarray:
    """Fits a LogisticRegression for every layer, fold, seed and penalty.

    Each fit starts from the solution of the next stronger penalty. The solver is lbfgs, the
    default. Two processes fit in parallel, with one thread each.

    Args:
        X: activations [L, N, D]. The fits have the dtype of X. float32 is faster, and float64 comes
            closer to the optimum.
        y: class number of each row [N].
        test: True for the test rows of each seed and fold [S, F, N].
        penalties: P strengths of the penalty.
        tol: tolerance of the solver.

    Returns:
        Weights and bias [L, P, F, S, K, D+1] for standardised features. K is the number of classes,
        or 1 for two classes.
    """
    from sklearn.utils.parallel import Parallel, delayed

    cells = [
        (layer, fold, seed)
        for layer in range(len(X))
        for fold in range(test.shape[1])
        for seed in range(len(test))
    ]
    jobs = (
        delayed(_fit_path)(X[layer][~test[seed, fold]], y[~test[seed, fold]], penalties, tol)
        for layer, fold, seed in cells
    )
    fits = np.stack([np.asarray(fit) for fit in Parallel(n_jobs=N_PROCESSES)(jobs)])
    # From [L, F, S, P, …], the order of the cells, to [L, P, F, S, …].
    return np.moveaxis(fits.reshape(len(X), test.shape[1], len(test), *fits.shape[1:]), 3, 1)


def _fit_path(x: np.ndarray, y: np.ndarray, penalties: Sequence[float], tol: float) -> np.ndarray:
    """Fits one layer, fold and seed. Returns weights and bias [P, K, D+1] for all penalties."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x = np.asarray(StandardScaler().fit_transform(x))
    fits: dict[float, np.ndarray] = {}
    model = LogisticRegression(tol=tol, max_iter=10_000, warm_start=True)
    for penalty in sorted(penalties, reverse=True):
        model.set_params(C=1 / penalty).fit(x, y)
        fits[penalty] = np.concatenate([model.coef_, np.asarray(model.intercept_)[:, None]], 1)
    return np.stack([fits[penalty] for penalty in penalties])


def compare(
    X: np.ndarray, y: np.ndarray, bank: Any, theirs: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Compares our fits with those of scikit-learn. Computes objectives in float64.

    Args:
        X: activations [L, N, D].
        y: class number of each row [N].
        bank: our fits.
        theirs: fits by name, as `fit_all` returns them.

    Returns:
        For "ours" and each name in `theirs`:
            `excess_max`, `excess_median`: relative excess of the objective over the lowest
                objective of the same layer, penalty, fold and seed.
            `predictions_equal`: share of test rows with the same prediction as ours.
            `accuracy_gap`: largest difference between a layer's accuracy and ours.
            `accuracy`: mean accuracy on test rows.
    """
    excess, agreement, accuracies = [], [], []
    for layer, penalty, fold, seed in np.ndindex(bank.objective.shape):
        fitted = bank.data.isel(layer=layer, penalty=penalty, fold=fold, seed=seed)
        test = fitted.test.values
        x = _standardise(X[layer], ~test)
        fits = [(fitted.weights.values.astype(np.float64), fitted.bias.values.astype(np.float64))]
        fits += [
            _split_two_classes(weights[layer, penalty, fold, seed].astype(np.float64))
            for weights in theirs.values()
        ]
        # With two classes, scikit-learn fits one row w, which predicts the same as the two rows w/2
        # and -w/2. ‖w‖² is twice the squared norm of the two rows, so the penalty of the two rows
        # is twice as strong.
        strength = float(bank.data.penalty[penalty]) * (2 if len(fits[0][0]) == 2 else 1)
        objectives = np.array([objective(x[~test], y[~test], *fit, strength) for fit in fits])
        excess.append(objectives / objectives.min() - 1)
        predictions = np.array([(x[test] @ w.T + b).argmax(1) for w, b in fits])
        agreement.append((predictions == predictions[0]).mean(1))
        accuracies.append((predictions == y[test]).mean(1))
    by_layer = np.array(accuracies).reshape(len(X), -1, 1 + len(theirs)).mean(1)
    columns = {
        "excess_max": np.max(excess, 0),
        "excess_median": np.median(excess, 0),
        "predictions_equal": np.mean(agreement, 0),
        "accuracy_gap": np.abs(by_layer - by_layer[:, :1]).max(0),
        "accuracy": by_layer.mean(0),
    }
    return {
        name: {key: float(column[i]) for key, column in columns.items()}
        for i, name in enumerate(("ours", *theirs))
    }


def _standardise(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    mean, scale = x[train].mean(0, dtype=np.float64), x[train].std(0, dtype=np.float64)
    return (x.astype(np.float64) - mean) / scale


def _split_two_classes(fit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights [K, D] and bias [K], with two rows if scikit-learn fitted one row."""
    fit = np.concatenate([-fit / 2, fit / 2]) if len(fit) == 1 else fit
    return fit[:, :-1], fit[:, -1]


def objective(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, bias: np.ndarray, strength: float
) -> float:
    """Computes λ/2 ‖W‖² plus the sum over rows of the cross-entropy. λ is `strength`.

    Example:
        >>> x, y = np.ones((1, 2)), np.array([0])
        >>> round(objective(x, y, np.zeros((2, 2)), np.zeros(2), strength=1.0), 3)
        0.693
    """
    logits = x @ weights.T + bias
    target_logits = logits[np.arange(len(y)), y]
    cross_entropy = np.logaddexp.reduce(logits - target_logits[:, None], axis=1).sum()
    return float(cross_entropy + strength / 2 * (weights**2).sum())
