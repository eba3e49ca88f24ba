"""Makes steering vectors and edits from fitted probes."""

import dataclasses
from typing import Any, Literal, TypedDict, Unpack

import jax.numpy as jnp
import numpy as np
import xarray as xr

from interventions.edits import Add, Project, Restrict, only
from interventions.probes.bank_fields import BankFields


class ProbeChoice(TypedDict, total=False):
    """Labels that select among the probes of a layer.

    A penalty or site is required if the bank has several. Without a fold or seed, the weights are
    averaged over all folds or seeds.
    """

    penalty: float
    fold: int
    seed: int
    site: str


@dataclasses.dataclass(frozen=True, repr=False)
class Directions(BankFields):
    """Provides the methods of a bank that turn a probe into vectors and edits."""

    def normals(self, layer: Any, **choice: Unpack[ProbeChoice]) -> xr.DataArray:
        """Returns the gradient of each class's logit with respect to the raw activation.

        Args:
            layer: label of the layer that the probe was fitted on.
            choice: `penalty`, `fold`, `seed`, `site`; see `ProbeChoice`.

        Returns:
            A DataArray (class, feature).

        Raises:
            ValueError: a label is not in the bank, or a penalty or site is missing.

        Example:
            ```python
            import numpy as np

            import interventions

            y = np.arange(40) % 2
            X = np.random.default_rng(0).normal(size=(1, 40, 6)) + 3 * y[:, None]
            bank = interventions.fit_probes(X, y, folds=2)
            assert bank.normals(0).dims == ("class", "feature")
            ```
        """
        return self._select_and_average(self.weights / self.scale, layer, **choice)

    def direction(
        self, layer: Any, positive: Any = None, negative: Any = None, **choice: Unpack[ProbeChoice]
    ) -> np.ndarray:
        """Returns the direction that most increases the logit of one class minus that of another.

        Args:
            layer: label of the layer that the probe was fitted on.
            positive: the class that the direction points to. A bank of values ignores both classes,
                and its direction points to larger values.
            negative: the class that the direction points away from. Default: the mean of all other
                classes.
            choice: `penalty`, `fold`, `seed`, `site`; see `ProbeChoice`.

        Returns:
            A unit vector [D] in the space of raw activations.

        Raises:
            ValueError: a class or label is not in the bank, or a penalty or site is missing.

        Example:
            ```python
            import numpy as np

            import interventions

            y = np.repeat(["F", "M"], 20)
            X = np.random.default_rng(0).normal(size=(1, 40, 6)) + 3 * (y == "F")[:, None]
            bank = interventions.fit_probes(X, y, folds=2)
            towards_f = bank.direction(0, "F", "M")
            assert towards_f.sum() > 0
            ```
        """
        normals = self.normals(layer, **choice)
        if self.target == "value":
            return _normalise(normals.values[0])
        towards = normals.sel({"class": self._checked_class(positive, "positive")})
        if negative is None:
            away_from = normals.drop_sel({"class": positive}).mean("class")
        else:
            away_from = normals.sel({"class": self._checked_class(negative, "negative")})
        return _normalise((towards - away_from).values)

    def as_add(
        self,
        layer: Any,
        positive: Any = None,
        negative: Any = None,
        strength: float = 1.0,
        *,
        place: int | Literal["layer"] | None = "layer",
        **choice: Unpack[ProbeChoice],
    ) -> Add | Restrict:
        """Makes the edit x ← x + strength·direction.

        Args:
            layer: label of the layer that the probe was fitted on.
            positive: the class to steer to, as in `direction`.
            negative: the class to steer away from, as in `direction`.
            strength: length of the added vector, in units of the activation.
            place: index of the model layer that the edit applies to. "layer" stands for the layer
                of the probe. Pass None for a site without layers.
            choice: `penalty`, `fold`, `seed`, `site`; see `ProbeChoice`.

        Returns:
            An edit, which is passed as `edits = {site: edit}`.

        Raises:
            ValueError: a class or label is not in the bank, or a penalty or site is missing.

        Example:
            ```python
            import numpy as np

            import interventions

            y = np.repeat(["F", "M"], 20)
            X = np.random.default_rng(0).normal(size=(2, 40, 6)) + 3 * (y == "F")[:, None]
            bank = interventions.fit_probes(X, y, folds=2)
            edits = {"encoder.resid_post": bank.as_add(1, "F", "M", strength=4.0)}
            ```
        """
        direction = jnp.asarray(self.direction(layer, positive, negative, **choice))
        return _restrict_to_layer(
            Add(direction, jnp.float32(strength)), layer if place == "layer" else place
        )

    def as_project(
        self,
        layer: Any,
        keep: bool = False,
        *,
        place: int | Literal["layer"] | None = "layer",
        **choice: Unpack[ProbeChoice],
    ) -> Project | Restrict:
        """Makes the edit that projects the probe's directions out of the activation.

        The probe then predicts the same class probabilities, or the same value, for every
        activation. With `keep`, the edit removes everything except these directions.

        Args:
            layer: label of the layer that the probe was fitted on.
            keep: keep only the probe's directions, instead of removing them.
            place: index of the model layer that the edit applies to, as in `as_add`.
            choice: `penalty`, `fold`, `seed`, `site`; see `ProbeChoice`.

        Returns:
            An edit, which is passed as `edits = {site: edit}`.

        Raises:
            ValueError: a label is not in the bank, or a penalty or site is missing.

        Example:
            ```python
            import numpy as np

            import interventions

            y = np.arange(40) % 2
            X = np.random.default_rng(0).normal(size=(2, 40, 6)) + 3 * y[:, None]
            bank = interventions.fit_probes(X, y, folds=2)
            erase = {"encoder.resid_post": bank.as_project(1)}
            ```

        References:
            Ravfogel et al., "Null it out" (arXiv:2004.07667). This edit is one of its iterations.
        """
        normals = self.normals(layer, **choice).values
        # Only differences between logits change probabilities. The differences from the last class
        # span all others.
        span = normals if self.target == "value" else normals[:-1] - normals[-1]
        unit_span = span / np.linalg.norm(span, axis=-1, keepdims=True)
        edit = Project.span(jnp.asarray(unit_span), keep)
        return _restrict_to_layer(edit, layer if place == "layer" else place)

    def affine(self, layer: Any, **choice: Unpack[ProbeChoice]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the weights and bias of logits = weights @ x + bias, for raw activations x.

        Args:
            layer: label of the layer that the probe was fitted on.
            choice: `penalty`, `fold`, `seed`, `site`; see `ProbeChoice`.

        Returns:
            Weights [K, D] and bias [K].

        Raises:
            ValueError: a label is not in the bank, or a penalty or site is missing.

        Example:
            ```python
            import numpy as np

            import interventions

            y = np.arange(40) % 2
            X = np.random.default_rng(0).normal(size=(1, 40, 6)) + 3 * y[:, None]
            bank = interventions.fit_probes(X, y, folds=2)
            weights, bias = bank.affine(0)
            logits = X[0] @ weights.T + bias
            ```
        """
        # The standardisation (x - mean) / scale moves into the weights and the bias.
        weights = self.weights / self.scale
        bias = self.bias - (weights * self.mean).sum("feature")
        averaged_weights = self._select_and_average(weights, layer, **choice)
        return averaged_weights.values, self._select_and_average(bias, layer, **choice).values

    def _select_and_average(
        self,
        array: xr.DataArray,
        layer: Any,
        penalty: float | None = None,
        fold: int | None = None,
        seed: int | None = None,
        site: str | None = None,
    ) -> xr.DataArray:
        """Selects the given labels, and averages over folds and seeds without a label."""
        labels = {"layer": layer, "penalty": penalty, "fold": fold, "seed": seed, "site": site}
        for dim, label in labels.items():
            if dim not in array.dims:
                continue
            labels_of_dim = self.data[dim].values
            is_required = dim in ("layer", "penalty", "site") and len(labels_of_dim) > 1
            if label is None and is_required:
                raise ValueError(
                    f"{dim}: the bank has several; expected one of {labels_of_dim.tolist()}, "
                    "got None."
                )
            if label is not None and label not in labels_of_dim:
                raise ValueError(f"{dim}: expected one of {labels_of_dim.tolist()}, got {label!r}.")
            array = array.mean(dim) if label is None else array.sel({dim: label})
        return array.transpose("class", ...)

    def _checked_class(self, label: Any, name: str) -> Any:
        """Returns a class of the bank. Raises ValueError for any other label."""
        if label not in self.classes:
            raise ValueError(f"{name}: expected one of {self.classes.tolist()}, got {label!r}.")
        return label


def _restrict_to_layer(edit: Any, layer: int | None) -> Any:
    return edit if layer is None else only(edit, layers=int(layer))


def _normalise(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)
