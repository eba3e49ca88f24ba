"""Runs the fits of a bank in chunks of layers and fits that memory holds."""

import collections
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import jax
import numpy as np
from jaxtyping import Array

from interventions.memory import budget
from interventions.patching.workload import equal_chunk_size
from interventions.probes import finish, inputs
from interventions.probes.objective import Problem
from interventions.probes.solve import FitResults, solve_layers
from jaxasr import compiled

_BYTES = 1 << 30  # of a CPU's memory, beside X; of an accelerator, a share of what is free
_MAX_IN_FLIGHT = 8


class FitRows(NamedTuple):
    """Targets, training and test rows of each fit, [J, N]; J = seeds × folds, seeds outside."""

    targets: np.ndarray
    train: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, targets: np.ndarray, train: np.ndarray, test: np.ndarray) -> "FitRows":
        """Flattens targets [seeds, N] and masks [seeds, folds, N]."""
        n_seeds, n_folds, n = train.shape
        targets = np.broadcast_to(targets[:, None], train.shape)
        return cls(*(array.reshape(n_seeds * n_folds, n) for array in (targets, train, test)))


class _LayerInputs(NamedTuple):
    """What the solver reads of one layer, and the moments that a bank keeps.

    Attributes:
        x, shift, scale: float32, as in `Problem`.
        moments: mean and scale [J, D] in the units of X.
    """

    x: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    moments: tuple[np.ndarray, np.ndarray]


