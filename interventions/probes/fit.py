"""Fits linear probes of every layer, penalty, fold and seed, and returns them as a bank."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from threadpoolctl import threadpool_limits

from interventions.probes import inputs
from interventions.probes.bank import Bank
from interventions.probes.chunks import ChunkedFit
from interventions.probes.folds import FoldPairs, fold_masks
from interventions.probes.labelling import make_bank
from interventions.probes.targets import FitTargets
from jaxasr import meshes

_TOLERANCE = 1e-6  # relative distance of the objective to its optimum


def fit_probes(
    X: Any,
    y: Any,
    groups: Any = None,
    penalties: Sequence[float] = (1.0,),
    folds: int | FoldPairs = 5,
    seeds: Sequence[int] = (0,),
    *,
    target: str = "class",
    standardize: bool = True,
    max_iter: int = 500,
    tol: float = _TOLERANCE,
    chunk: int | None = None,
    names: Sequence[str] | None = None,
    progress: Callable[[float, float], None] | None = None,
    mesh: Mesh | None = None,
) -> Bank:
    """Fits one linear probe per layer, penalty, fold and seed (and per site).

    A probe predicts classes or numbers ("values"). Its objective is that of scikit-learn. The bias
    is not penalised.

    - Classes: multinomial logistic regression, summed cross-entropy + λ/2 ‖W‖².
    - Values: ridge regression, ½ ‖residual‖² + λ/2 ‖w‖².

    Args:
        X: activations [L, N, D], [S, L, N, D] with `names` of the sites, or {site: [L, N, D]}.
            Arrays on disk, such as zarr arrays, are read one layer at a time.
        y: targets [N], or [seeds, N] if each seed has different targets. They are classes (int or
            str), or numbers with target="value".
        groups: one group per row, such as the speaker, recording or word. A fold never has rows
            of the same group in both training and test rows.
        penalties: values of λ. scikit-learn calls λ `alpha` for values, and 1/λ `C` for classes.
        folds: number of folds, or pairs of training and test rows. Folds that are made from a
            number keep the proportions of classes, or of quantiles for values.
        seeds: seeds of the random assignment of rows to folds.
        target: "class" or "value".
        standardize: standardise features by mean and standard deviation of each fold's training
            rows.
        max_iter: largest number of solver steps.
        tol: largest `Bank.optimality_gap` of a converged fit. This is the relative distance of the
            objective to its optimum. Fits that float32 leaves above `tol` continue in float64. A
            warning counts fits that are still above `tol` after `max_iter` steps.
        chunk: number of layers that a device fits together. Default: one on a CPU, else as many as
            memory holds, but at most half of all layers, or an eighth on a mesh.
        names: names of the sites of a 4-dimensional X.
        progress: called as progress(layers done, layers in total).
        mesh: devices that share the layers of all sites, from `jaxasr.meshes.make_mesh`. Default:
            the mesh of `jax.set_mesh`, else one device. Results agree to the bit on any mesh.

    Returns:
        The fitted probes and their scores on test rows.

    Raises:
        ValueError: y has only one class, a class has fewer rows than there are folds, groups
            cannot be split into folds, a number is not finite, or a shape is wrong.

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
    site_activations = inputs.split_sites(X, names)
    checked_penalties = inputs.check_penalties(penalties)
    n = site_activations.shape[1]
    if target == "class":
        targets, classes = inputs.number_classes(y, n, len(seeds))
        strata = targets
    else:
        targets, classes = inputs.regression_targets(y, n, len(seeds)), np.array([])
        strata = inputs.quantile_strata(targets, folds)
    train, test = fold_masks(strata, groups, folds, seeds, classes)
    target_type = np.int32 if target == "class" else np.float32
    # Penalties are solved from strong to weak, because each starts at the previous optimum.
    order = np.argsort(-checked_penalties)
    chunked_fit = ChunkedFit(
        sites=site_activations,
        fit_targets=FitTargets.from_masks(targets.astype(target_type), train, test),
        penalties=checked_penalties[order],
        n_classes=max(len(classes), 1),
        standardize=standardize,
        tol=tol,
        max_iter=max_iter,
        chunk=chunk,
        mesh=meshes.resolve_mesh(mesh),
    )
    # BLAS gets one thread, because chunks of layers already occupy every core.
    with threadpool_limits(1):
        results, moments = chunked_fit.run(progress or (lambda done, total: None))
    # The inverse permutation restores the caller's order of penalties.
    results = jax.tree.map(lambda leaf: leaf[:, np.argsort(order)], results)
    seed_labels = np.asarray(seeds)
    bank = make_bank(
        results, moments, site_activations, targets, test, classes, checked_penalties, seed_labels
    )
    _warn_unconverged(bank.optimality_gap.values, tol, max_iter)
    return bank


def _warn_unconverged(optimality_gap: np.ndarray, tol: float, max_iter: int) -> None:
    is_above = ~(optimality_gap <= tol)  # true for NaN
    if is_above.any():
        warnings.warn(
            f"fit_probes: {is_above.sum()} of {optimality_gap.size} fits have not converged to "
            f"tol={tol:g}. Bank.optimality_gap has the distance of each fit to its optimum. "
            f"Pass more than max_iter={max_iter} steps, or a larger tol (at least about 1e-12, "
            "because weights are float32), or leave out the weakest penalties.",
            stacklevel=3,
        )
