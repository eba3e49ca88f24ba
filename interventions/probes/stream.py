"""Fits probes with AdamW on batches of activations that do not fit into memory."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Int

from interventions.probes import inputs
from interventions.probes.bank import Bank
from interventions.stats.categories import categories
from jaxasr import compiled

# A function that starts a new pass over batches (X [L, n, D], y [n]).
Batches = Callable[[], Iterable[tuple[Any, Any]]]
# Weights and biases of all probes.
Parameters = tuple[Float[Array, "seed L P K D"], Float[Array, "seed L P K"]]


class Moments(NamedTuple):
    """Mean and standard deviation of the features of all batches, and the rows per class.

    Attributes:
        mean: mean of each feature, [L, D].
        scale: standard deviation of each feature, [L, D]; 1 for constant features.
        counts: number of rows of each class, {class: rows}.
    """

    mean: np.ndarray
    scale: np.ndarray
    counts: dict[Any, int]


def moments(batches: Batches) -> Moments:
    """Computes the moments of every feature and counts the rows of each class, in one pass.

    Args:
        batches: a function that starts a new pass over batches (X [L, n, D], y [n]).

    Returns:
        The moments.

    Raises:
        ValueError: activations are not finite, or there are fewer than two classes.

    Example:
        ```python
        import numpy as np

        from interventions.probes import stream

        y = np.arange(60) % 2
        X = np.random.default_rng(0).normal(size=(1, 60, 6))
        feature_moments = stream.moments(lambda: [(X[:, :30], y[:30]), (X[:, 30:], y[30:])])
        assert feature_moments.counts == {0: 30, 1: 30}
        ```

    References:
        Chan, Golub & LeVeque, "Algorithms for computing the sample variance" (1983).
    """
    n, mean, sum_of_squares, counts = 0, np.zeros(1), np.zeros(1), {}
    for X, y in batches():
        x = np.asarray(X, np.float64)
        if not np.isfinite(x).all():
            raise ValueError(
                "batches: expected finite activations, got NaN or infinity. Leave these rows out."
            )
        n_batch, batch_mean = x.shape[1], x.mean(1)
        shift, total = batch_mean - mean, n + n_batch
        # Squares around the mean of the batch, plus a correction for the distance of the means,
        # keep the digits that a difference of large sums would lose.
        batch_squares = ((x - x.mean(1, keepdims=True)) ** 2).sum(1)
        sum_of_squares = sum_of_squares + batch_squares + shift**2 * n * n_batch / total
        mean, n = mean + shift * n_batch / total, total
        for label, count in zip(*np.unique(_check_labels(X, y), return_counts=True)):
            counts[label.item()] = counts.get(label.item(), 0) + int(count)
    if len({isinstance(label, str) for label in counts}) > 1:
        raise ValueError(
            "batches: expected either strings or numbers as classes in all batches, "
            f"got {list(counts)}."
        )
    if len(counts) < 2:
        raise ValueError(f"batches: expected rows of at least 2 classes, got {list(counts)}.")
    scale = np.sqrt(sum_of_squares / n)
    return Moments(mean, np.where(scale > 0, scale, 1), counts)


def fit_stream(
    batches: Batches,
    penalties: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0,),
    *,
    epochs: int = 10,
    learning_rate: float = 0.01,
) -> Bank:
    """Fits multinomial logistic probes with AdamW on batches.

    Use this function if a single layer does not fit into memory. Otherwise `fit_probes` is faster
    and more exact. The objective is that of `fit_probes`, with all rows as training rows. The
    learning rate falls to 0 along a cosine. The weights are averaged over the last half of the
    steps.

    Args:
        batches: a function that starts a new pass over batches (X [L, n, D], y [n]). It is called
            `epochs` + 2 times. The order of batches may differ between passes.
        penalties: values of λ, as in `fit_probes`.
        seeds: seeds of the initial weights.
        epochs: number of passes over the batches in which the weights are trained.
        learning_rate: learning rate of the first step.

    Returns:
        A `Bank` of one fold, without scores. To score the bank, compare its predictions for
        held-out rows with their labels.

    Raises:
        ValueError: activations are not finite, or there are fewer than two classes.

    Example:
        ```python
        import numpy as np

        from interventions.probes import stream

        y = np.arange(60) % 2
        X = np.random.default_rng(0).normal(size=(1, 60, 6)) + 3 * y[:, None]
        bank = stream.fit_stream(lambda: ((X[:, i::3], y[i::3]) for i in range(3)), epochs=30)
        assert (bank.predict(X).values == y).mean() > 0.9
        ```

    References:
        Loshchilov & Hutter, "Decoupled weight decay regularization" (arXiv:1711.05101).
    """
    feature_moments, checked_penalties = moments(batches), inputs.check_penalties(penalties)
    classes = np.array(sorted(feature_moments.counts))
    n = sum(feature_moments.counts.values())
    # One step per batch; this pass only counts the batches.
    n_steps = epochs * sum(1 for _ in batches())
    optimiser = optax.adamw(optax.cosine_decay_schedule(learning_rate, n_steps), weight_decay=0.0)
    n_layers, n_features = feature_moments.mean.shape
    weights = _init_weights(seeds, (n_layers, len(checked_penalties), len(classes), n_features))
    parameters = weights, jnp.zeros(weights.shape[:-1])
    state = parameters, optimiser.init(parameters)
    average, n_averaged = parameters, 0
    # For two classes scikit-learn penalises a single vector, which doubles λ; see `logistic`.
    penalty_weights = jnp.asarray(checked_penalties * (2 if len(classes) == 2 else 1), jnp.float32)
    all_batches = itertools.chain.from_iterable(batches() for _ in range(epochs))
    for step, (X, y) in enumerate(all_batches):
        x = (np.asarray(X) - feature_moments.mean[:, None]) / feature_moments.scale[:, None]
        numbers = jnp.asarray(np.searchsorted(classes, _check_labels(X, y)), jnp.int32)
        batch = jnp.asarray(x, jnp.float32), numbers
        state = compiled.call(_adamw_step, state, *batch, penalty_weights / n, optimiser=optimiser)
        if step >= n_steps // 2:
            # A running mean: the first step replaces `average`, step k has weight 1/k.
            n_averaged += 1
            average = optax.incremental_update(state[0], average, 1 / n_averaged)
    return _to_bank(
        cast(Parameters, average), feature_moments, classes, checked_penalties, np.asarray(seeds)
    )


def _check_labels(X: Any, y: Any) -> np.ndarray:
    return categories(y, np.shape(X)[1], "batches: y")


def _init_weights(seeds: Sequence[int], shape: tuple[int, ...]) -> Float[Array, "seed L P K D"]:
    return jnp.stack([0.01 * jax.random.normal(jax.random.key(seed), shape) for seed in seeds])


def _adamw_step(
    state: tuple[Parameters, optax.OptState],
    x: Float[Array, "L n D"],
    y: Int[Array, "n"],
    penalty_weights: Float[Array, "P"],
    *,
    optimiser: Any,
) -> tuple[Parameters, optax.OptState]:
    """Takes one step of AdamW for all probes."""
    parameters, optimiser_state = state

    def loss(parameters: Parameters) -> Array:
        w, b = parameters
        logits = jnp.einsum("slpkd,lnd->slpnk", w, x, precision="highest") + b[..., None, :]
        label_logits = jnp.take_along_axis(logits, y[None, None, None, :, None], -1)[..., 0]
        cross_entropy = jax.nn.logsumexp(logits, -1) - label_logits
        return (cross_entropy.mean(-1) + penalty_weights / 2 * (w**2).sum((-1, -2))).sum()

    updates, optimiser_state = optimiser.update(
        jax.grad(loss)(parameters), optimiser_state, parameters
    )
    new_parameters = optax.apply_updates(parameters, updates)
    return cast(Parameters, new_parameters), optimiser_state


def _to_bank(
    average: Parameters,
    feature_moments: Moments,
    classes: np.ndarray,
    penalties: np.ndarray,
    seeds: np.ndarray,
) -> Bank:
    """Makes a bank of the averaged parameters."""
    # The same vector added to the weights of all classes changes no probability. As in
    # `fit_probes`, it is chosen so that the weights of all classes sum to 0.
    weights, bias = (np.asarray(array - array.mean(3, keepdims=True)) for array in average)
    dims = ("seed", "layer", "penalty", "class")
    variables: dict[str, Any] = {"weights": ((*dims, "feature"), weights), "bias": (dims, bias)}
    for name, moment in (("mean", feature_moments.mean), ("scale", feature_moments.scale)):
        per_seed = np.stack([moment] * len(seeds)).astype(np.float32)
        variables[name] = (("seed", "layer", "feature"), per_seed)
    coords = {
        "layer": np.arange(weights.shape[1]),
        "penalty": penalties,
        "seed": seeds,
        "class": classes,
    }
    data = xr.Dataset(variables, coords).expand_dims(fold=[0])
    dims = ("layer", "penalty", "fold", "seed", ..., "class", "feature")
    return Bank(data.transpose(*dims), "class")
