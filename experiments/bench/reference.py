"""Fits probes with scikit-learn's LogisticRegression, and compares fits by their objectives."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

JOBS = 2  # processes of scikit-learn


def fit_all(
    X: np.ndarray, y: np.ndarray, test: np.ndarray, penalties: Sequence[float], tol: float
) -> np.ndarray:
    """Fits every layer, fold and seed, with warm starts from strong penalties to weak ones.

    joblib gives each of its two processes one thread. The solver is the default, lbfgs.

    Args:
        X: activations [L, N, D]. The fits have their dtype: float32 is faster, float64 comes closer
            to the optimum.
        y: class numbers [N].
        test: which rows are tested [S, F, N].
        penalties: the P strengths of the penalty.
        tol: scikit-learn's tolerance.

    Returns:
        Weights and bias [L, P, F, S, K, D+1] of standardised features; K is 1 for two classes.
    """
    from joblib import Parallel, delayed

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
    fits = np.stack([np.asarray(fit) for fit in Parallel(n_jobs=JOBS)(jobs)])
    return np.moveaxis(fits.reshape(len(X), test.shape[1], len(test), *fits.shape[1:]), 3, 1)


def _fit_path(x: np.ndarray, y: np.ndarray, penalties: Sequence[float], tol: float) -> np.ndarray:
    """Weights and bias of every penalty, for one layer, fold and seed."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x = np.asarray(StandardScaler().fit_transform(x))
    fits: dict[float, np.ndarray] = {}
    model = LogisticRegression(tol=tol, max_iter=10_000, warm_start=True)
    for penalty in sorted(penalties, reverse=True):
        model.set_params(C=1 / penalty).fit(x, y)
        fits[penalty] = np.concatenate([model.coef_, np.asarray(model.intercept_)[:, None]], 1)
    return np.stack([fits[penalty] for penalty in penalties])


def judge(
    X: np.ndarray, y: np.ndarray, bank: Any, theirs: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Compares the fits of a bank with those of `theirs`, in float64.

    Args:
        X: activations [L, N, D].
        y: class numbers [N].
        bank: our `Bank`.
        theirs: by name, weights and bias as `fit_all` returns them.

    Returns:
        For "ours" and each name: `excess_max` and `excess_median`, how far objectives are above the
        lowest one of the same fit, relative to it; `predictions_equal`, the share of test rows with
        our prediction; `accuracy_gap`, the largest difference of a layer's accuracy to ours;
        `accuracy`, the mean.
    """
    excess, agreement, accuracies = [], [], []
    for layer, penalty, fold, seed in np.ndindex(bank.objective.shape):
        fitted = bank.data.isel(layer=layer, penalty=penalty, fold=fold, seed=seed)
        test = fitted.test.values
        x = _standardised(X[layer], ~test)
        fits = [(fitted.weights.values.astype(np.float64), fitted.bias.values.astype(np.float64))]
        fits += [
            _all_classes(weights[layer, penalty, fold, seed].astype(np.float64))
            for weights in theirs.values()
        ]
        # scikit-learn has one row of weights for two classes, so its penalty counts half.
        strength = float(bank.data.penalty[penalty]) * (2 if len(fits[0][0]) == 2 else 1)
        objectives = np.array([objective(x[~test], y[~test], *fit, strength) for fit in fits])
        excess.append(objectives / objectives.min() - 1)
        guesses = np.array([(x[test] @ w.T + b).argmax(1) for w, b in fits])
        agreement.append((guesses == guesses[0]).mean(1))
        accuracies.append((guesses == y[test]).mean(1))
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


def _standardised(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    mean, scale = x[train].mean(0, dtype=np.float64), x[train].std(0, dtype=np.float64)
    return (x.astype(np.float64) - mean) / scale


def _all_classes(fit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights [K, D] and bias [K] of every class; scikit-learn has one row for two classes."""
    fit = np.concatenate([-fit / 2, fit / 2]) if len(fit) == 1 else fit
    return fit[:, :-1], fit[:, -1]


def objective(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, bias: np.ndarray, strength: float
) -> float:
    """Returns the cross-entropy summed over rows + λ/2 ‖W‖²."""
    logits = x @ weights.T + bias
    of_target = logits[np.arange(len(y)), y]
    cross_entropy = np.logaddexp.reduce(logits - of_target[:, None], axis=1).sum()
    return float(cross_entropy + strength / 2 * (weights**2).sum())
