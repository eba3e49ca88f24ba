"""Checks the activations, targets and penalties of `fit_probes`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from interventions.stats.categories import categories


class SiteActivations(NamedTuple):
    """Holds the activations of every site, and reads them one layer at a time.

    Attributes:
        arrays: one array [L, N, D] per site, in memory or on disk.
        names: names of the sites.
        layers: labels [L] of the layers.
        has_site_dim: whether the bank has the dimension "site". It has none if X is [L, N, D].
    """

    arrays: list[Any]
    names: list[str]
    layers: np.ndarray
    has_site_dim: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape [L, N, D] of each site."""
        n_layers, n_rows, n_features = self.arrays[0].shape
        return n_layers, n_rows, n_features

    def site_layer_pairs(self) -> list[tuple[int, int]]:
        """Lists the indices (site, layer) of all layers, in the order in which they are fitted."""
        return [(site, layer) for site in range(len(self.arrays)) for layer in range(self.shape[0])]

    def read_raw(self, site: int, layer: int) -> Any:
        """Reads one layer [N, D] in its own type. Arrays of JAX remain on their device.

        Raises:
            ValueError: the layer has entries that are not real numbers.
        """
        x = self.arrays[site][layer]
        x = x if isinstance(x, jax.Array) else np.asarray(x)
        if x.dtype.kind in "OSUcmM":  # objects, bytes, text, complex numbers, and times
            raise ValueError(
                f"X: expected real numbers, got {x.dtype} at site {self.names[site]!r}."
            )
        return x

    def read(self, site: int, layer: int) -> np.ndarray:
        """Reads one layer as float64 [N, D].

        Raises:
            ValueError: the layer has entries that are not finite real numbers.
        """
        x = np.asarray(self.read_raw(site, layer))
        x = x.astype(np.float64)
        # The sum is not finite if an entry is not, and is faster than a mask.
        if not np.isfinite(x.sum()) and not np.isfinite(x).all():
            rows = np.flatnonzero(~np.isfinite(x).all(1))
            site_label = f"site {self.names[site]!r}, " if self.has_site_dim else ""
            raise ValueError(
                f"X: expected finite activations, got NaN or infinity in {site_label}layer "
                f"{self.layers[layer]}, in {len(rows)} rows (the first is {rows[0]}). "
                "Leave these rows out."
            )
        return x


def split_sites(X: Any, names: Sequence[str] | None) -> SiteActivations:
    """Splits activations by site.

    Args:
        X: activations [L, N, D], [S, L, N, D], or {site: [L, N, D]}.
        names: names of the sites of a 4-dimensional X.

    Raises:
        ValueError: X has none of these shapes, its sites have different shapes, or names are
            missing or repeated.
    """
    has_site_dim = isinstance(X, Mapping) or np.ndim(X) == 4
    if isinstance(X, Mapping):
        arrays, names = list(X.values()), list(X)
    else:
        arrays = list(X) if has_site_dim else [X]
        names = list(names or [f"site {i}" for i in range(len(arrays))])
    shapes = [np.shape(array) for array in arrays]
    if not arrays or any(len(shape) != 3 for shape in shapes):
        raise ValueError(
            "X: expected [layers, rows, features], or for several sites "
            "[sites, layers, rows, features] or {site: [layers, rows, features]}, "
            f"got shapes {shapes}."
        )
    if len(set(shapes)) > 1:
        raise ValueError(
            "X: expected the same shape for all sites of one bank, got "
            f"{dict(zip(names, shapes))}. Fit one bank per shape."
        )
    if len(names) != len(arrays) or 0 in shapes[0]:
        raise ValueError(
            "X, names: expected one name per site and no axis of size 0, "
            f"got {len(names)} names for {len(arrays)} sites of shape {shapes[0]}."
        )
    if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ValueError(
            f"names: expected a different name per site, got {repeated[0]!r} more than once."
        )
    # An xarray.DataArray has labels of its layers.
    layers = getattr(arrays[0], "coords", {}).get("layer")
    layers = np.arange(shapes[0][0]) if layers is None else np.asarray(layers)
    return SiteActivations(arrays, names, layers, has_site_dim)


def number_classes(y: Any, n: int, n_seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Replaces each label by the number of its class.

    Args:
        y: labels [N] or [seeds, N], strings or whole numbers.
        n: number of rows N.
        n_seeds: number of seeds.

    Returns:
        Class numbers int32 [seeds, N], and the sorted classes that they index.

    Raises:
        ValueError: y has only one class, has fractions or missing values, or has a wrong length.
    """
    y = _check_targets(y, n, n_seeds)
    if y.dtype.kind == "f":
        if not np.isfinite(y).all() or (y != np.round(y)).any():
            raise ValueError(
                "y: expected classes as whole numbers or text, got fractions or NaN. "
                "For a quantity pass target='value'."
            )
        y = y.astype(int)  # so that classes are named 0 and 1, not 0.0 and 1.0
    classes, numbers = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"y: expected at least 2 classes, got only {classes.tolist()[0]!r} in {n} rows."
        )
    return np.broadcast_to(numbers.reshape(y.shape).astype(np.int32), (n_seeds, n)), classes


def regression_targets(y: Any, n: int, n_seeds: int) -> np.ndarray:
    """Converts the targets of a regression to float64 [seeds, N].

    Raises:
        ValueError: y is constant, has entries that are not finite numbers, or has the wrong length.
    """
    y = _check_targets(y, n, n_seeds)
    if y.dtype.kind not in "fiub" or not np.isfinite(y.astype(np.float64)).all():
        raise ValueError(
            "y: expected finite numbers for target='value', got text, NaN or infinity. "
            "Leave out rows without a value."
        )
    if np.ptp(y) == 0:
        raise ValueError(f"y: expected different values, got only {y.ravel()[0]}.")
    return np.broadcast_to(y.astype(np.float64), (n_seeds, n))


def _check_targets(y: Any, n: int, n_seeds: int) -> np.ndarray:
    return categories(y, n, "y", [(n,), (n_seeds, n)])


def quantile_strata(y: np.ndarray, folds: Any) -> np.ndarray:
    """Assigns each of the values [seeds, N] to a quantile, so that folds can be stratified by it.

    There are at most ten quantiles. Each has at least twice as many rows as there are folds.
    """
    # Pairs of rows as folds are not stratified, so their number does not matter.
    n_bins = max(1, min(10, y.shape[1] // (2 * folds if isinstance(folds, int) else 10)))
    # The second argsort turns the order of the rows into the rank of each row.
    ranks = y.argsort(1).argsort(1)
    return ranks * n_bins // y.shape[1]


def check_penalties(values: Any) -> np.ndarray:
    """Converts penalties to float64 [P].

    Raises:
        ValueError: a penalty is not positive and finite, or it occurs twice.
    """
    values = np.atleast_1d(np.asarray(values, np.float64))
    is_vector = values.ndim == 1 and values.size > 0
    is_positive = np.isfinite(values).all() and (values > 0).all()
    if not is_vector or not is_positive or len(set(values)) < len(values):
        raise ValueError(
            "penalties: expected different positive numbers λ of λ/2 ‖W‖² (scikit-learn's 1/C), "
            f"got {values.tolist()}."
        )
    return values
