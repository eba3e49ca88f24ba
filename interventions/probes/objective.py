"""The objective of multinomial logistic regression for many fits that share their features.

Axes: K classes (K1 = K - 1), J fits, N rows, D features. The last class is never stored; see
`logistic`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxasr import pytrees

_MAX_UNROLLED_CLASSES = 64


class Problem(NamedTuple):
    """The data that the fits of one layer share, and the data of each fit.

    Attributes:
        x: float [N, D], roughly centred and scaled. The features of fit j are
            (x - shift[j]) / scale[j], exactly standardised.
        shift: float [J, D].
        scale: float [J, D].
        labels: int [J, N], class numbers; for ridge regression, float targets.
        rows: float [J, N], 1 for training rows, else 0.
    """

    x: Float[Array, "N D"]
    shift: Float[Array, "J D"]
    scale: Float[Array, "J D"]
    labels: Int[Array, "J N"]
    rows: Float[Array, "J N"]


class Solution(NamedTuple):
    """The optimum of each fit, with the evidence that it is one.

    Attributes:
        weights: float [J, K, D], of all K classes.
        bias: float [J, K].
        objective: float [J].
        gradient_norm: float [J], the largest component of the gradient over the number of training
            rows, which scikit-learn compares with its `tol`.
        gap: float [J], the estimated (objective - optimum) / objective, from the gradient in the
            norm of the approximate Hessian.
        n_iter: int [J], the number of steps.
    """

    weights: Float[Array, "J K D"]
    bias: Float[Array, "J K"]
    objective: Float[Array, "J"]
    gradient_norm: Float[Array, "J"]
    gap: Float[Array, "J"]
    n_iter: Int[Array, "J"]


@pytrees.dataclass
class Point:
    """Weights and bias of the standardised features. Gradients and directions have this type too.

    Attributes:
        w: float [K-1, J, D].
        b: float [K-1, J].
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
        """Multiplies each fit by its factor."""
        return Point(self.w * factor[:, None], self.b * factor)

    def dot(self, other: "Point") -> Float[Array, "J"]:
        """Returns the inner product over all K classes; the last is minus the sum of the others."""
        w = (sum_classes(self.w * other.w) + sum_classes(self.w) * sum_classes(other.w)).sum(-1)
        return w + sum_classes(self.b * other.b) + sum_classes(self.b) * sum_classes(other.b)

    def squared_norm(self) -> Float[Array, "J"]:
        """Returns ‖W‖² over all K classes, without the bias."""
        return (sum_classes(self.w**2) + sum_classes(self.w) ** 2).sum(-1)


def _reduce_classes(
    combine: Callable[[Array, Array], Array], x: Float[Array, "K1 ..."]
) -> Float[Array, "..."]:
    # Unrolled, because XLA's reduction over a short first axis takes ten times as long.
    if len(x) > _MAX_UNROLLED_CLASSES:
        return combine.reduce(x, axis=0)
    return functools.reduce(combine, [x[k] for k in range(len(x))])


sum_classes = functools.partial(_reduce_classes, jnp.add)
_max_classes = functools.partial(_reduce_classes, jnp.maximum)


class Softmax(NamedTuple):
    """Class probabilities and the summed cross-entropy.

    Attributes:
        p: float [K-1, J, N], of all classes but the last.
        last: float [J, N], of the last class.
        loss: float [J], summed over training rows.
    """

    p: Float[Array, "K1 J N"]
    last: Float[Array, "J N"]
    loss: Float[Array, "J"]


def compute_logits(problem: Problem, point: Point) -> Float[Array, "K1 J N"]:
    """Computes the logits of all rows, without standardising the shared features for each fit."""
    w = point.w / problem.scale
    offset = point.b - (w * problem.shift).sum(-1)
    return (w.reshape(-1, w.shape[-1]) @ problem.x.T).reshape(*w.shape[:2], -1) + offset[..., None]


def softmax(problem: Problem, logits: Float[Array, "K1 J N"]) -> Softmax:
    """Computes probabilities and loss, with the only exponentials of a step."""
    last = -sum_classes(logits)
    top = jnp.maximum(_max_classes(logits), last)
    # Without the barriers XLA would recompute the exponentials at every use.
    e, e_last = jax.lax.optimization_barrier((jnp.exp(logits - top), jnp.exp(last - top)))
    total = sum_classes(e) + e_last
    # The label's logit is subtracted before rows are summed, so small losses keep their digits.
    losses = jnp.log(total) + (top - select_label(problem, logits))
    loss = (problem.rows * losses).sum(-1)
    p, p_last = jax.lax.optimization_barrier((e / total, e_last / total))
    return Softmax(p, p_last, loss)


def _is_label(problem: Problem, n: int) -> Bool[Array, "K1 J N"]:
    return problem.labels == jnp.arange(n)[:, None, None]


def select_label(problem: Problem, logits: Float[Array, "K1 J N"]) -> Float[Array, "J N"]:
    """Selects the value of each row's own class."""
    n = len(logits)
    stored = sum_classes(jnp.where(_is_label(problem, n), logits, 0))
    return stored - jnp.where(problem.labels == n, sum_classes(logits), 0)


def compute_gradient(problem: Problem, soft: Softmax, point: Point, penalty: Array) -> Point:
    """Computes the gradient of the objective at `point`, whose softmax is `soft`."""
    errors = (soft.p - _is_label(problem, len(soft.p))) * problem.rows
    b = errors.sum(-1)
    raw = (errors.reshape(-1, errors.shape[-1]) @ problem.x).reshape(point.w.shape)
    return Point((raw - b[..., None] * problem.shift) / problem.scale + penalty * point.w, b)
