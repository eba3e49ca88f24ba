"""scikit-learn's LogisticRegression as one would use it for a bank: two processes, float32, warm starts from strong penalties to weak."""
from collections.abc import Sequence
from typing import Any

import numpy as np

JOBS = 2


def fit_all(X: np.ndarray, y: np.ndarray, test: np.ndarray, penalties: Sequence[float], tol: float) -> np.ndarray:
    """Weights and bias [L, P, F, S, K, D+1] of standardised features, K = 1 for two classes. test: [S, F, N].

    joblib gives each of its processes one thread; float32 is the faster of the two types here, the default solver lbfgs.
    """
    from joblib import Parallel, delayed

    cells = [(layer, fold, seed) for layer in range(len(X)) for fold in range(test.shape[1]) for seed in range(len(test))]
    jobs = (delayed(_path)(X[layer][~test[seed, fold]], y[~test[seed, fold]], penalties, tol) for layer, fold, seed in cells)
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


def judge(X: np.ndarray, y: np.ndarray, bank: Any, theirs: np.ndarray) -> dict[str, float]:
    """Over all fits, in float64: relative excess of the objective of each over the lower one; agreement on test rows."""
    excess, sk_excess, same, right = [], [], [], []
    for layer, penalty, fold, seed in np.ndindex(theirs.shape[:4]):
        one = bank.data.isel(layer=layer, penalty=penalty, fold=fold, seed=seed)
        test = one.test.values
        x = (X[layer].astype(np.float64) - X[layer][~test].mean(0, dtype=np.float64)) / X[layer][~test].std(0, dtype=np.float64)
        sk = theirs[layer, penalty, fold, seed].astype(np.float64)
        sk = np.concatenate([-sk / 2, sk / 2]) if len(sk) == 1 else sk
        weights = one.weights.values.astype(np.float64), one.bias.values.astype(np.float64)
        strength = float(bank.data.penalty[penalty]) * (2 if len(sk) == 2 else 1)
        ours, other = (objective(x[~test], y[~test], *w, strength) for w in (weights, (sk[:, :-1], sk[:, -1])))
        excess.append((ours - min(ours, other)) / other)
        sk_excess.append((other - min(ours, other)) / other)
        guesses = [(x[test] @ w.T + b).argmax(1) for w, b in (weights, (sk[:, :-1], sk[:, -1]))]
        same.append((guesses[0] == guesses[1]).mean())
        right.append([(guess == y[test]).mean() for guess in guesses])
    right = np.array(right).reshape(len(X), -1, 2).mean(1)
    return {
        "objective_excess_max": float(np.max(excess)),
        "sklearn_excess_max": float(np.max(sk_excess)),
        "predictions_equal": float(np.mean(same)),
        "accuracy_gap": float(np.abs(right[:, 0] - right[:, 1]).max()),
        "accuracy": float(right[:, 0].mean()),
    }


def objective(x: np.ndarray, y: np.ndarray, weights: np.ndarray, bias: np.ndarray, strength: float) -> float:
    """Cross-entropy summed over rows + λ/2 ‖W‖²."""
    logits = x @ weights.T + bias
    own = logits[np.arange(len(y)), y]
    return float(np.logaddexp.reduce(logits - own[:, None], axis=1).sum() + strength / 2 * (weights**2).sum())
