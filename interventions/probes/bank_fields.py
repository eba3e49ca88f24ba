"""The labelled arrays of a bank of probes, one property per array."""

import dataclasses

import numpy as np
import xarray as xr


@dataclasses.dataclass(frozen=True, repr=False)
class BankFields:
    """Arrays of a bank, with dimensions ([site,] layer, penalty, fold, seed) unless stated.

    Each property is the variable of `data` with its name, and raises AttributeError if the bank
    does not have it.
    """

    data: xr.Dataset
    target: str

    @property
    def accuracy(self) -> xr.DataArray:
        """Share of test rows whose class is predicted. Banks of values have `r2` instead."""
        return self._variable("accuracy")

    @property
    def r2(self) -> xr.DataArray:
        """Coefficient of determination on test rows. Banks of classes have `accuracy` instead."""
        return self._variable("r2")

    @property
    def log_loss(self) -> xr.DataArray:
        """Mean of -log p(class) over test rows in nats; for values, the mean squared error."""
        return self._variable("log_loss")

    @property
    def weights(self) -> xr.DataArray:
        """Weights [..., class, feature] of the features standardised by `mean` and `scale`."""
        return self._variable("weights")

    @property
    def bias(self) -> xr.DataArray:
        """Bias [..., class], which is not penalised."""
        return self._variable("bias")

    @property
    def mean(self) -> xr.DataArray:
        """Mean of each feature over training rows, ([site,] layer, fold, seed, feature)."""
        return self._variable("mean")

    @property
    def scale(self) -> xr.DataArray:
        """Standard deviation of each feature over training rows, with the dimensions of `mean`."""
        return self._variable("scale")

    @property
    def objective(self) -> xr.DataArray:
        """Summed cross-entropy + λ/2 ‖W‖²; for values, ½ ‖residual‖² + λ/2 ‖w‖²."""
        return self._variable("objective")

    @property
    def gradient_norm(self) -> xr.DataArray:
        """Largest component of the objective's gradient over the number of training rows.

        This is what scikit-learn compares with its `tol`.
        """
        return self._variable("gradient_norm")

    @property
    def gap(self) -> xr.DataArray:
        """Estimated (objective - optimum) / objective.

        It is within one percent for fits that were finished in float64, else up to a few times too
        small.
        """
        return self._variable("gap")

    @property
    def n_iter(self) -> xr.DataArray:
        """Number of the solver's steps."""
        return self._variable("n_iter")

    @property
    def test(self) -> xr.DataArray:
        """bool [fold, seed, row], the rows that are tested."""
        return self._variable("test")

    @property
    def out_of_fold(self) -> xr.DataArray:
        """Prediction for each row by the fold that tests it, ([site,] layer, penalty, seed, row).

        Classes are numbers, the index into `classes`. Rows that no fold tests have -1, or NaN for
        values.
        """
        return self._variable("out_of_fold")

    @property
    def y(self) -> xr.DataArray:
        """Targets [seed, row]: class numbers, or values."""
        return self._variable("y")

    @property
    def classes(self) -> np.ndarray:
        """The classes, sorted; ["value"] for a bank of values."""
        return self.data["class"].values

    def _variable(self, name: str) -> xr.DataArray:
        if name not in self.data:
            raise AttributeError(
                f"a bank of target {self.target!r} has no {name!r}; "
                f"it has {', '.join(map(str, self.data.data_vars))}."
            )
        return self.data[name]
