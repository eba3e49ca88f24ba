"""Probes on activations that do not fit into memory: AdamW over batches, all layers, penalties and seeds at once."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from interventions.probes import inputs
from interventions.probes.bank import Bank
from interventions.stats.categories import categories
from jaxasr import compiled

Batches = Callable[[], Iterable[tuple[Any, Any]]]


class Moments(NamedTuple):
    """Of a stream's first pass. mean, scale: [L, D]; rows counted by class."""

    mean: np.ndarray
    scale: np.ndarray
    counts: dict[Any, int]


def moments(batches: Batches) -> Moments:
    """Mean and standard deviation of every feature, and how many rows each class has (Chan et al. 1983). Raises ValueError for no rows."""
    n, mean, square, counts = 0, np.zeros(1), np.zeros(1), {}
    for X, y in batches():
        x = np.asarray(X, np.float64)
        if not np.isfinite(x).all():
            raise ValueError(
                "batches: expected finite activations, got NaN or infinity; leave these rows out."
            )
        away = x.mean(1) - mean
        total = n + x.shape[1]
        square = (
            square + ((x - x.mean(1, keepdims=True)) ** 2).sum(1) + away**2 * n * x.shape[1] / total
        )
        mean, n = mean + away * x.shape[1] / total, total
        for label, count in zip(*np.unique(_labels(X, y), return_counts=True)):
            counts[label.item()] = counts.get(label.item(), 0) + int(count)
    if len({isinstance(label, str) for label in counts}) > 1:
        raise ValueError(
            f"batches: expected classes of one kind, words or numbers, in all batches, got {list(counts)}."
        )
    if len(counts) < 2:
        raise ValueError(f"batches: expected rows of at least 2 classes, got {list(counts)}.")
    scale = np.sqrt(square / n)
    return Moments(mean, np.where(scale > 0, scale, 1), counts)


def fit_stream(
    batches: Batches,
    penalties: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0,),
    *,
    epochs: int = 10,
    learning_rate: float = 0.01,
) -> Bank:
    """Multinomial logistic probes by AdamW from a stream; the objective is that of `fit_probes`, all rows are training rows.

    batches: a function giving a fresh pass over (X [L, n, D], y [n]); the order may differ from pass to pass. One pass more than
    `epochs` is made, for `moments`. The rate falls to 0 along a cosine, and the last half of the steps is averaged.
    The bank has one fold and no accuracy: score it with `predict` on rows it has not seen. seeds: of the initial weights.
    Raises ValueError for fewer than two classes.
    """
    seen, penalties = moments(batches), inputs.penalties(penalties)
    classes = np.array(sorted(seen.counts))
    n = sum(seen.counts.values())
    n_steps = epochs * sum(1 for _ in batches())
    optimiser = optax.adamw(optax.cosine_decay_schedule(learning_rate, n_steps), weight_decay=0.0)
    layers, width = seen.mean.shape
    weights = _start(seeds, (layers, len(penalties), len(classes), width))
    state = (
        (weights, jnp.zeros(weights.shape[:-1])),
        optimiser.init((weights, jnp.zeros(weights.shape[:-1]))),
    )
    average, taken = state[0], 0
    strength = jnp.asarray(penalties * (2 if len(classes) == 2 else 1), jnp.float32)
    for step, (X, y) in enumerate(batch for _ in range(epochs) for batch in batches()):
        x = jnp.asarray((np.asarray(X) - seen.mean[:, None]) / seen.scale[:, None], jnp.float32)
        numbers = jnp.asarray(np.searchsorted(classes, _labels(X, y)), jnp.int32)
        state = compiled.call(_step, state, x, numbers, strength / n, optimiser=optimiser)
        if step >= n_steps // 2:
            taken += 1
            average = optax.incremental_update(state[0], average, 1 / taken)
    return _bank(average, seen, classes, penalties, np.asarray(seeds))


def _labels(X: Any, y: Any) -> np.ndarray:
    return categories(y, np.shape(X)[1], "batches: y")


def _start(seeds: Sequence[int], shape: tuple[int, ...]) -> Float[Array, "seed L P K D"]:
    return jnp.stack([0.01 * jax.random.normal(jax.random.key(seed), shape) for seed in seeds])


def _step(
    state: Any, x: Float[Array, "L n D"], y: Array, strength: Float[Array, "P"], *, optimiser: Any
) -> Any:
    (weights, bias), moments_ = state

    def loss(parameters: tuple) -> Array:
        w, b = parameters
        logits = jnp.einsum("slpkd,lnd->slpnk", w, x, precision="highest") + b[..., None, :]
        surprise = (
            jax.nn.logsumexp(logits, -1)
            - jnp.take_along_axis(logits, y[None, None, None, :, None], -1)[..., 0]
        )
        return (surprise.mean(-1) + strength / 2 * (w**2).sum((-1, -2))).sum()

    updates, moments_ = optimiser.update(jax.grad(loss)((weights, bias)), moments_, (weights, bias))
    return optax.apply_updates((weights, bias), updates), moments_


def _bank(
    average: tuple, seen: Moments, classes: np.ndarray, penalties: np.ndarray, seeds: np.ndarray
) -> Bank:
    weights, bias = (
        np.asarray(a - a.mean(3, keepdims=True)) for a in average
    )  # the classes' sum is free: 0, as in fit_probes
    dims = ("seed", "layer", "penalty", "class")
    variables: dict[str, Any] = {"weights": ((*dims, "feature"), weights), "bias": (dims, bias)}
    for name in ("mean", "scale"):
        variables[name] = (
            ("seed", "layer", "feature"),
            np.stack([getattr(seen, name)] * len(seeds)).astype(np.float32),
        )
    coords = {
        "layer": np.arange(weights.shape[1]),
        "penalty": penalties,
        "seed": seeds,
        "class": classes,
    }
    data = xr.Dataset(variables, coords).expand_dims(fold=[0])
    return Bank(
        data.transpose("layer", "penalty", "fold", "seed", ..., "class", "feature"), "class"
    )
