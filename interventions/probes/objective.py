"""Computes the objective of multinomial logistic regression for many fits with the same features.

Axes: K classes, K1 = K - 1 stored classes, J fits, N rows, D features. The last class is not
stored, because its logits are minus the sum of all other logits; see `logistic`.

No array is divided by a smaller one, but multiplied by its reciprocal. XLA compiles such a division
to a product or to a division, depending on the number of devices, and the bits would depend on it.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxasr import pytrees

_MAX_UNROLLED_CLASSES = 64  # limits the size of the compiled program


class Problem(NamedTuple):
    """Data of the fits of one layer.

    All fits share `x`. The features of fit j are (x - shift[j]) / scale[j]. They have mean 0 and
    standard deviation 1 over its training rows. Without standardisation, `scale` is 1.

    Attributes:
        x: float [N, D], features centred (and by default scaled) over all rows.
        shift: float [J, D], means of the columns of `x` over the training rows.
        scale: float [J, D], standard deviations of the columns over the training rows.
        labels: int [J, N], class numbers. Ridge regression has float targets instead.
        train_mask: float [J, N], 1 for training rows, else 0.
    """

    x: Float[Array, "N D"]
    shift: Float[Array, "J D"]
    scale: Float[Array, "J D"]
    labels: Int[Array, "J N"]
    train_mask: Float[Array, "J N"]


class Solution(NamedTuple):
    """The optimum of each fit, with measures of its accuracy.

    Attributes:
        weights: float [J, K, D], of all K classes.
        bias: float [J, K], of all K classes.
        objective: float [J], value at these weights.
        gradient_norm: float [J], largest component of the gradient, divided by the number of
            training rows. scikit-learn compares this number with its `tol`.
        optimality_gap: float [J], estimate of (objective - optimum) / objective, from the gradient
            and the approximate Hessian.
        n_iter: int [J], number of solver steps.
    """

    weights: Float[Array, "J K D"]
    bias: Float[Array, "J K"]
    objective: Float[Array, "J"]
    gradient_norm: Float[Array, "J"]
    optimality_gap: Float[Array, "J"]
    n_iter: Int[Array, "J"]


@pytrees.dataclass
class Point:
    """Weights and biases of all fits, for standardised features.

    Gradients and search directions also have this type.

    Attributes:
        w: weights, float [K-1, J, D].
        b: biases, float [K-1, J].
    """

    w: Float[Array, "K1 J D"]
    b: Float[Array, "K1 J"]

    def __add__(self, other: "Point") -> "Point":
        return Point(self.w + other.w, self.b + other.b)

    def __sub__(self, other: "Point") -> "Point":
        return Point(self.w - other.w, self.b - other.b)

    def __neg__(self) -> "Point":
        return Point(-self.w, -self.b)

    def times(self, factor: Float[Array, "J"]) -> "Point":
        """Multiplies the weights and biases of fit j by `factor[j]`."""
        return Point(self.w * factor[:, None], self.b * factor)

    def dot(self, other: "Point") -> Float[Array, "J"]:
        """Returns the inner product over all K classes, including the class that is not stored."""
        w = (sum_classes(self.w * other.w) + sum_classes(self.w) * sum_classes(other.w)).sum(-1)
        return w + sum_classes(self.b * other.b) + sum_classes(self.b) * sum_classes(other.b)

    def squared_norm(self) -> Float[Array, "J"]:
        """Returns ‖W‖² over all K classes, without the bias."""
        return (sum_classes(self.w**2) + sum_classes(self.w) ** 2).sum(-1)


def _reduce_classes(
    combine: Callable[[Array, Array], Array], x: Float[Array, "K1 ..."]
) -> Float[Array, "..."]:
    """Combines the stored classes, which are the first axis."""
    # Unrolled, because XLA's reduction over a short first axis takes ten times as long.
    if len(x) > _MAX_UNROLLED_CLASSES:
        return combine.reduce(x, axis=0)
    return functools.reduce(combine, [x[k] for k in range(len(x))])


sum_classes = functools.partial(_reduce_classes, jnp.add)
_max_classes = functools.partial(_reduce_classes, jnp.maximum)


class Softmax(NamedTuple):
    """Class probabilities of every row, and the summed cross-entropy of each fit.

    Attributes:
        p: float [K-1, J, N], probabilities of all classes except the last.
        p_last: float [J, N], probability of the last class.
        loss: float [J], cross-entropy summed over training rows.
    """

    p: Float[Array, "K1 J N"]
    p_last: Float[Array, "J N"]
    loss: Float[Array, "J"]


def compute_logits(problem: Problem, point: Point) -> Float[Array, "K1 J N"]:
    """Computes the logits of all rows.

    The weights are rescaled instead of the features, so that all fits multiply the same matrix.
    """
    w = point.w * (1 / problem.scale)
    offset = point.b - (w * problem.shift).sum(-1)
    return (w.reshape(-1, w.shape[-1]) @ problem.x.T).reshape(*w.shape[:2], -1) + offset[..., None]


def compute_softmax(problem: Problem, logits: Float[Array, "K1 J N"]) -> Softmax:
    """Computes the class probabilities and the loss from logits."""
    last_logit = -sum_classes(logits)
    max_logit = jnp.maximum(_max_classes(logits), last_logit)
    # The barriers stop XLA from recomputing the exponentials at every use.
    exponentials, last_exponential = jax.lax.optimization_barrier(
        (jnp.exp(logits - max_logit), jnp.exp(last_logit - max_logit))
    )
    total = sum_classes(exponentials) + last_exponential
    # The label's logit is subtracted in each row, before the sum, because this keeps small losses
    # accurate.
    losses = jnp.log(total) + (max_logit - select_label_logits(problem, logits))
    loss = (problem.train_mask * losses).sum(-1)
    inverse = 1 / total
    p, p_last = jax.lax.optimization_barrier((exponentials * inverse, last_exponential * inverse))
    return Softmax(p, p_last, loss)


def _is_label(problem: Problem, n_stored: int) -> Bool[Array, "K1 J N"]:
    """Returns whether each stored class is the label of each row."""
    return problem.labels == jnp.arange(n_stored)[:, None, None]


def select_label_logits(problem: Problem, logits: Float[Array, "K1 J N"]) -> Float[Array, "J N"]:
    """Selects the logit of each row's label."""
    n_stored = len(logits)
    # A row of the last class selects minus the sum of the stored logits.
    stored = sum_classes(jnp.where(_is_label(problem, n_stored), logits, 0))
    return stored - jnp.where(problem.labels == n_stored, sum_classes(logits), 0)


def compute_gradient(problem: Problem, softmax: Softmax, point: Point, penalty: Array) -> Point:
    """Computes the gradient of the objective at `point`.

    `softmax` must be that of the logits of `point`.
    """
    errors = (softmax.p - _is_label(problem, len(softmax.p))) * problem.train_mask
    b = errors.sum(-1)
    # One product with the shared `x` serves all fits. Their shifts and scales are applied to it.
    unscaled_w = (errors.reshape(-1, errors.shape[-1]) @ problem.x).reshape(point.w.shape)
    w = (unscaled_w - b[..., None] * problem.shift) * (1 / problem.scale)
    return Point(w + penalty * point.w, b)