class ChunkedFit(NamedTuple):
    """One call of `fit_probes` after its checks."""

    sites: inputs.Sites
    rows: FitRows
    penalties: np.ndarray
    n_classes: int
    standardize: bool
    tol: float
    max_iter: int
    chunk: int | None

    def run(
        self, progress: Callable[[float, float], None]
    ) -> tuple[FitResults, tuple[np.ndarray, np.ndarray]]:
        """Returns results [S·L, P, J, ...], and mean and scale [S·L, J, D]."""
        items, (n_layers, n_fits) = self.sites.items(), self.chunk_sizes()
        in_flight: collections.deque[list[FitResults]] = collections.deque()
        parts, moments = [], []
        for start in range(0, len(items), n_layers):
            layers = [self.prepare(*item) for item in items[start : start + n_layers]]
            moments += [layer.moments for layer in layers]
            if len(in_flight) == _n_in_flight():
                parts.append(self._fetch(in_flight.popleft()))
                progress(len(parts) * n_layers, len(items))
            filled = layers + layers[-1:] * (n_layers - len(layers))  # one shape for all chunks
            in_flight.append(self._dispatch(filled, n_fits))
        parts += map(self._fetch, in_flight)
        progress(len(items), len(items))
        results = jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(items)], *parts)
        self._finish_in_float64(results)
        means, scales = zip(*moments)
        return results, (np.stack(means), np.stack(scales))

    def chunk_sizes(self) -> tuple[int, int]:
        """Returns how many layers and fits go together: equal parts, as many as fit in memory."""
        n_items, n_fits = len(self.sites.items()), len(self.rows.train)
        per_layer, per_fit = self.peak_bytes()
        room = budget(None, _BYTES) // _n_in_flight()
        fits = equal_chunk_size(n_fits, int(max(1, (room - per_layer) // per_fit)))
        # On a CPU layers run one by one, so that none waits for the steps of another.
        layers = 1 if _is_cpu() else int(max(1, room // (per_layer + per_fit * fits)))
        return equal_chunk_size(n_items, self.chunk or layers), fits

    def peak_bytes(self) -> tuple[int, int]:
        """Returns peak bytes per layer and per fit: the arrays alive at once in a solver step."""
        _, n, d = self.sites.shape
        k, n_penalties = self.n_classes, len(self.penalties)
        if k == 1:
            return 4 * (n * d + d * d), 4 * (n * d + 3 * d * d * (1 + n_penalties))
        per_fit = 8 * k * n + 10 * k * d + n_penalties * (k * d + n)
        return 4 * (2 * n * d + 4 * d * d), 4 * per_fit

    def prepare(self, site: int, layer: int) -> _LayerInputs:
        """Reads a layer and computes the moments of its features in float64."""
        x = self.sites.read(site, layer)
        middle = x.mean(0)
        spread = _nonzero(x.std(0), x) if self.standardize else np.ones(x.shape[1])
        x = (x - middle) / spread
        rows = self.rows.train / self.rows.train.sum(1, keepdims=True)
        shift = rows @ x
        # Without standardisation features are still centred for the solver. The bias is not
        # penalised, so the objective is the same.
        scale = np.ones_like(shift)
        if self.standardize:
            scale = _nonzero(np.sqrt(np.maximum(rows @ x**2 - shift**2, 0)), x)
        moments = middle + shift * spread, scale * spread
        wide = x, shift, scale, *moments
        x, shift, scale, mean, deviation = (array.astype(np.float32) for array in wide)
        return _LayerInputs(x, shift, scale, (mean, deviation))

    def _dispatch(self, layers: list[_LayerInputs], n_fits: int) -> list[FitResults]:
        """Starts the fits of a chunk of layers, and returns results that are still computed."""
        x, shift, scale = (np.stack([layer[i] for layer in layers]) for i in range(3))
        parts = []
        for fits in _blocks(len(self.rows.train), n_fits):
            parts.append(
                compiled.call(
                    solve_layers,
                    self._problem(x, shift[:, fits], scale[:, fits], fits),
                    self.rows.test[fits],
                    np.float32(self.penalties),
                    np.float32(self.tol),
                    np.int32(self.max_iter),
                    n_classes=self.n_classes,
                    is_vmapped=not _is_cpu(),
                )
            )
        return parts

    def _fetch(self, parts: list[FitResults]) -> FitResults:
        n = len(self.rows.train)
        host = jax.device_get(parts)
        return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=2)[:, :, :n], *host)

    def _finish_in_float64(self, results: FitResults) -> None:
        """Continues the fits that the device left above `tol`, layer by layer, in place."""
        is_above = ~(results.solution.gap <= self.tol)
        every_fit = np.arange(len(self.rows.train))
        for i in np.flatnonzero(is_above.any((1, 2))):
            layer = self.prepare(*self.sites.items()[i])
            problem = self._problem(layer.x, layer.shift, layer.scale, every_fit)
            of_layer = jax.tree.map(lambda leaf, i=i: leaf[i], results)
            finish.finish_layer(
                of_layer, problem, self.rows.test, self.penalties, self.tol, self.max_iter
            )

    def _problem(
        self, x: np.ndarray, shift: np.ndarray, scale: np.ndarray, fits: np.ndarray
    ) -> Problem:
        """Makes the problem of some fits, of NumPy arrays that `compiled.call` transfers."""
        kind = np.int32 if self.n_classes > 1 else np.float32
        labels, rows = self.rows.targets[fits].astype(kind), self.rows.train[fits]
        arrays = x, shift, scale, labels, rows.astype(np.float32)
        return Problem(*cast(tuple[Array, Array, Array, Array, Array], arrays))


def _is_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _n_in_flight() -> int:
    """Returns how many chunks are dispatched at a time.

    On a CPU they run side by side; elsewhere the next one is prepared while one runs.
    """
    if not _is_cpu():
        return 2
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(_MAX_IN_FLIGHT, cores)


def _blocks(n: int, size: int) -> Iterator[np.ndarray]:
    """Yields indices in parts of one size; the last part repeats its last index."""
    for start in range(0, n, size):
        yield np.minimum(np.arange(start, start + size), n - 1)


def _nonzero(spread: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Replaces the spread of a constant feature by 1, as scikit-learn's StandardScaler does."""
    noise = 1e-7 * np.abs(x).max(0)
    return np.where(spread > noise, spread, 1.0)
