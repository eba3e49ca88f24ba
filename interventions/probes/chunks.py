"""Runs the fits of a bank in chunks of layers that fit into memory."""

import collections
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxtyping import Array

from interventions.memory_budget import memory_budget
from interventions.probes import device_path, finish, inputs
from interventions.probes.objective import Problem
from interventions.probes.padding import pad_to, padded_size
from interventions.probes.raw_layers import stack_raw
from interventions.probes.solve import FitResults, solve_layers, standardise_and_solve_layers
from interventions.probes.standardise import (
    Moments,
    RawLayers,
    StandardisedLayers,
    standardise_on_host,
)
from interventions.probes.targets import FitTargets
from jaxasr import compiled
from jaxasr.meshes import equal_chunk_size

# Bytes for all dispatched chunks on a CPU, in addition to X.
_CPU_BUDGET_BYTES = 1 << 30
_MAX_DISPATCHED_CHUNKS = 8  # largest number of chunks that run at the same time on a CPU


# Devices that share the layers of a bank on a mesh at least. Without a mesh, the host reads the
# second chunk while the first is computed.
_SHARES_ON_MESH, _SHARES = 8, 2


class _Parts(NamedTuple):
    """Results of some layers in blocks of fits. Their computation may not have finished."""

    results: list[FitResults]
    moments: list[Moments]


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
    mesh: Mesh | None = None

    def run(self, progress: Callable[[float, float], None]) -> tuple[FitResults, Moments]:
        """Runs all fits.

        Args:
            progress: called as progress(layers done, layers in total).

        Returns:
            Results with leading axes [sites · layers, P, J], and the moments of the features.
        """
        pairs, (n_layers, n_fits) = self.sites.site_layer_pairs(), self.chunk_sizes()
        n_layers *= 1 if self.mesh is None else self.mesh.size
        load = self._load_raw if device_path.is_used() else self._load_standardised
        dispatched: collections.deque[_Parts] = collections.deque()
        finished = []
        for start in range(0, len(pairs), n_layers):
            # The last chunk is padded with layers of zeros, so that all chunks share one program.
            layers = load(pairs[start : start + n_layers], n_layers)
            if len(dispatched) == _max_dispatched(self.mesh):
                # Reading the oldest chunk waits for its fits, which limits the memory in use.
                finished.append(self._copy_to_host(dispatched.popleft()))
                progress(len(finished) * n_layers, len(pairs))
            dispatched.append(self._dispatch(layers, n_fits))
        finished += map(self._copy_to_host, dispatched)
        progress(len(pairs), len(pairs))
        results, moments = jax.tree.map(
            lambda *leaves: np.concatenate(leaves)[: len(pairs)], *finished
        )
        self._check_finite(moments.is_finite)
        self._finish_in_float64(results, moments)
        return results, moments

    def chunk_sizes(self) -> tuple[int, int]:
        """Returns the number of layers per device, and the number of fits per call of the solver.

        The numbers are as large as memory allows, and give chunks of nearly equal size. They do not
        depend on the number of devices, so that results do not depend on it.
        """
        n_layers_total, n_fits = len(self.sites.site_layer_pairs()), len(self.fit_targets.train)
        per_layer, per_fit = self.peak_bytes()
        n_dispatched = _max_dispatched(self.mesh)
        bytes_per_chunk = memory_budget(None, _CPU_BUDGET_BYTES) // n_dispatched
        fits = equal_chunk_size(n_fits, int(max(1, (bytes_per_chunk - per_layer) // per_fit)))
        if self.chunk or not device_path.is_used():
            # Layers need different numbers of steps. On a CPU each chunk therefore has one layer.
            return equal_chunk_size(n_layers_total, self.chunk or 1), fits
        shares = _SHARES if self.mesh is None else _SHARES_ON_MESH
        by_memory = int(bytes_per_chunk // (per_layer + per_fit * fits))
        return equal_chunk_size(n_layers_total, min(by_memory, -(-n_layers_total // shares))), fits

    def peak_bytes(self) -> tuple[int, int]:
        """Estimates the peak bytes per layer and per fit from the arrays of a solver step."""
        n, d = self._padded_shape()
        k, n_penalties = self.n_classes, len(self.penalties)
        if k == 1:  # ridge regression
            return 4 * (2 * n * d + d * d), 4 * (n * d + 3 * d * d * (1 + n_penalties))
        per_fit = 8 * k * n + 10 * k * d + n_penalties * (k * d + n)
        return 4 * (3 * n * d + 4 * d * d), 4 * per_fit

    def _padded_shape(self) -> tuple[int, int]:
        _, n, d = self.sites.shape
        return padded_size(n), padded_size(d)

    def _load_standardised(
        self, pairs: list[tuple[int, int]], n_layers: int
    ) -> tuple[StandardisedLayers, Moments]:
        """Reads layers, and standardises them by NumPy."""
        shape = self._padded_shape()
        train, layers = self.fit_targets.train, []
        for pair in pairs:
            x = self.sites.read(*pair)
            layers.append(standardise_on_host(x, train, shape, standardize=self.standardize))
        if n_layers == 1:
            return layers[0]
        joined: Any = jax.tree.map(lambda *leaves: np.concatenate(leaves), *layers)
        features, moments = joined
        by_fit = n_layers, len(train), shape[1]
        arrays: Any = (
            pad_to(features.x, (n_layers, *shape)),
            pad_to(features.shift, by_fit),
            pad_to(features.scale, by_fit, fill=1),
        )
        padded = StandardisedLayers(*arrays)
        return padded, moments

    def _load_raw(self, pairs: list[tuple[int, int]], n_layers: int) -> tuple[RawLayers, None]:
        """Reads layers without computing anything that an accelerator can compute."""
        arrays = [self.sites.read_raw(*pair) for pair in pairs]
        return stack_raw(arrays, n_layers, self._padded_shape()), None

    def _dispatch(
        self, loaded: tuple[StandardisedLayers | RawLayers, Moments | None], n_fits: int
    ) -> _Parts:
        """Starts the fits of a chunk of layers in blocks of `n_fits`, without waiting for them."""
        layers, moments = loaded
        by_layer = P() if self.mesh is None else P(self.mesh.axis_names)
        settings = np.float32(self.penalties), np.float32(self.tol), np.int32(self.max_iter)
        n_rows = self.sites.shape[1]
        call = functools.partial(
            compiled.call_on_mesh, self.mesh, out_specs=by_layer, n_classes=self.n_classes
        )
        # Every block of fits reads the same features, so they are transferred once.
        if n_fits < len(self.fit_targets.train):
            sharding = None if self.mesh is None else NamedSharding(self.mesh, by_layer)
            layers = layers._replace(x=jax.device_put(layers.x, sharding))
        parts = _Parts([], [])
        for fits in _equal_blocks(len(self.fit_targets.train), n_fits):
            targets = self.fit_targets.select(fits).pad(self._padded_shape()[0])
            if isinstance(layers, RawLayers):
                results, of_block = call(
                    standardise_and_solve_layers,
                    layers,
                    np.int32(n_rows),
                    targets,
                    *settings,
                    specs=(by_layer, *[P()] * 5),
                    standardize=self.standardize,
                )
                parts.moments.append(of_block)
            else:
                block = layers._replace(shift=layers.shift[:, fits], scale=layers.scale[:, fits])
                results = call(
                    solve_layers, block, targets, *settings, specs=(by_layer, *[P()] * 4)
                )
            parts.results.append(results)
        return parts if moments is None else parts._replace(moments=[moments])

    def _copy_to_host(self, parts: _Parts) -> tuple[FitResults, Moments]:
        """Waits for the fits of a chunk, joins them and drops the padding."""
        n_fits, (_, n, d) = len(self.fit_targets.train), self.sites.shape
        results, moments = jax.device_get(parts)
        # The fits are axis 2 of [layers, penalties, fits].
        joined: FitResults = jax.tree.map(
            lambda *leaves: np.concatenate(leaves, axis=2)[:, :, :n_fits], *results
        )
        solution = joined.solution._replace(weights=joined.solution.weights[..., :d])
        joined = joined._replace(solution=solution, predictions=joined.predictions[..., :n])
        mean, scale = (
            np.concatenate([getattr(block, name) for block in moments], axis=1)[:, :n_fits, :d]
            for name in ("mean", "scale")
        )
        return joined, Moments(mean, scale, moments[0].is_finite)  # pyright: ignore

    def _check_finite(self, is_finite: np.ndarray) -> None:
        """Raises ValueError if the program of an accelerator has met NaN or infinity."""
        for i in np.flatnonzero(~is_finite):
            self.sites.read(*self.sites.site_layer_pairs()[i])  # raises with the rows
            raise ValueError("X: expected activations in the range of float32. Scale them.")

    def _finish_in_float64(self, results: FitResults, moments: Moments) -> None:
        """Continues, in place and in float64, the fits whose optimality gap is above `tol`."""
        # Not written as `gap > tol`, because NaN must count as above.
        is_above = ~(results.solution.optimality_gap <= self.tol)
        targets = self.fit_targets
        for i in np.flatnonzero(is_above.any((1, 2))):
            # With the moments of the bank, the gap is that of the probes that the bank stores.
            x = self.sites.read(*self.sites.site_layer_pairs()[i])
            arrays = x, moments.mean[i], moments.scale[i], targets.targets, targets.train
            problem = Problem(*cast(tuple[Array, Array, Array, Array, Array], arrays))
            # Views of the arrays, so `finish_layer` changes `results`.
            layer_results = jax.tree.map(lambda leaf, i=i: leaf[i], results)
            finish.finish_layer(
                layer_results, problem, targets.test, self.penalties, self.tol, self.max_iter
            )


def _max_dispatched(mesh: Mesh | None) -> int:
    """Returns the largest number of chunks that are dispatched and not yet read.

    On a CPU, chunks run at the same time, one per core. On an accelerator or a mesh, one chunk runs
    while the host prepares the next.
    """
    if device_path.is_used() or mesh is not None:
        return 2
    # Only Linux reports the cores that this process may use.
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(_MAX_DISPATCHED_CHUNKS, cores)


def _equal_blocks(n: int, size: int) -> Iterator[np.ndarray]:
    """Yields the indices 0 to n - 1 in blocks of `size`. The last is padded with index n - 1."""
    for start in range(0, n, size):
        yield np.minimum(np.arange(start, start + size), n - 1)
