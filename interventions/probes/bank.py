"""Defines the bank, which predicts with fitted probes, summarises, saves and loads them."""

import dataclasses
import os
from typing import Any, cast

import numpy as np
import xarray as xr

from interventions.probes import bank_files
from interventions.probes.directions import Directions
from interventions.probes.score_intervals import score_intervals
from interventions.stats.categories import categories

# Order of the dimensions of arrays that a bank returns.
_DIM_ORDER = ("site", "layer", "penalty", "fold", "seed", "row", "class")


@dataclasses.dataclass(frozen=True, repr=False)
class Bank(Directions):
    """Holds the probes that `fit_probes` has fitted.

    `BankFields` lists the arrays of a bank, such as `accuracy` and `weights`. `Directions` has the
    methods that make steering vectors and edits. In docstrings, "..." stands for the dimensions
    [site,] layer, penalty, fold, seed.

    Attributes:
        data: all arrays, as one `xarray.Dataset`.
        target: "class" if the probes predict classes, "value" if they predict numbers.

    Example:
        ```python
        import tempfile

        import numpy as np

        import interventions

        rng = np.random.default_rng(0)
        y = np.repeat(["vowel", "consonant"], 30)
        X = rng.normal(size=(2, 60, 8)).astype(np.float32)
        X[1, :, 0] += 4 * (y == "vowel")
        bank = interventions.fit_probes(X, y, folds=3)
        bank.accuracy.mean(("fold", "seed"))  # (layer, penalty)
        bank.summary()  # mean, low and high (layer, penalty)
        bank.predict(X).sel(layer=1, fold=0)  # classes of every row
        bank.out_of_fold_proba(X).sel({"class": "vowel"})
        edits = {"encoder.resid_post": bank.as_add(1, "vowel", "consonant", strength=3.0)}
        with tempfile.TemporaryDirectory() as folder:
            bank.sel(layer=1).save(f"{folder}/bank", corpus="demo")
            best = interventions.Bank.load(f"{folder}/bank")
        assert best.predict_proba(X[1:]).sizes["class"] == 2
        ```
    """

    def __repr__(self) -> str:
        sizes = ", ".join(f"{dim} {size}" for dim, size in self.data.sizes.items())
        if "optimality_gap" not in self.data:  # a bank of `stream.fit_stream` has none
            return f"Bank({self.target}: {sizes})"
        largest_gap = float(self.optimality_gap.max(skipna=False))
        return f"Bank({self.target}: {sizes}; largest optimality gap {largest_gap:.1e})"

    def sel(self, **labels: Any) -> "Bank":
        """Selects probes by label, as `xarray.Dataset.sel` does, but keeps every dimension.

        Args:
            labels: a label or a list of labels per dimension, such as `layer=3` or
                `penalty=[0.1, 1.0]`.

        Returns:
            A bank of the selected probes.

        Raises:
            KeyError: a label is not in the bank.

        Example:
            >>> X, y = np.eye(8)[None], np.arange(8) % 2
            >>> bank = interventions.fit_probes(X, y, folds=2)
            >>> bank.sel(fold=0).accuracy.dims
            ('layer', 'penalty', 'fold', 'seed')
        """
        lists = {dim: np.atleast_1d(label) for dim, label in labels.items()}
        return dataclasses.replace(self, data=self.data.sel(lists))

    def decision(self, X: Any) -> xr.DataArray:
        """Computes the logits, or the predicted value, of every row with every probe.

        A predicted value lies along the dimension "class", which then has size 1.

        Args:
            X: activations [L, N, D], or {site: [L, N, D]}, with the layers and sites of the bank.

        Returns:
            A DataArray (..., row, class).

        Raises:
            ValueError: X does not have the shape that the bank expects.

        Example:
            >>> X, y = np.eye(8)[None], np.arange(8) % 2
            >>> bank = interventions.fit_probes(X, y, folds=2)
            >>> bank.decision(X).dims
            ('layer', 'row', 'penalty', 'fold', 'seed', 'class')
        """
        x = self._label_activations(X)
        # The standardisation (x - mean) / scale moves into the weights and the bias.
        weights = self.weights / self.scale
        bias = self.bias - xr.dot(weights, self.mean, dim="feature")
        return xr.dot(x, weights, dim="feature") + bias

    def predict_proba(self, X: Any) -> xr.DataArray:
        """Computes the class probabilities of every probe.

        Args:
            X: activations, as in `decision`.

        Returns:
            A DataArray (..., row, class).

        Raises:
            ValueError: the bank predicts values, or X has the wrong shape.

        Example:
            >>> X, y = np.eye(8)[None], np.arange(8) % 2
            >>> bank = interventions.fit_probes(X, y, folds=2)
            >>> bool(np.allclose(bank.predict_proba(X).sum("class"), 1))
            True
        """
        if self.target != "class":
            raise ValueError(
                "predict_proba: expected a bank of classes, got a bank of values. Use predict."
            )
        logits = self.decision(X)
        exponentials = cast(xr.DataArray, np.exp(logits - logits.max("class")))
        return _order_dims(exponentials / exponentials.sum("class"))

    def predict(self, X: Any) -> xr.DataArray:
        """Predicts the class, or the value, of every row with every probe.

        Args:
            X: activations, as in `decision`.

        Returns:
            A DataArray (..., row) of classes or values.

        Raises:
            ValueError: X does not have the shape that the bank expects.

        Example:
            >>> X, y = np.eye(8)[None], np.arange(8) % 2
            >>> bank = interventions.fit_probes(X, y, folds=2)
            >>> bank.predict(X).dims
            ('layer', 'penalty', 'fold', 'seed', 'row')
        """
        decision = _order_dims(self.decision(X))
        if self.target == "value":
            return decision.isel({"class": 0}, drop=True)
        class_numbers = decision.argmax("class")
        return class_numbers.copy(data=self.classes[class_numbers.values])

    def out_of_fold_proba(self, X: Any) -> xr.DataArray:
        """Computes the class probabilities of each row with probes that did not train on it.

        Args:
            X: the activations that the bank was fitted on.

        Returns:
            A DataArray ([site,] layer, penalty, seed, row, class). A row that is a test row of
            several folds has the mean of these folds. A row that is a test row of no fold is NaN.

        Raises:
            ValueError: the bank predicts values, or X has the wrong shape.

        Example:
            >>> X, y = np.eye(8)[None], np.arange(8) % 2
            >>> bank = interventions.fit_probes(X, y, folds=2)
            >>> bank.out_of_fold_proba(X).dims
            ('layer', 'penalty', 'seed', 'row', 'class')
        """
        test = self.test
        # Each of the n folds that test a row has weight 1/n for it. `clip` avoids 0 / 0.
        fold_weight = test / test.sum("fold").clip(min=1)
        total: Any = 0
        # One fold at a time, to save memory.
        for fold in self.data.fold.values:
            probabilities = self.sel(fold=fold).predict_proba(X).isel(fold=0, drop=True)
            total = total + probabilities * fold_weight.sel(fold=fold, drop=True)
        return _order_dims(total).where(test.any("fold"))

    def summary(
        self, groups: Any = None, level: float = 0.95, *, variance: str = "dependent"
    ) -> xr.Dataset:
        """Computes the mean out-of-fold accuracy, with a bootstrap interval.

        The bootstrap resamples rows, or whole groups if `groups` is given.

        Args:
            groups: one group per row, such as the speaker, if rows of a group are not independent.
            level: coverage of the interval.
            variance: "dependent" widens the interval by √2, because folds share training rows.
                "independent" treats predictions of different folds as independent. This interval
                is too narrow if the labels are hardly predictable. See `inflate_variance`.

        Returns:
            A Dataset of `mean`, `low` and `high`, each ([site,] layer, penalty) and averaged over
            seeds. If all groups of a bank of classes have the same accuracy, the interval is that
            of `interventions.stats.cluster_mean`. A bank of values has the negative squared error
            instead of the accuracy.

        Raises:
            ValueError: `groups` has missing entries, or not one entry per row, or `variance` is
                unknown.

        Example:
            >>> X, y = np.eye(8)[None], np.arange(8) % 2
            >>> bank = interventions.fit_probes(X, y, folds=2)
            >>> list(bank.summary())
            ['mean', 'low', 'high']
        """
        is_correct, error = self.out_of_fold == self.y, self.out_of_fold - self.y
        score = is_correct * 1.0 if self.target == "class" else -(error**2)
        is_tested = self.test.any(("fold", "seed")).values
        score = score.mean("seed").isel(row=np.flatnonzero(is_tested))
        if groups is not None:
            groups = categories(groups, self.data.sizes["row"], "groups")[is_tested]
        bounds = (0.0, 1.0) if self.target == "class" else (-np.inf, 0.0)
        return score_intervals(score, groups, bounds, level, variance)

    def save(self, folder: str | os.PathLike, **about: Any) -> None:
        """Writes the bank to a new folder, completely or not at all.

        Args:
            folder: a path that does not exist yet. Its files are NumPy arrays, JSON and checksums.
            about: JSON values to store with the bank, such as `corpus="demo"`.

        Raises:
            FileExistsError: `folder` exists.

        Example:
            >>> X, y = np.eye(8)[None], np.arange(8) % 2
            >>> interventions.fit_probes(X, y, folds=2).save("named", corpus="demo")
            >>> interventions.Bank.load("named").data.attrs
            {'corpus': 'demo'}
        """
        bank_files.save(self.data, self.target, folder, about)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Bank":
        """Reads a bank that `save` wrote. Nothing is unpickled.

        Args:
            folder: the folder.

        Returns:
            The bank. Its `data.attrs` are the values that `save` stored as `about`.

        Raises:
            ValueError: `folder` is damaged, is not a bank, or has another version of the file
                format. The message names the file.

        Example:
            >>> X, y = np.eye(8)[None], np.arange(8) % 2
            >>> interventions.fit_probes(X, y, folds=2).save("bank")
            >>> bank = interventions.Bank.load("bank")
        """
        return cls(*bank_files.load(folder))

    def _label_activations(self, X: Any) -> xr.DataArray:
        """Makes a DataArray ([site,] layer, row, feature) of X, with the labels of the bank."""
        if hasattr(X, "keys") and "site" in self.data.dims:
            X = np.stack([np.asarray(X[name]) for name in self.data.site.values])
        sizes = self.data.sizes
        dims = [dim for dim in ("site", "layer") if dim in sizes]
        x, expected = np.asarray(X, np.float32), tuple(sizes[dim] for dim in dims)
        has_all_layers = x.ndim == len(dims) + 2 and x.shape[:-2] == expected
        if not has_all_layers or x.shape[-1] != sizes["feature"]:
            shape = [*expected, "N", sizes["feature"]]
            raise ValueError(
                f"X: expected [{', '.join(dims)}, row, feature] = {shape}, got {list(x.shape)}."
            )
        return xr.DataArray(x, {dim: self.data[dim] for dim in dims}, (*dims, "row", "feature"))


def _order_dims(array: xr.DataArray) -> xr.DataArray:
    """Transposes an array to the order of `_DIM_ORDER`."""
    return array.transpose(*(dim for dim in _DIM_ORDER if dim in array.dims))
