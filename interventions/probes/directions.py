"""From a probe to an edit: what it looks for, added or taken away."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr

from interventions.edits import Add, Project, Restrict, only


class Directions:
    """The part of a bank that makes edits."""

    data: xr.Dataset
    target: str

    def normals(self, layer: Any, **which: Any) -> xr.DataArray:
        """[class, feature]: how each class's logit grows with the raw activation, averaged over the folds and seeds not named.

        `which`: `penalty`, `fold`, `seed`, `site`. Raises ValueError when one of them or the layer is not in the bank, or the bank has
        several layers, penalties or sites and none is named.
        """
        return self._averaged(self.data.weights / self.data.scale, layer, **which)

    def direction(
        self, layer: Any, positive: Any = None, negative: Any = None, **which: Any
    ) -> np.ndarray:
        """Unit vector [D] in the space of raw activations along which the probe moves fastest from `negative` to `positive`.

        Without `negative`: from the mean of all other classes. A bank of values needs neither: upwards. `which`: as in `normals`.
        """
        normals = self.normals(layer, **which)
        if self.target == "value":
            return _unit(normals.values[0])
        towards = normals.sel({"class": self._known(positive, "positive")})
        others = normals.drop_sel({"class": positive}).mean("class") if negative is None else None
        away = (
            others
            if negative is None
            else normals.sel({"class": self._known(negative, "negative")})
        )
        return _unit((towards - away).values)

    def as_add(
        self,
        layer: Any,
        positive: Any = None,
        negative: Any = None,
        strength: float = 1.0,
        **which: Any,
    ) -> Add | Restrict:
        """x ← x + strength·direction at this layer: `edits = {site: bank.as_add(...)}`; at a site without layers pass place=None."""
        place = which.pop("place", layer)
        edit = Add(
            jnp.asarray(self.direction(layer, positive, negative, **which)), jnp.float32(strength)
        )
        return edit if place is None else only(edit, layers=int(place))

    def as_project(self, layer: Any, keep: bool = False, **which: Any) -> Project | Restrict:
        """Takes all the probe looks at out of the activation of this layer (`keep`: leaves only that)."""
        place = which.pop("place", layer)
        normals = self.normals(layer, **which).values
        # The class logits sum to a constant: one of them is the others', and differences are all that is ever compared.
        span = normals if self.target == "value" else normals[:-1] - normals[-1]
        edit = Project.span(jnp.asarray(span / np.linalg.norm(span, axis=-1, keepdims=True)), keep)
        return edit if place is None else only(edit, layers=int(place))

    def affine(self, layer: Any, **which: Any) -> tuple[np.ndarray, np.ndarray]:
        """weights [K, D] and bias [K] for raw activations: logits = weights @ x + bias, averaged over the folds and seeds not named."""
        d = self.data
        raw = d.weights / d.scale
        bias = d.bias - (raw * d["mean"]).sum("feature")
        return self._averaged(raw, layer, **which).values, self._averaged(
            bias, layer, **which
        ).values

    def _averaged(
        self,
        array: xr.DataArray,
        layer: Any,
        penalty: Any = None,
        fold: Any = None,
        seed: Any = None,
        site: str | None = None,
    ) -> xr.DataArray:
        for dim, label in {
            "layer": layer,
            "penalty": penalty,
            "fold": fold,
            "seed": seed,
            "site": site,
        }.items():
            if dim not in array.dims:
                continue
            known = self.data[dim].values
            if label is None and dim in ("layer", "penalty", "site") and len(known) > 1:
                raise ValueError(
                    f"{dim}: expected one of {known.tolist()}, since the bank has several."
                )
            if label is not None and label not in known:
                raise ValueError(f"{dim}: expected one of {known.tolist()}, got {label!r}.")
            array = array.mean(dim) if label is None else array.sel({dim: label})
        return array.transpose("class", ...)

    def _known(self, label: Any, name: str) -> Any:
        if label not in self.data["class"].values:
            raise ValueError(
                f"{name}: expected one of {self.data['class'].values.tolist()}, got {label!r}."
            )
        return label


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)
