"""Gives access to the labelled arrays of a bank of probes, by one property per array."""

import dataclasses

import numpy as np
import xarray as xr


@dataclasses.dataclass(frozen=True, repr=False)
class BankFields:
    """Gives access to the arrays of a bank.

    Arrays have the dimensions ([site,] layer, penalty, fold, seed), unless a property states
    others. "..." stands for these dimensions. A property raises AttributeError if the bank does not
    have the array.

    Attributes:
        data: all arrays, as one `xarray.Dataset`.
        target: "class" if the probes predict classes, "value" if they predict numbers.
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
        """Mean of -log p(true class) over test rows, in nats; for values, mean squared error."""
        return self._variable("log_loss")

    @property
    def weights(self) -> xr.DataArray:
        """Weights (..., class, feature) of the standardised features (x - mean) / scale."""
        return self._variable("weights")

    @property
    def bias(self) -> xr.DataArray:
        """Unpenalised bias (..., class)."""
        return self._variable("bias")

    @property
    def mean(self) -> xr.DataArray:
        """Mean of each feature over training rows: ([site,] layer, fold, seed, feature)."""
        return self._variable("mean")

    @property
    def scale(self) -> xr.DataArray:
        """Standard deviation of each feature over training rows, with the dimensions of `mean`."""
        return self._variable("scale")

    @property
    def objective(self) -> xr.DataArray:
        """Objective of the fit on its training rows; see `fit_probes`."""
        return self._variable("objective")

    @property
    def gradient_norm(self) -> xr.DataArray:
        """Largest component of the objective's gradient, divided by the number of training rows.

        scikit-learn compares this number with its `tol`.
        """
        return self._variable("gradient_norm")

    @property
    def optimality_gap(self) -> xr.DataArray:
        """Estimated (objective - optimum) / objective.

        For fits that were finished in float64, the estimate is accurate to about one percent. For
        other fits it can be a few times too small.
        """
        return self._variable("optimality_gap")

    @property
    def n_iter(self) -> xr.DataArray:
        """Number of solver steps."""
        return self._variable("n_iter")

    @property
    def test(self) -> xr.DataArray:
        """Whether a row is a test row of a fold: bool (fold, seed, row)."""
        return self._variable("test")

    @property
    def out_of_fold(self) -> xr.DataArray:
        """Prediction for each row, by the probe of the first fold that has it as a test row.

        The dimensions are ([site,] layer, penalty, seed, row). Entries are indices into `classes`,
        or values. Rows that are test rows of no fold have index -1, or the value NaN.
        """
        return self._variable("out_of_fold")

    @property
    def y(self) -> xr.DataArray:
        """Targets (seed, row), as indices into `classes` or as values."""
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
