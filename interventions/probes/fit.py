"""`fit_probes`: all layers, penalties, folds and seeds of a linear probe in one compiled program."""

import collections
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from threadpoolctl import threadpool_limits

from interventions.memory import budget
from interventions.probes import finish, folds as _folds, inputs, logistic, ridge
from interventions.probes.bank import Bank
from interventions.probes.logistic import Solution
from interventions.probes.objective import Problem
from jaxasr import compiled

_BYTES = 1 << 30  # of a CPU's memory, beside X; of an accelerator's, a share of what is free
_TOLERANCE = 1e-6
_MOST_AT_ONCE = 8


class Fits(NamedTuple):
    """The fits of every layer: targets, training and test rows, each [J, N] with J = seeds × folds, seeds outside."""

    targets: np.ndarray
    train: np.ndarray
    test: np.ndarray


class Found(NamedTuple):
    """What a layer's fits come to, [P, J, ...]. predictions [P, J, N]: class numbers or values, of all rows."""

    solution: Solution
    predictions: Array
    score: Float[Array, "P J"]
    log_loss: Float[Array, "P J"]


def fit_probes(
    X: Any,
    y: Any,
    groups: Any = None,
    penalties: Sequence[float] = (1.0,),
    folds: int | _folds.Splits = 5,
    seeds: Sequence[int] = (0,),
    *,
    target: str = "class",
    standardize: bool = True,
    max_iter: int = 500,
    tol: float = _TOLERANCE,
    chunk: int | None = None,
    names: Sequence[str] | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> Bank:
    """Linear probes of every layer × penalty × fold × seed (× site).

    X: [L, N, D] activations, [S, L, N, D] with `names` of the sites, or {site: [L, N, D]}; anything that is indexed by layer and
        gives arrays, such as a zarr array: one layer at a time is read, as float32 on the device.
    y: [N] classes (int or str), or, for target="value", numbers: then it is ridge regression. [seeds, N]: other targets for each seed.
    groups: [N], speaker or recording or word; no group is ever on both sides of a fold.
    penalties: λ of summed cross-entropy + λ/2 ‖W‖² (scikit-learn's C = 1/λ), or of ½‖residual‖² + λ/2 ‖w‖² (its alpha).
    folds: their number, stratified by class (by quantile, for values), or pairs of train and test indices. seeds: of the shuffling.
    standardize: by mean and standard deviation of the fold's training rows.
    tol: a fit has converged when (objective - optimum) / objective is estimated below it; see `Bank.gap` and `Bank.gradient_norm`. A fit
        that float32 does not take there is finished in float64. A warning counts the fits that `max_iter` steps leave above `tol`.
    chunk: layers at a time; default: what 1 GiB holds on a CPU. progress: called with what is done and what is to do.

    Raises ValueError for one class only, classes with fewer rows than folds, groups that cannot be split, what is not finite,
    and shapes that do not fit.
    """
    if target not in ("class", "value"):
        raise ValueError(f"target: expected 'class' or 'value', got {target!r}.")
    if not len(seeds):
        raise ValueError("seeds: expected at least one.")
    sites, strengths = inputs.sites(X, names), inputs.penalties(penalties)
    n = sites.shape[1]
    targets, classes = (
        inputs.labels(y, n, len(seeds))
        if target == "class"
        else (inputs.values(y, n, len(seeds)), np.array([]))
    )
    strata = targets if target == "class" else inputs.strata(targets, folds)
    train, test = _folds.masks(strata, groups, folds, seeds, classes)
    fits = _fits(targets, train, test)
    order = np.argsort(
        -strengths
    )  # each starts from the optimum of the one before, so the strongest goes first
    run = _Run(
        sites, fits, strengths[order], max(len(classes), 1), standardize, tol, max_iter, chunk
    )
    # Factorisations are small, and layers run side by side: threads of BLAS would only wait for each other.
    with threadpool_limits(1):
        found, scales = run.all(progress or (lambda done, total: None))
    found = jax.tree.map(lambda leaf: leaf[:, np.argsort(order)], found)
    bank = Bank.of(found, scales, sites, targets, test, classes, strengths, np.asarray(seeds))
    _warn(bank.gap.values, tol, max_iter)
    return bank


def _warn(gap: np.ndarray, tol: float, max_iter: int) -> None:
    open_ = ~(gap <= tol)  # NaN as well
    if open_.any():
        warnings.warn(
            f"fit_probes: {open_.sum()} of {gap.size} fits have not come within tol={tol:g} of their optimum: Bank.gap says how far. "
            f"Allow more than max_iter={max_iter} steps or a larger tol (weights in float32 hold no less than about 1e-12), "
            "or leave out the weakest penalties.",
            stacklevel=3,
        )


def _fits(targets: np.ndarray, train: np.ndarray, test: np.ndarray) -> Fits:
    n_seeds, n_folds, n = train.shape
    each = np.broadcast_to(targets[:, None], train.shape)
    return Fits(*(a.reshape(n_seeds * n_folds, n) for a in (each, train, test)))


class _Run(NamedTuple):
    """One call of `fit_probes` after its checks."""

    sites: inputs.Sites
    fits: Fits
    penalties: np.ndarray
    n_classes: int
    standardize: bool
    tol: float
    max_iter: int
    chunk: int | None

    def all(
        self, progress: Callable[[float, float], None]
    ) -> tuple[Found, tuple[np.ndarray, np.ndarray]]:
        """Everything [S·L, P, J, ...], and mean and scale [S·L, J, D]."""
        items, (size, block) = self.sites.items(), self.sizes()
        running: collections.deque[list[Found]] = collections.deque()
        parts, scales = [], []
        for start in range(0, len(items), size):
            some = [self.prepare(*item) for item in items[start : start + size]]
            scales += [item[1] for item in some]
            if len(running) == _at_once():
                parts.append(self._fetched(running.popleft()))
                progress(len(parts) * size, len(items))
            running.append(self._begun(some + some[-1:] * (size - len(some)), block))
        parts += map(self._fetched, running)
        progress(len(items), len(items))
        found = jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(items)], *parts)
        self.finish(found)
        return found, tuple(np.stack(leaf) for leaf in zip(*scales))

    def sizes(self) -> tuple[int, int]:
        """Layers and fits that go together: equal parts, as many as the budget holds; on a CPU single layers, none waiting for another."""
        n_items, fits = len(self.sites.items()), len(self.fits.train)
        fixed, each = self.bytes()
        room = budget(None, _BYTES) // _at_once()
        block = _evenly(fits, int(max(1, (room - fixed) // each)))
        most = 1 if _on_cpu() else int(max(1, room // (fixed + each * block)))
        return _evenly(n_items, self.chunk or most), block

    def bytes(self) -> tuple[int, int]:
        """Peak bytes of a layer, and of one fit in it: the arrays alive at once in the solver's step."""
        _, n, d = self.sites.shape
        k = self.n_classes
        if k == 1:
            return 4 * (n * d + d * d), 4 * (n * d + 3 * d * d * (1 + len(self.penalties)))
        return 4 * (2 * n * d + 4 * d * d), 4 * (
            8 * k * n + 10 * k * d + len(self.penalties) * (k * d + n)
        )

    def prepare(
        self, site: int, layer: int
    ) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, np.ndarray]]:
        """float32 x, shift and scale of the solver, and mean and scale in the units of X."""
        x = self.sites.read(site, layer)
        middle, spread = (
            x.mean(0),
            _positive(x.std(0), x) if self.standardize else np.ones(x.shape[1]),
        )
        x = (x - middle) / spread
        rows = self.fits.train / self.fits.train.sum(1, keepdims=True)
        shift = rows @ x
        # Without standardisation features are still centred while solving: the bias is free, so the objective is the same.
        scale = (
            _positive(np.sqrt(np.maximum(rows @ x**2 - shift**2, 0)), x)
            if self.standardize
            else np.ones_like(shift)
        )
        solved = tuple(a.astype(np.float32) for a in (x, shift, scale))
        return solved, (
            (middle + shift * spread).astype(np.float32),
            (scale * spread).astype(np.float32),
        )

    def _begun(self, some: list, block: int) -> list[Found]:
        """A chunk of layers, one part for each block of fits; what it gives is still being computed."""
        x, shift, scale = (np.stack([item[0][i] for item in some]) for i in range(3))
        parts = []
        for fits in _blocks(len(self.fits.train), block):
            problem = Problem(x, shift[:, fits], scale[:, fits], *self._rows(fits))
            values = np.float32(self.penalties), np.float32(self.tol), np.int32(self.max_iter)
            how = {"n_classes": self.n_classes, "together": not _on_cpu()}
            parts.append(compiled.call(_solve, problem, self.fits.test[fits], *values, **how))
        return parts

    def _fetched(self, parts: list[Found]) -> Found:
        n = len(self.fits.train)
        return jax.tree.map(
            lambda *leaves: np.concatenate(leaves, axis=2)[:, :, :n], *jax.device_get(parts)
        )

    def finish(self, found: Found) -> None:
        """Finishes in float64 what the device left above `tol`, layer by layer, in place."""
        for i in np.flatnonzero(~(found.solution.gap <= self.tol).all((1, 2))):
            x, shift, scale = self.prepare(*self.sites.items()[i])[0]
            problem = Problem(x, shift, scale, *self._rows(np.arange(len(self.fits.train))))
            layer = jax.tree.map(lambda leaf, i=i: leaf[i], found)
            finish.finish(layer, problem, self.fits.test, self.penalties, self.tol, self.max_iter)

    def _rows(self, fits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kind = np.int32 if self.n_classes > 1 else np.float32
        return self.fits.targets[fits].astype(kind), self.fits.train[fits].astype(np.float32)


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _at_once() -> int:
    """Chunks in hand: on a CPU they run side by side, elsewhere one is made ready while another runs."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(_MOST_AT_ONCE, cores) if _on_cpu() else 2


def _evenly(n: int, most: int) -> int:
    """The size of equal parts of `n`, at most `most`."""
    return -(-n // -(-n // most))


def _blocks(n: int, size: int) -> Iterator[np.ndarray]:
    """Indices in parts of one size; the last part repeats its last."""
    for start in range(0, n, size):
        yield np.minimum(np.arange(start, start + size), n - 1)


def _positive(spread: np.ndarray, x: np.ndarray) -> np.ndarray:
    """1 where a feature does not vary, as scikit-learn's StandardScaler has it."""
    noise = 1e-7 * np.abs(x).max(0)
    return np.where(spread > noise, spread, 1.0)


def _solve(
    problem: Problem,
    test: Array,
    penalties: Float[Array, "P"],
    tol: Array,
    max_iter: Array,
    *,
    n_classes: int,
    together: bool,
) -> Found:
    """All fits of a chunk of layers, [C, P, J, ...]: `together` in step, or one layer after the other, each for as long as it takes."""

    def layer(x: Array, shift: Array, scale: Array) -> Found:
        here = problem._replace(x=x, shift=shift, scale=scale)
        if n_classes == 1:
            return _judged_values(here, test, ridge.solve_path(here, penalties))
        return _judged_classes(
            here, test, penalties, logistic.solve_path(here, penalties, n_classes, tol, max_iter)
        )

    with jax.default_matmul_precision("highest"):
        layers = problem.x, problem.shift, problem.scale
        return (
            jax.vmap(layer)(*layers) if together else jax.lax.map(lambda one: layer(*one), layers)
        )


def _outputs(
    problem: Problem, weights: Float[Array, "J K D"], bias: Float[Array, "J K"]
) -> Float[Array, "K J N"]:
    w = weights.swapaxes(0, 1) / problem.scale
    out = (w.reshape(-1, w.shape[-1]) @ problem.x.T).reshape(*w.shape[:2], -1)
    return out + (bias.T - (w * problem.shift).sum(-1))[..., None]


def _judged_classes(
    problem: Problem, test: Array, penalties: Float[Array, "P"], found: Solution
) -> Found:
    """Scores of every fit, and its objective from the weights alone: the logits that the solver carried along have drifted."""
    doubled = 2 if found.weights.shape[2] == 2 else 1  # as in `logistic.solve_path`

    def one(penalty: Array, weights: Array, bias: Array) -> tuple[Array, Array, Array, Array]:
        logits = _outputs(problem, weights, bias)
        loss = _surprise(logits, problem.labels)
        objective = (loss * problem.rows).sum(-1) + doubled * penalty / 2 * (weights**2).sum((1, 2))
        guess = logits.argmax(0)
        return objective, guess, _mean(guess == problem.labels, test), _mean(loss, test)

    objective, *scores = jax.lax.map(lambda fit: one(*fit), (penalties, found.weights, found.bias))
    return Found(found._replace(objective=objective), *scores)


def _surprise(logits: Float[Array, "K J N"], labels: Array) -> Float[Array, "J N"]:
    """-log p(label). The label's own share is left out of the sum, next to which float32 would lose the others'."""
    is_label = labels == jnp.arange(len(logits))[:, None, None]
    above = logits - jnp.where(is_label, logits, 0).sum(0)
    return jnp.logaddexp(0.0, jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, above), axis=0))


def _judged_values(problem: Problem, test: Array, found: Solution) -> Found:
    def one(weights: Array, bias: Array) -> tuple[Array, Array, Array]:
        guess = _outputs(problem, weights, bias)[0]
        error = _mean((guess - problem.labels) ** 2, test)
        spread = _mean((problem.labels - _mean(problem.labels, test)[:, None]) ** 2, test)
        return guess, 1 - error / spread, error

    return Found(found, *jax.lax.map(lambda both: one(*both), (found.weights, found.bias)))


def _mean(values: Float[Array, "J N"], test: Array) -> Float[Array, "J"]:
    return (values * test).sum(-1) / test.sum(-1)
