"""Runs the fits of a bank in chunks of layers that fit into memory."""

import collections
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import jax
import numpy as np
from jaxtyping import Array

from interventions.memory_budget import memory_budget
from interventions.probes import finish, inputs
from interventions.probes.objective import Problem
from interventions.probes.solve import FitResults, solve_layers
from jaxasr import compiled
from jaxasr.meshes import equal_chunk_size
from jaxasr.target_device import target_device

# Bytes for all dispatched chunks on a CPU, in addition to X.
_CPU_BUDGET_BYTES = 1 << 30
_MAX_DISPATCHED_CHUNKS = 8  # largest number of chunks that run at the same time on a CPU


class FitTargets(NamedTuple):
    """Targets and masks of J = seeds × folds fits.

    Attributes:
        targets: class numbers or values, [J, N].
        train: mask of training rows, bool [J, N].
        test: mask of test rows, bool [J, N].
    """

    targets: np.ndarray
    train: np.ndarray
    test: np.ndarray

    @classmethod
    def from_masks(cls, targets: np.ndarray, train: np.ndarray, test: np.ndarray) -> "FitTargets":
        """Flattens targets [seeds, N] and masks [seeds, folds, N] to one row per fit."""
        n_seeds, n_folds, n = train.shape
        targets = np.broadcast_to(targets[:, None], train.shape)
        return cls(*(array.reshape(n_seeds * n_folds, n) for array in (targets, train, test)))


class _LayerInputs(NamedTuple):
    """Input of the solver for one layer, and the moments of its features.

    Attributes:
        x, shift, scale: float32 arrays, as in `Problem`.
        moments: mean and standard deviation of each feature [J, D], in the units of X, which the
            bank stores.
    """

    x: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    moments: tuple[np.ndarray, np.ndarray]


