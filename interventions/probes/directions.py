"""From a fitted probe to an edit: its direction added to an activation, or projected out of it."""

import dataclasses
from typing import Any, Literal, TypedDict, Unpack

import jax.numpy as jnp
import numpy as np
import xarray as xr

from interventions.edits import Add, Project, Restrict, only
from interventions.probes.bank_fields import BankFields


class ProbeChoice(TypedDict, total=False):
    """Labels that select among the probes of a layer.

    A penalty or site is required if the bank has several. Folds and seeds that are not named are
    averaged.
    """

    penalty: float
    fold: int
    seed: int
    site: str


@dataclasses.dataclass(frozen=True, repr=False)
class Directions(BankFields):
    """The methods of a bank that turn a probe into vectors and edits."""

    def normals(self, layer: Any, **choice: Unpack[ProbeChoice]) -> xr.DataArray:
        """Returns the gradient of each class's logit with respect to the raw activation.

        Args:
            layer: the probe's layer.
            choice: `penalty`, `fold`, `seed`, `site`; see `ProbeChoice`.

        Returns:
            A DataArray [class, feature].

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
        """Returns the direction along which the probe moves fastest from one class to another.

        Args:
            layer: the probe's layer.
            positive: the class that the direction points to. Not needed for a bank of values, whose
                direction points to larger values.
            negative: the class that it points away from; default: the mean of all other classes.
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
            layer: the probe's layer.
            positive: the class to steer to, as in `direction`.
            negative: the class to steer away from, as in `direction`.
            strength: length of the added vector, in units of the activation.
            place: the model's layer at which the edit acts. "layer" is the probe's own; pass None
                at a site without layers.
            choice: `penalty`, `fold`, `seed`, `site`; see `ProbeChoice`.

        Returns:
            An edit, to be used as `edits = {site: edit}`.

        Raises:
            ValueError: as `direction`.

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

        The probe's class probabilities are then the same for every activation.

        Args:
            layer: the probe's layer.
            keep: keep only the probe's directions instead.
            place: the model's layer at which the edit acts, as in `as_add`.
            choice: `penalty`, `fold`, `seed`, `site`; see `ProbeChoice`.

        Returns:
            An edit, to be used as `edits = {site: edit}`.

        Raises:
            ValueError: as `normals`.

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
            Ravfogel et al., "Null it out" (arXiv:2004.07667), one step of the iteration.
        """
        normals = self.normals(layer, **choice).values
        # Logits of classes sum to a constant, so K - 1 differences span what the probe compares.
        span = normals if self.target == "value" else normals[:-1] - normals[-1]
        unit_span = span / np.linalg.norm(span, axis=-1, keepdims=True)
        edit = Project.span(jnp.asarray(unit_span), keep)
        return _restrict_to_layer(edit, layer if place == "layer" else place)

    def affine(self, layer: Any, **choice: Unpack[ProbeChoice]) -> tuple[np.ndarray, np.ndarray]:
        """Returns weights and bias for raw activations: logits = weights @ x + bias.

        Args:
            layer: the probe's layer.
            choice: `penalty`, `fold`, `seed`, `site`; see `ProbeChoice`.

        Returns:
            Weights [K, D] and bias [K].

        Raises:
            ValueError: as `normals`.

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
        """Selects the labels that are named and averages the folds and seeds that are not."""
        labels = {"layer": layer, "penalty": penalty, "fold": fold, "seed": seed, "site": site}
        for dim, label in labels.items():
            if dim not in array.dims:
                continue
            labels_of_dim = self.data[dim].values
            is_required = dim in ("layer", "penalty", "site") and len(labels_of_dim) > 1
            if label is None and is_required:
                raise ValueError(
                    f"{dim}: expected one of {labels_of_dim.tolist()}, "
                    "because the bank has several, got None."
                )
            if label is not None and label not in labels_of_dim:
                raise ValueError(f"{dim}: expected one of {labels_of_dim.tolist()}, got {label!r}.")
            array = array.mean(dim) if label is None else array.sel({dim: label})
        return array.transpose("class", ...)

    def _checked_class(self, label: Any, name: str) -> Any:
        if label not in self.classes:
            raise ValueError(f"{name}: expected one of {self.classes.tolist()}, got {label!r}.")
        return label


def _restrict_to_layer(edit: Any, layer: int | None) -> Any:
    return edit if layer is None else only(edit, layers=int(layer))


def _normalise(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)
