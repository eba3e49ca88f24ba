"""A bank of fitted probes: labelled arrays, what they predict, how well, and files of them."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from interventions.probes.directions import Directions
from interventions.stats import intervals
from interventions.stats.categories import categories
from interventions.storage.atomic import replacing
from interventions.storage.inert import check_sealed, named, read_json, read_npz, seal

_VERSION = 1
_JSON, _ARRAYS = "bank.json", "arrays.npz"


@dataclasses.dataclass(frozen=True, repr=False)
class Bank(Directions):
    """Fitted probes. `bank.accuracy` is `bank.data.accuracy`; fields have dims (site,) layer, penalty, fold, seed, then their own.

    accuracy: share of test rows; r2 instead, for values. log_loss: mean over test rows, nats (for values: mean squared error).
    weights [..., class, feature] and bias [..., class]: of features standardised by `mean` and `scale` (without penalty).
    objective: summed cross-entropy + λ/2 ‖W‖² (½ ‖residual‖² + λ/2 ‖w‖²). gradient_norm: its largest gradient component over the
    number of training rows, what scikit-learn compares with `tol`. gap: estimated (objective - optimum) / objective; for a fit that was
    finished in float64 within a percent, else up to a few times too small. n_iter: steps.
    test [seed, fold, row]: who was tested. out_of_fold (site, layer, penalty, seed, row): each row's prediction by the fold that
    did not see it, a class number; -1 (values: NaN) for rows in no test set. y [seed, row]: targets, class numbers.
    """

    data: xr.Dataset
    target: str

    @classmethod
    def of(
        cls,
        found: Any,
        scales: Any,
        sites: Any,
        targets: Any,
        test: Any,
        classes: Any,
        penalties: Any,
        seeds: Any,
    ) -> "Bank":
        """What the solver found, [sites · layers, penalties, seeds · folds, ...], under its labels."""
        n_seeds, n_folds, _ = test.shape
        lead = (len(sites.names), sites.shape[0])
        dims = ("site", "layer", "penalty", "seed", "fold")

        def spread(leaf: np.ndarray, *own: str) -> tuple[tuple[str, ...], np.ndarray]:
            return (*dims, *own), leaf.reshape(
                *lead, len(penalties), n_seeds, n_folds, *leaf.shape[3:]
            )

        solved, is_class = found.solution, len(classes) > 0
        variables = {
            "accuracy" if is_class else "r2": spread(found.score),
            "log_loss": spread(found.log_loss),
            "weights": spread(solved.weights, "class", "feature"),
            "bias": spread(solved.bias, "class"),
            **{
                name: spread(getattr(solved, name))
                for name in ("objective", "gradient_norm", "gap", "n_iter")
            },
            "test": (("seed", "fold", "row"), test),
            "y": (("seed", "row"), targets),
        }
        for name, leaf in zip(("mean", "scale"), scales):
            variables[name] = (
                ("site", "layer", "seed", "fold", "feature"),
                leaf.reshape(*lead, n_seeds, n_folds, -1),
            )
        guesses = spread(found.predictions)[1]
        variables["out_of_fold"] = (
            ("site", "layer", "penalty", "seed", "row"),
            _out_of_fold(guesses, test, is_class),
        )
        coords = {
            "site": sites.names,
            "layer": sites.layers,
            "penalty": penalties,
            "seed": seeds,
            "fold": np.arange(n_folds),
        }
        data = xr.Dataset(variables, {**coords, "class": classes if is_class else ["value"]})
        data = data.transpose(
            *("site", "layer", "penalty", "fold", "seed"), ..., "row", "class", "feature"
        )
        return cls(
            data if sites.labelled else data.isel(site=0, drop=True),
            "class" if is_class else "value",
        )

    def __getattr__(self, name: str) -> xr.DataArray:
        data = self.__dict__.get("data")
        if data is None or name.startswith("_") or name not in data:
            known = [] if data is None else list(data.data_vars)
            raise AttributeError(
                f"a bank of target {self.__dict__.get('target')!r} has no {name!r}; it has {', '.join(map(str, known))}."
            )
        return data[name]

    @property
    def classes(self) -> np.ndarray:
        return self.data["class"].values

    def __repr__(self) -> str:
        sizes = ", ".join(f"{dim} {size}" for dim, size in self.data.sizes.items())
        return f"Bank({self.target}: {sizes}; largest gap {float(self.data.gap.max(skipna=False)):.1e})"

    def sel(self, **labels: Any) -> "Bank":
        """Fewer probes: by label, as xarray's `sel`; dims stay."""
        return dataclasses.replace(
            self, data=self.data.sel({dim: np.atleast_1d(label) for dim, label in labels.items()})
        )

    def decision(self, X: Any) -> xr.DataArray:
        """Logits (values: predictions) of new activations [L, N, D] or {site: ...}, as many layers as the bank has: (..., row, class)."""
        x, d = self._activations(X), self.data
        w = d.weights / d.scale
        return xr.dot(x, w, dim="feature") + (d.bias - xr.dot(w, d["mean"], dim="feature"))

    def predict_proba(self, X: Any) -> xr.DataArray:
        """Probabilities (..., row, class) of every probe. Raises ValueError for a bank of values."""
        if self.target != "class":
            raise ValueError("predict_proba: a bank of values has no classes; use predict.")
        logits = self.decision(X)
        e = np.exp(logits - logits.max("class"))
        return self._ordered(e / e.sum("class"))

    def predict(self, X: Any) -> xr.DataArray:
        """What every probe says of every row of X: classes, or values (..., row)."""
        out = self._ordered(self.decision(X))
        if self.target == "value":
            return out.isel({"class": 0}, drop=True)
        return out.argmax("class").copy(data=self.classes[out.argmax("class").values])

    def out_of_fold_proba(self, X: Any) -> xr.DataArray:
        """Of the X that the bank was fitted on: each row's probabilities by the fold that did not see it (..., seed, row, class)."""
        test = self.data.test
        share = test / test.sum("fold").clip(min=1)
        total: Any = 0
        for fold in self.data.fold.values:  # one at a time: all of them would be as large as X
            total = total + self.sel(fold=fold).predict_proba(X).isel(
                fold=0, drop=True
            ) * share.sel(fold=fold, drop=True)
        return self._ordered(total).where(test.any("fold"))

    def summary(self, groups: Any = None, level: float = 0.95) -> xr.Dataset:
        """`mean`, `low` and `high` of accuracy (values: -squared error) over out-of-fold rows, (..., layer, penalty), averaged over seeds.

        The interval is a bootstrap of rows, of whole `groups` where given: rows of one speaker are not independent. It takes answers of
        different folds for independent; they share training rows, and where little is to be learned it is up to √2 too narrow.
        """
        d = self.data
        right = (
            (d.out_of_fold == d.y) * 1.0
            if self.target == "class"
            else -((d.out_of_fold - d.y) ** 2)
        )
        right = right.mean("seed").isel(row=np.flatnonzero(d.test.any(("fold", "seed")).values))
        if groups is not None:
            right = _by_group(
                right,
                categories(groups, d.sizes["row"], "groups")[d.test.any(("fold", "seed")).values],
            )
        return intervals.bootstrap(right, dim="row", level=level)

    def save(self, folder: str | os.PathLike, **about: Any) -> None:
        """Writes a new `folder`, complete or not at all, with SHA256SUMS of its files.

        Args:
            folder: where nothing is yet.
            about: such as provenance; kept as JSON.

        Raises:
            FileExistsError: `folder` is there already.
        """
        folder = Path(folder)
        if folder.exists():
            raise FileExistsError(
                f"folder: {str(folder)!r} exists already; choose another, or remove it."
            )
        arrays = {
            str(name): array.values
            for name, array in {**self.data.data_vars, **self.data.coords}.items()
        }
        dims = {
            str(name): list(array.dims)
            for name, array in {**self.data.data_vars, **self.data.coords}.items()
        }
        described = {
            "version": _VERSION,
            "target": self.target,
            "dims": dims,
            "coords": list(map(str, self.data.coords)),
            "about": about,
        }
        with replacing(folder) as new:
            new.mkdir()
            (new / _JSON).write_text(json.dumps(described, indent=1) + "\n")
            np.savez(new / _ARRAYS, **arrays)
            seal(new)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Bank":
        """What `save` wrote; nothing is unpickled.

        Raises:
            ValueError: `folder` is damaged, or holds anything else or a bank of another version; the message names the file.
        """
        folder = Path(folder)
        if not (folder / _JSON).is_file() or not (folder / _ARRAYS).is_file():
            raise ValueError(
                f"folder: expected {_JSON} and {_ARRAYS} of Bank.save in {str(folder)!r}."
            )
        check_sealed(folder)
        about = read_json(folder / _JSON)
        if about.get("version") != _VERSION:
            raise ValueError(
                f"{folder / _JSON}: expected a bank of version {_VERSION}; fit it again."
            )
        arrays = read_npz(folder / _ARRAYS)
        with named(folder / _JSON):
            every = {name: (tuple(dims), arrays[name]) for name, dims in about["dims"].items()}
            coords = {name: every.pop(name) for name in about["coords"]}
            found = cls(xr.Dataset(every, coords, attrs=dict(about["about"])), about["target"])
            found._check()
        return found

    def _check(self) -> None:
        """Raises ValueError where something that a bank of its target has is missing, or an array has another number format."""
        if self.target not in ("class", "value"):
            raise ValueError(f"target: expected 'class' or 'value', got {self.target!r}")
        score = "accuracy" if self.target == "class" else "r2"
        own = {
            "weights": ["class", "feature"],
            "bias": ["class"],
            "mean": ["feature"],
            "scale": ["feature"],
            score: [],
        }
        needed = {name: {"layer", "fold", *dims} for name, dims in own.items()} | {
            "test": {"fold", "row"}
        }
        for name, dims in needed.items():
            if name not in self.data or not dims <= set(self.data[name].dims):
                raise ValueError(f"{name}: expected an array over {', '.join(sorted(dims))}")
            if self.data[name].dtype.kind not in "biuf":
                raise ValueError(f"{name}: expected numbers, got {self.data[name].dtype}")

    def _activations(self, X: Any) -> xr.DataArray:
        d = self.data
        if "site" in d.dims:
            X = (
                np.stack([np.asarray(X[name]) for name in d.site.values])
                if hasattr(X, "keys")
                else np.asarray(X)
            )
        dims = [dim for dim in ("site", "layer") if dim in d.dims]
        x, expected = np.asarray(X, np.float32), tuple(d.sizes[dim] for dim in dims)
        if x.ndim != len(dims) + 2 or x.shape[:-2] != expected or x.shape[-1] != d.sizes["feature"]:
            shape = [*expected, "N", d.sizes["feature"]]
            raise ValueError(
                f"X: expected [{', '.join(dims)}, rows, features] = {shape}, got {list(x.shape)}."
            )
        return xr.DataArray(x, {dim: d[dim] for dim in dims}, (*dims, "row", "feature"))

    def _ordered(self, array: xr.DataArray) -> xr.DataArray:
        first = [
            dim
            for dim in ("site", "layer", "penalty", "fold", "seed", "row", "class")
            if dim in array.dims
        ]
        return array.transpose(*first)


def _out_of_fold(guesses: np.ndarray, test: np.ndarray, is_class: bool) -> np.ndarray:
    """[site, layer, penalty, seed, row] of guesses [..., seed, fold, row]: the first fold that tests a row speaks for it."""
    fold = test.argmax(1)[None, None, None, :, None]
    picked = np.take_along_axis(
        guesses, np.broadcast_to(fold, (*guesses.shape[:3], *fold.shape[3:])), 4
    )[..., 0, :]
    return np.where(test.any(1), picked, -1 if is_class else np.nan)


def _by_group(right: xr.DataArray, groups: np.ndarray) -> xr.DataArray:
    """One value for each group, whose mean is the mean over rows: the ratio of sums, made linear."""
    mean = right.mean("row")
    numbers, counts = (
        np.unique(groups, return_inverse=True)[1],
        np.unique(groups, return_counts=True)[1],
    )
    member = xr.DataArray(np.eye(len(counts))[numbers], dims=("row", "group"))
    sums: Callable = lambda values: xr.dot(values, member, dim="row")  # noqa: E731
    away = (sums(right) - mean * xr.DataArray(counts, dims="group")) * len(counts) / len(groups)
    return (mean + away).rename(group="row")