class ChunkedFit(NamedTuple):
    """Runs all fits of one call of `fit_probes`.

    The attributes are the arguments of `fit_probes` after its checks.
    """

    sites: inputs.SiteActivations
    fit_targets: FitTargets
    penalties: np.ndarray
    n_classes: int
    standardize: bool
    tol: float
    max_iter: int
    chunk: int | None

    def run(
        self, progress: Callable[[float, float], None]
    ) -> tuple[FitResults, tuple[np.ndarray, np.ndarray]]:
        """Runs all fits.

        Args:
            progress: called as progress(layers done, layers in total).

        Returns:
            Results with leading axes [sites · layers, P, J], and the mean and scale of the
            features, each [sites · layers, J, D].
        """
        pairs, (n_layers, n_fits) = self.sites.site_layer_pairs(), self.chunk_sizes()
        dispatched: collections.deque[list[FitResults]] = collections.deque()
        parts, moments = [], []
        for start in range(0, len(pairs), n_layers):
            layers = [self.prepare_layer(*pair) for pair in pairs[start : start + n_layers]]
            moments += [layer.moments for layer in layers]
            if len(dispatched) == _max_dispatched():
                # Reading the oldest chunk waits for its fits, which limits the memory in use.
                parts.append(self._copy_to_host(dispatched.popleft()))
                progress(len(parts) * n_layers, len(pairs))
            # The last chunk is padded, so that all chunks share one executable.
            padded = layers + layers[-1:] * (n_layers - len(layers))
            dispatched.append(self._dispatch(padded, n_fits))
        parts += map(self._copy_to_host, dispatched)
        progress(len(pairs), len(pairs))
        results = jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(pairs)], *parts)
        self._finish_in_float64(results)
        means, scales = zip(*moments)
        return results, (np.stack(means), np.stack(scales))

    def chunk_sizes(self) -> tuple[int, int]:
        """Returns the number of layers per chunk, and the number of fits per call of the solver.

        The numbers are as large as memory allows, and give chunks of nearly equal size.
        """
        n_layers_total, n_fits = len(self.sites.site_layer_pairs()), len(self.fit_targets.train)
        per_layer, per_fit = self.peak_bytes()
        bytes_per_chunk = memory_budget(None, _CPU_BUDGET_BYTES) // _max_dispatched()
        fits = equal_chunk_size(n_fits, int(max(1, (bytes_per_chunk - per_layer) // per_fit)))
        # Layers need different numbers of steps. On a CPU each chunk therefore has one layer.
        layers = 1 if _is_cpu() else int(max(1, bytes_per_chunk // (per_layer + per_fit * fits)))
        return equal_chunk_size(n_layers_total, self.chunk or layers), fits

    def peak_bytes(self) -> tuple[int, int]:
        """Estimates the peak bytes per layer and per fit from the arrays of a solver step."""
        _, n, d = self.sites.shape
        k, n_penalties = self.n_classes, len(self.penalties)
        if k == 1:  # ridge regression
            return 4 * (n * d + d * d), 4 * (n * d + 3 * d * d * (1 + n_penalties))
        per_fit = 8 * k * n + 10 * k * d + n_penalties * (k * d + n)
        return 4 * (2 * n * d + 4 * d * d), 4 * per_fit

    def prepare_layer(self, site: int, layer: int) -> _LayerInputs:
        """Reads a layer and computes the moments of its features in float64."""
        x = self.sites.read(site, layer)
        overall_mean = x.mean(0)
        spread = _replace_zero_spread(x.std(0), x) if self.standardize else np.ones(x.shape[1])
        x = (x - overall_mean) / spread
        # Row j averages over the training rows of fit j.
        row_weights = self.fit_targets.train / self.fit_targets.train.sum(1, keepdims=True)
        shift = row_weights @ x
        # The solver gets centred features even without standardisation. This does not change the
        # optimum, because the bias is not penalised.
        scale = np.ones_like(shift)
        if self.standardize:
            scale = _replace_zero_spread(np.sqrt(np.maximum(row_weights @ x**2 - shift**2, 0)), x)
        moments = overall_mean + shift * spread, scale * spread
        arrays = x, shift, scale, *moments
        x, shift, scale, mean, deviation = (array.astype(np.float32) for array in arrays)
        return _LayerInputs(x, shift, scale, (mean, deviation))

    def _dispatch(self, layers: list[_LayerInputs], n_fits: int) -> list[FitResults]:
        """Starts the fits of a chunk of layers in blocks of `n_fits`, without waiting for them."""
        x, shift, scale = (np.stack([layer[i] for layer in layers]) for i in range(3))
        parts = []
        for fits in _equal_blocks(len(self.fit_targets.train), n_fits):
            parts.append(
                compiled.call(
                    solve_layers,
                    self._make_problem(x, shift[:, fits], scale[:, fits], fits),
                    self.fit_targets.test[fits],
                    np.float32(self.penalties),
                    np.float32(self.tol),
                    np.int32(self.max_iter),
                    n_classes=self.n_classes,
                    is_vmapped=not _is_cpu(),
                )
            )
        return parts

    def _copy_to_host(self, parts: list[FitResults]) -> FitResults:
        """Waits for the fits of a chunk, joins them and drops the padding."""
        n = len(self.fit_targets.train)
        host_parts = jax.device_get(parts)
        # The fits are axis 2 of [layers, penalties, fits].
        return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=2)[:, :, :n], *host_parts)

    def _finish_in_float64(self, results: FitResults) -> None:
        """Continues, in place and in float64, the fits whose optimality gap is above `tol`."""
        # Not written as `gap > tol`, because NaN must count as above.
        is_above = ~(results.solution.optimality_gap <= self.tol)
        every_fit = np.arange(len(self.fit_targets.train))
        for i in np.flatnonzero(is_above.any((1, 2))):
            layer = self.prepare_layer(*self.sites.site_layer_pairs()[i])
            problem = self._make_problem(layer.x, layer.shift, layer.scale, every_fit)
            # Views of the arrays, so `finish_layer` changes `results`.
            layer_results = jax.tree.map(lambda leaf, i=i: leaf[i], results)
            finish.finish_layer(
                layer_results,
                problem,
                self.fit_targets.test,
                self.penalties,
                self.tol,
                self.max_iter,
            )

    def _make_problem(
        self, x: np.ndarray, shift: np.ndarray, scale: np.ndarray, fits: np.ndarray
    ) -> Problem:
        """Makes the problem of some fits. `compiled.call` transfers its NumPy arrays."""
        target_dtype = np.int32 if self.n_classes > 1 else np.float32
        labels = self.fit_targets.targets[fits].astype(target_dtype)
        rows = self.fit_targets.train[fits]
        arrays = x, shift, scale, labels, rows.astype(np.float32)
        return Problem(*cast(tuple[Array, Array, Array, Array, Array], arrays))


def _is_cpu() -> bool:
    return target_device().platform == "cpu"


def _max_dispatched() -> int:
    """Returns the largest number of chunks that are dispatched and not yet read.

    On a CPU, chunks run at the same time, one per core. On an accelerator, one chunk runs while the
    host prepares the next.
    """
    if not _is_cpu():
        return 2
    # Only Linux reports the cores that this process may use.
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(_MAX_DISPATCHED_CHUNKS, cores)


def _equal_blocks(n: int, size: int) -> Iterator[np.ndarray]:
    """Yields the indices 0 to n - 1 in blocks of `size`. The last is padded with index n - 1."""
    for start in range(0, n, size):
        yield np.minimum(np.arange(start, start + size), n - 1)


def _replace_zero_spread(spread: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Replaces the spread of a constant feature by 1, as scikit-learn's StandardScaler does."""
    rounding = 1e-7 * np.abs(x).max(0)  # about the rounding error of float32
    return np.where(spread > rounding, spread, 1.0)
