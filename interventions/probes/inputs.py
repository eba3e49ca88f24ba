"""What goes into a bank: activations by site, targets as numbers, checked before anything is computed."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from interventions.stats.categories import categories


class Sites(NamedTuple):
    """Activations [L, N, D] of every site, read a layer at a time; what they are called, and whether `site` is a dimension."""

    arrays: list[Any]
    names: list[str]
    layers: np.ndarray
    labelled: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.arrays[0].shape)

    def items(self) -> list[tuple[int, int]]:
        """(site, layer) of everything to be fitted, in order."""
        return [(site, layer) for site in range(len(self.arrays)) for layer in range(self.shape[0])]

    def read(self, site: int, layer: int) -> np.ndarray:
        """float64 [N, D]. Raises ValueError for what is not finite."""
        x = np.asarray(self.arrays[site][layer])
        if x.dtype.kind in "OSUcmM":
            raise ValueError(
                f"X: expected real numbers, got {x.dtype} at site {self.names[site]!r}."
            )
        x = x.astype(np.float64)
        if not np.isfinite(x).all():
            rows = np.flatnonzero(~np.isfinite(x).all(1))
            where = f"site {self.names[site]!r}, " if self.labelled else ""
            raise ValueError(
                f"X: expected finite activations, got NaN or infinity in {where}layer {self.layers[layer]}, {len(rows)} rows, "
                f"the first {rows[0]}. Leave these rows out."
            )
        return x


def sites(X: Any, names: Sequence[str] | None) -> Sites:
    """`X` [L, N, D], [S, L, N, D] with `names`, or {site: [L, N, D]}. Raises ValueError for another rank and unequal shapes."""
    labelled = isinstance(X, Mapping) or np.ndim(X) == 4
    arrays = list(X.values()) if isinstance(X, Mapping) else list(X) if labelled else [X]
    names = (
        list(X)
        if isinstance(X, Mapping)
        else list(names or [f"site {i}" for i in range(len(arrays))])
    )
    shapes = [np.shape(a) for a in arrays]
    if not arrays or any(len(shape) != 3 for shape in shapes):
        raise ValueError(
            f"X: expected [layers, rows, features] ([sites, ...] or {{site: ...}} for several sites), got shapes {shapes}."
        )
    if len(set(shapes)) > 1:
        raise ValueError(
            f"X: expected the same shape for all sites of one bank, got {dict(zip(names, shapes))}; fit one bank for each."
        )
    if len(names) != len(arrays) or 0 in shapes[0]:
        raise ValueError(
            f"X, names: expected a name for each site and no empty axis, got {len(names)} names, shape {shapes[0]}."
        )
    if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ValueError(
            f"names: expected a different name for each site, got {repeated[0]!r} more than once."
        )
    layers = getattr(arrays[0], "coords", {}).get("layer")
    return Sites(
        arrays, names, np.arange(shapes[0][0]) if layers is None else np.asarray(layers), labelled
    )


def labels(y: Any, n: int, n_seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers int32 [seeds, N] and the classes, sorted. Raises ValueError for one class only and for a wrong length."""
    y = _targets(y, n, n_seeds)
    if y.dtype.kind == "f":
        if not np.isfinite(y).all() or (y != np.round(y)).any():
            raise ValueError(
                "y: expected classes, whole numbers or words, got fractions or NaN; for a quantity pass target='value'."
            )
        y = y.astype(int)
    classes, numbers = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"y: expected at least 2 classes, got only {classes.tolist()[0]!r} in {n} rows; nothing can be told apart."
        )
    return np.broadcast_to(numbers.reshape(y.shape).astype(np.int32), (n_seeds, n)), classes


def values(y: Any, n: int, n_seeds: int) -> np.ndarray:
    """Targets float64 [seeds, N]. Raises ValueError for what is not finite, a constant, and a wrong length."""
    y = _targets(y, n, n_seeds)
    if y.dtype.kind not in "fiub" or not np.isfinite(y.astype(np.float64)).all():
        raise ValueError(
            "y: expected finite numbers for target='value'; leave out rows without a value."
        )
    if np.ptp(y) == 0:
        raise ValueError(f"y: expected different values, got only {y.ravel()[0]}.")
    return np.broadcast_to(y.astype(np.float64), (n_seeds, n))


def _targets(y: Any, n: int, n_seeds: int) -> np.ndarray:
    return categories(y, n, "y", [(n,), (n_seeds, n)])


def strata(y: np.ndarray, folds: Any) -> np.ndarray:
    """Quantiles of values [seeds, N] as int, each with at least as many rows as there are folds."""
    n_bins = max(1, min(10, y.shape[1] // (2 * folds if isinstance(folds, int) else 10)))
    ranks = y.argsort(1).argsort(1)
    return ranks * n_bins // y.shape[1]


def penalties(values: Any) -> np.ndarray:
    """float64 [P]. Raises ValueError unless all are positive, finite and different."""
    values = np.atleast_1d(np.asarray(values, np.float64))
    if (
        values.ndim != 1
        or not values.size
        or not np.isfinite(values).all()
        or (values <= 0).any()
        or len(set(values)) < len(values)
    ):
        raise ValueError(
            f"penalties: expected different positive numbers (λ of λ/2 ‖W‖², scikit-learn's 1/C), got {values.tolist()}."
        )
    return values
