"""`fit_probes`: linear probes of all layers, penalties, folds and seeds in one program."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from threadpoolctl import threadpool_limits

from interventions.probes import inputs
from interventions.probes.bank import Bank
from interventions.probes.chunks import ChunkedFit, FitRows
from interventions.probes.folds import Splits, masks
from interventions.probes.labelling import label_fits

_TOLERANCE = 1e-6


def fit_probes(
    X: Any,
    y: Any,
    groups: Any = None,
    penalties: Sequence[float] = (1.0,),
    folds: int | Splits = 5,
    seeds: Sequence[int] = (0,),
    *,
    target: str = "class",
    standardize: bool = True,
    max_iter: int = 500,
    tol: float = _TOLERANCE,
    chunk: int | None = None,
    names: Sequence[str] | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> Bank:
    """Fits linear probes of every layer × penalty × fold × seed (× site).

    For classes the probe is multinomial logistic regression with scikit-learn's objective, summed
    cross-entropy + λ/2 ‖W‖²; for values it is ridge regression, ½ ‖residual‖² + λ/2 ‖w‖². The bias
    is not penalised.

    Args:
        X: activations [L, N, D], [S, L, N, D] with `names` of the sites, or {site: [L, N, D]}.
            Anything that is indexed by layer and gives arrays will do, such as a zarr array: one
            layer at a time is read, as float32 on the device.
        y: targets [N], or [seeds, N] for other targets per seed: classes (int or str), or numbers
            with target="value".
        groups: one group per row, such as the speaker, recording or word. No group is both in
            training and test rows of a fold.
        penalties: λ; scikit-learn's 1/C for classes, and its alpha for values.
        folds: number of folds, stratified by class (by quantile, for values), or pairs of training
            and test rows.
        seeds: seeds of the shuffling of rows into folds.
        target: "class" or "value".
        standardize: standardise features by mean and standard deviation of each fold's training
            rows.
        max_iter: largest number of solver steps.
        tol: a fit has converged when its estimated (objective - optimum) / objective is below
            `tol`; see `Bank.gap` and `Bank.gradient_norm`. Fits that do not get there in float32
            are finished in float64. A warning counts those that `max_iter` leaves above `tol`.
        chunk: layers fitted together; default: as many as 1 GiB holds on a CPU.
        names: names of the sites of a 4-dimensional X.
        progress: called with the number of layers done and in all.

    Returns:
        A `Bank`.

    Raises:
        ValueError: y has one class only, a class has fewer rows than there are folds, groups cannot
            be split, a number is not finite, or a shape does not fit.

    Example:
        ```python
        import numpy as np

        import interventions

        rng = np.random.default_rng(0)
        speaker = np.repeat(np.arange(12), 10)
        gender = np.array(["F", "M"])[speaker % 2]
        X = rng.normal(size=(3, 120, 16)).astype(np.float32)  # 3 layers, 120 rows
        X[2, :, 0] += 5.0 * (gender == "F")
        bank = interventions.fit_probes(X, gender, groups=speaker, penalties=(0.1, 10.0), folds=4)
        bank.accuracy.mean(("fold", "seed"))  # (layer, penalty)
        ```

    References:
        Alain & Bengio, "Understanding intermediate layers using linear classifier probes"
        (arXiv:1610.01644). `docs/decisions/0012-probe-solver.md` describes the solver.
    """
    if target not in ("class", "value"):
        raise ValueError(f"target: expected 'class' or 'value', got {target!r}.")
    if not len(seeds):
        raise ValueError("seeds: expected at least one.")
    sites, strengths = inputs.sites(X, names), inputs.penalties(penalties)
    n = sites.shape[1]
    if target == "class":
        targets, classes = inputs.labels(y, n, len(seeds))
        strata = targets
    else:
        targets, classes = inputs.values(y, n, len(seeds)), np.array([])
        strata = inputs.strata(targets, folds)
    train, test = masks(strata, groups, folds, seeds, classes)
    # Each penalty starts from the optimum of the one before, so the strongest goes first.
    order = np.argsort(-strengths)
    chunked_fit = ChunkedFit(
        sites=sites,
        rows=FitRows.of(targets, train, test),
        penalties=strengths[order],
        n_classes=max(len(classes), 1),
        standardize=standardize,
        tol=tol,
        max_iter=max_iter,
        chunk=chunk,
    )
    # Factorisations are small and layers run side by side, so BLAS threads would only wait for
    # each other.
    with threadpool_limits(1):
        results, moments = chunked_fit.run(progress or (lambda done, total: None))
    results = jax.tree.map(lambda leaf: leaf[:, np.argsort(order)], results)
    seed_labels = np.asarray(seeds)
    bank = label_fits(results, moments, sites, targets, test, classes, strengths, seed_labels)
    _warn_unconverged(bank.gap.values, tol, max_iter)
    return bank


def _warn_unconverged(gap: np.ndarray, tol: float, max_iter: int) -> None:
    is_above = ~(gap <= tol)  # true for NaN
    if is_above.any():
        warnings.warn(
            f"fit_probes: {is_above.sum()} of {gap.size} fits have not come within tol={tol:g} of "
            "their optimum; Bank.gap has their distances. "
            f"Allow more than max_iter={max_iter} steps or a larger tol (weights in float32 hold "
            "no less than about 1e-12), or leave out the weakest penalties.",
            stacklevel=3,
        )
