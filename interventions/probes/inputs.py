"""Checks the inputs of a bank: activations by site, targets as numbers, penalties."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from interventions.stats.categories import categories


class Sites(NamedTuple):
    """Activations of every site, read one layer at a time.

    Attributes:
        arrays: one [L, N, D] per site.
        names: of the sites.
        layers: labels [L] of the layers.
        is_labelled: whether "site" is a dimension of the bank.
    """

    arrays: list[Any]
    names: list[str]
    layers: np.ndarray
    is_labelled: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        n_layers, n_rows, n_features = self.arrays[0].shape
        return n_layers, n_rows, n_features

    def items(self) -> list[tuple[int, int]]:
        """Lists (site, layer) of everything that is fitted, in order."""
        return [(site, layer) for site in range(len(self.arrays)) for layer in range(self.shape[0])]

    def read(self, site: int, layer: int) -> np.ndarray:
        """Reads one layer as float64 [N, D].

        Raises:
            ValueError: it is not of finite real numbers.
        """
        x = np.asarray(self.arrays[site][layer])
        if x.dtype.kind in "OSUcmM":
            raise ValueError(
                f"X: expected real numbers, got {x.dtype} at site {self.names[site]!r}."
            )
        x = x.astype(np.float64)
        if not np.isfinite(x).all():
            rows = np.flatnonzero(~np.isfinite(x).all(1))
            place = f"site {self.names[site]!r}, " if self.is_labelled else ""
            raise ValueError(
                f"X: expected finite activations, got NaN or infinity in {place}layer "
                f"{self.layers[layer]}, {len(rows)} rows, the first {rows[0]}. "
                "Leave these rows out."
            )
        return x


def sites(X: Any, names: Sequence[str] | None) -> Sites:
    """Splits X by site.

    Args:
        X: [L, N, D], [S, L, N, D], or {site: [L, N, D]}.
        names: names of the sites of a 4-dimensional X.

    Raises:
        ValueError: X has another rank or unequal shapes, or names are missing or repeated.
    """
    is_labelled = isinstance(X, Mapping) or np.ndim(X) == 4
    if isinstance(X, Mapping):
        arrays, names = list(X.values()), list(X)
    else:
        arrays = list(X) if is_labelled else [X]
        names = list(names or [f"site {i}" for i in range(len(arrays))])
    shapes = [np.shape(array) for array in arrays]
    if not arrays or any(len(shape) != 3 for shape in shapes):
        raise ValueError(
            "X: expected [layers, rows, features] ([sites, ...] or {site: ...} for several sites), "
            f"got shapes {shapes}."
        )
    if len(set(shapes)) > 1:
        raise ValueError(
            "X: expected the same shape for all sites of one bank, got "
            f"{dict(zip(names, shapes))}; fit one bank for each."
        )
    if len(names) != len(arrays) or 0 in shapes[0]:
        raise ValueError(
            "X, names: expected a name for each site and no empty axis, "
            f"got {len(names)} names, shape {shapes[0]}."
        )
    if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ValueError(
            f"names: expected a different name for each site, got {repeated[0]!r} more than once."
        )
    layers = getattr(arrays[0], "coords", {}).get("layer")  # labels of an xarray.DataArray
    layers = np.arange(shapes[0][0]) if layers is None else np.asarray(layers)
    return Sites(arrays, names, layers, is_labelled)


def labels(y: Any, n: int, n_seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers the classes of y.

    Args:
        y: [N] or [seeds, N], words or whole numbers.
        n: N.
        n_seeds: number of seeds.

    Returns:
        Class numbers int32 [seeds, N], and the classes, sorted.

    Raises:
        ValueError: there is one class only, y has fractions or missing values, or another length.
    """
    y = _targets(y, n, n_seeds)
    if y.dtype.kind == "f":
        if not np.isfinite(y).all() or (y != np.round(y)).any():
            raise ValueError(
                "y: expected classes, whole numbers or words, got fractions or NaN; "
                "for a quantity pass target='value'."
            )
        y = y.astype(int)
    classes, numbers = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"y: expected at least 2 classes, got only {classes.tolist()[0]!r} in {n} rows."
        )
    return np.broadcast_to(numbers.reshape(y.shape).astype(np.int32), (n_seeds, n)), classes


def values(y: Any, n: int, n_seeds: int) -> np.ndarray:
    """Returns the targets of a regression as float64 [seeds, N].

    Raises:
        ValueError: y is constant, is not of finite numbers, or has another length.
    """
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
    """Returns quantile numbers of values [seeds, N], at least as many rows in each as folds."""
    n_bins = max(1, min(10, y.shape[1] // (2 * folds if isinstance(folds, int) else 10)))
    ranks = y.argsort(1).argsort(1)
    return ranks * n_bins // y.shape[1]


def penalties(values: Any) -> np.ndarray:
    """Returns penalties as float64 [P].

    Raises:
        ValueError: a penalty is not positive and finite, or occurs twice.
    """
    values = np.atleast_1d(np.asarray(values, np.float64))
    is_vector = values.ndim == 1 and values.size > 0
    is_positive = np.isfinite(values).all() and (values > 0).all()
    if not is_vector or not is_positive or len(set(values)) < len(values):
        raise ValueError(
            "penalties: expected different positive numbers (λ of λ/2 ‖W‖², scikit-learn's 1/C), "
            f"got {values.tolist()}."
        )
    return values
