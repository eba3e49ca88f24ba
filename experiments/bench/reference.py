"""scikit-learn's LogisticRegression as one would use it for a bank: two processes, warm starts from strong penalties to weak."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

JOBS = 2


def fit_all(
    X: np.ndarray, y: np.ndarray, test: np.ndarray, penalties: Sequence[float], tol: float
) -> np.ndarray:
    """Weights and bias [L, P, F, S, K, D+1] of standardised features, K = 1 for two classes. test: [S, F, N].

    joblib gives each of its processes one thread. X's type is that of the fit: float32 is faster, float64 comes closer to the optimum.
    The solver is the default, lbfgs.
    """
    from joblib import Parallel, delayed

    cells = [
        (layer, fold, seed)
        for layer in range(len(X))
        for fold in range(test.shape[1])
        for seed in range(len(test))
    ]
    jobs = (
        delayed(_path)(X[layer][~test[seed, fold]], y[~test[seed, fold]], penalties, tol)
        for layer, fold, seed in cells
    )
    fits = np.stack([np.asarray(fit) for fit in Parallel(n_jobs=JOBS)(jobs)])
    return np.moveaxis(fits.reshape(len(X), test.shape[1], len(test), *fits.shape[1:]), 3, 1)


def _path(x: np.ndarray, y: np.ndarray, penalties: Sequence[float], tol: float) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x = np.asarray(StandardScaler().fit_transform(x))
    found: dict[float, np.ndarray] = {}
    model = LogisticRegression(tol=tol, max_iter=10_000, warm_start=True)
    for penalty in sorted(penalties, reverse=True):
        model.set_params(C=1 / penalty).fit(x, y)
        found[penalty] = np.concatenate([model.coef_, np.asarray(model.intercept_)[:, None]], 1)
    return np.stack([found[penalty] for penalty in penalties])


def judge(
    X: np.ndarray, y: np.ndarray, bank: Any, theirs: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Of ours and each of `theirs`, in float64: how far its fits (the worst, the median one) are above the lowest objective that anyone
    found, relative to it; the share of test rows of which it says what ours says; the largest difference of a layer's accuracy to ours.
    """
    excess, same, right = [], [], []
    for layer, penalty, fold, seed in np.ndindex(bank.objective.shape):
        one = bank.data.isel(layer=layer, penalty=penalty, fold=fold, seed=seed)
        test = one.test.values
        x = (X[layer].astype(np.float64) - X[layer][~test].mean(0, dtype=np.float64)) / X[layer][
            ~test
        ].std(0, dtype=np.float64)
        fits = [(one.weights.values.astype(np.float64), one.bias.values.astype(np.float64))]
        fits += [
            _all_classes(found[layer, penalty, fold, seed].astype(np.float64))
            for found in theirs.values()
        ]
        strength = float(bank.data.penalty[penalty]) * (2 if len(fits[0][0]) == 2 else 1)
        reached = np.array([objective(x[~test], y[~test], *fit, strength) for fit in fits])
        excess.append(reached / reached.min() - 1)
        guesses = np.array([(x[test] @ w.T + b).argmax(1) for w, b in fits])
        same.append((guesses == guesses[0]).mean(1))
        right.append((guesses == y[test]).mean(1))
    worst, typical, agree = np.max(excess, 0), np.median(excess, 0), np.mean(same, 0)
    accuracy = np.array(right).reshape(len(X), -1, 1 + len(theirs)).mean(1)
    gap = np.abs(accuracy - accuracy[:, :1]).max(0)
    rows = zip(worst, typical, agree, gap, accuracy.mean(0))
    names = "excess_max", "excess_median", "predictions_equal", "accuracy_gap", "accuracy"
    return {name: dict(zip(names, map(float, row))) for name, row in zip(("ours", *theirs), rows)}


def _all_classes(fit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights [K, D] and bias [K] of every class; scikit-learn has one row for two classes."""
    fit = np.concatenate([-fit / 2, fit / 2]) if len(fit) == 1 else fit
    return fit[:, :-1], fit[:, -1]


def objective(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, bias: np.ndarray, strength: float
) -> float:
    """Cross-entropy summed over rows + λ/2 ‖W‖²."""
    logits = x @ weights.T + bias
    own = logits[np.arange(len(y)), y]
    return float(
        np.logaddexp.reduce(logits - own[:, None], axis=1).sum() + strength / 2 * (weights**2).sum()
    )
