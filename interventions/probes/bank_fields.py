"""Gives access to the labelled arrays of a bank of probes, one property per array."""

import dataclasses

import numpy as np
import xarray as xr


@dataclasses.dataclass(frozen=True, repr=False)
class BankFields:
    """Gives access to the arrays of a bank.

    Arrays have the dimensions ([site,] layer, penalty, fold, seed) unless a property states others;
    "..." stands for these dimensions. A property raises AttributeError if the bank does not have
    the array.
    """

    data: xr.Dataset
    target: str

    @property
    def accuracy(self) -> xr.DataArray:
        """Fraction of test rows that are classified correctly. Banks of values have `r2`."""
        return self._variable("accuracy")

    @property
    def r2(self) -> xr.DataArray:
        """Coefficient of determination on test rows. Banks of classes have `accuracy`."""
        return self._variable("r2")

    @property
    def log_loss(self) -> xr.DataArray:
        """Mean of -log p(class) over test rows in nats; the mean squared error for values."""
        return self._variable("log_loss")

    @property
    def weights(self) -> xr.DataArray:
        """Weights (..., class, feature), applied to the standardised (x - mean) / scale."""
        return self._variable("weights")

    @property
    def bias(self) -> xr.DataArray:
        """Unpenalised bias (..., class)."""
        return self._variable("bias")

    @property
    def mean(self) -> xr.DataArray:
        """Mean over training rows, with dimensions ([site,] layer, fold, seed, feature)."""
        return self._variable("mean")

    @property
    def scale(self) -> xr.DataArray:
        """Standard deviation over training rows, with the dimensions of `mean`."""
        return self._variable("scale")

    @property
    def objective(self) -> xr.DataArray:
        """Objective of the fit on its training rows; see `fit_probes`."""
        return self._variable("objective")

    @property
    def gradient_norm(self) -> xr.DataArray:
        """Largest gradient component of the objective, divided by the number of training rows.

        scikit-learn compares this number with its `tol`.
        """
        return self._variable("gradient_norm")

    @property
    def gap(self) -> xr.DataArray:
        """Estimated (objective - optimum) / objective.

        The estimate is accurate to about one percent for fits that were finished in float64.
        For other fits it can be a few times too small.
        """
        return self._variable("gap")

    @property
    def n_iter(self) -> xr.DataArray:
        """Number of solver steps."""
        return self._variable("n_iter")

    @property
    def test(self) -> xr.DataArray:
        """Whether a fold tests a row: bool (fold, seed, row)."""
        return self._variable("test")

    @property
    def out_of_fold(self) -> xr.DataArray:
        """Prediction for each row by the first fold that tests it.

        The dimensions are ([site,] layer, penalty, seed, row). Entries are indices into `classes`,
        or values. Rows that no fold tests have index -1, or the value NaN.
        """
        return self._variable("out_of_fold")

    @property
    def y(self) -> xr.DataArray:
        """Targets (seed, row): indices into `classes`, or values."""
        return self._variable("y")

    @property
    def classes(self) -> np.ndarray:
        """Sorted classes; a bank of values has ["value"]."""
        return self.data["class"].values

    def _variable(self, name: str) -> xr.DataArray:
        if name not in self.data:
            raise AttributeError(
                f"a bank of target {self.target!r} has no {name!r}; "
                f"it has {', '.join(map(str, self.data.data_vars))}."
            )
        return self.data[name]
