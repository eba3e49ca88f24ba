"""Holds the targets, training rows and test rows of all fits."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped

from interventions.probes.padding import pad_to


class FitTargets(NamedTuple):
    """Targets and masks of J = seeds × folds fits.

    Attributes:
        targets: class numbers or values, [J, N].
        train: mask of training rows, bool [J, N].
        test: mask of test rows, bool [J, N].
    """

    targets: Shaped[np.ndarray, "J N"]
    train: Bool[np.ndarray, "J N"]
    test: Bool[np.ndarray, "J N"]

    @classmethod
    def from_masks(cls, targets: np.ndarray, train: np.ndarray, test: np.ndarray) -> "FitTargets":
        """Flattens targets [seeds, N] and masks [seeds, folds, N] to one row per fit."""
        n_seeds, n_folds, n = train.shape
        targets = np.broadcast_to(targets[:, None], train.shape)
        return cls(*(array.reshape(n_seeds * n_folds, n) for array in (targets, train, test)))

    def select(self, fits: np.ndarray) -> "FitTargets":
        """Selects some of the fits."""
        return FitTargets(*(array[fits] for array in self))

    def pad(self, n_rows: int) -> "FitTargets":
        """Adds rows that are neither training rows nor test rows."""
        return FitTargets(*(pad_to(array, (len(array), n_rows)) for array in self))
