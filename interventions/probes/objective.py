"""The objective of multinomial logistic regression for many fits that share their features: its logits, loss and gradient.

Axes and the class that is never stored: see `logistic`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxasr import pytrees

_UNROLLED = 64  # classes at most


class Problem(NamedTuple):
    """What the fits of one layer share, and what tells them apart.

    x: [N, D], centred and scaled roughly; `shift` and `scale` [J, D] make it exact: the features of fit j are (x - shift) / scale.
    labels: [J, N] in 0 … K-1. rows: [J, N], 1 for a training row, else 0.
    """

    x: Float[Array, "N D"]
    shift: Float[Array, "J D"]
    scale: Float[Array, "J D"]
    labels: Int[Array, "J N"]
    rows: Float[Array, "J N"]


@pytrees.dataclass
class Point:
    """Weights [K-1, J, D] and bias [K-1, J], of the standardised features; a gradient and a direction look the same."""

    w: Float[Array, "K1 J D"]
    b: Float[Array, "K1 J"]

    def __add__(self, other: "Point") -> "Point":
        return Point(self.w + other.w, self.b + other.b)

    def __sub__(self, other: "Point") -> "Point":
        return Point(self.w - other.w, self.b - other.b)

    def times(self, factor: Float[Array, "J"]) -> "Point":
        return Point(self.w * factor[:, None], self.b * factor)

    def dot(self, other: "Point") -> Float[Array, "J"]:
        """The product of all K classes, of which the last is minus the sum of the others."""
        w = (sum_classes(self.w * other.w) + sum_classes(self.w) * sum_classes(other.w)).sum(-1)
        return w + sum_classes(self.b * other.b) + sum_classes(self.b) * sum_classes(other.b)


def _over_classes(
    combine: Callable[[Array, Array], Array], x: Float[Array, "K1 ..."]
) -> Float[Array, "..."]:
    """Written out: what XLA makes of a reduction over a short first axis is ten times as slow as the sums are."""
    if len(x) > _UNROLLED:
        return combine.reduce(x, axis=0)
    return functools.reduce(combine, [x[k] for k in range(len(x))])


sum_classes = functools.partial(_over_classes, jnp.add)
_max = functools.partial(_over_classes, jnp.maximum)


class Softmax(NamedTuple):
    """Probabilities of all classes but the last, of the last, and the summed cross-entropy."""

    p: Float[Array, "K1 J N"]
    last: Float[Array, "J N"]
    loss: Float[Array, "J"]


def logits_of(problem: Problem, point: Point) -> Float[Array, "K1 J N"]:
    w = point.w / problem.scale
    offset = point.b - (w * problem.shift).sum(-1)
    return (w.reshape(-1, w.shape[-1]) @ problem.x.T).reshape(*w.shape[:2], -1) + offset[..., None]


def softmax(problem: Problem, logits: Float[Array, "K1 J N"]) -> Softmax:
    """The only exponentials of a step. The label's logit is taken off before anything is added: small losses keep their digits."""
    last = -sum_classes(logits)
    top = jnp.maximum(_max(logits), last)
    # Without the barrier every use below would compute them again.
    e, e_last = jax.lax.optimization_barrier((jnp.exp(logits - top), jnp.exp(last - top)))
    total = sum_classes(e) + e_last
    loss = (problem.rows * (jnp.log(total) + (top - own_class(problem, logits)))).sum(-1)
    share, share_last = jax.lax.optimization_barrier((e / total, e_last / total))
    return Softmax(share, share_last, loss)


def _is_label(problem: Problem, n: int) -> Bool[Array, "K1 J N"]:
    return problem.labels == jnp.arange(n)[:, None, None]


def own_class(problem: Problem, logits: Float[Array, "K1 J N"]) -> Float[Array, "J N"]:
    """Each row's value of its own class."""
    n = len(logits)
    return sum_classes(jnp.where(_is_label(problem, n), logits, 0)) - jnp.where(
        problem.labels == n, sum_classes(logits), 0
    )


def gradient_of(problem: Problem, soft: Softmax, point: Point, penalty: Array) -> Point:
    off = (soft.p - _is_label(problem, len(soft.p))) * problem.rows
    b = off.sum(-1)
    raw = (off.reshape(-1, off.shape[-1]) @ problem.x).reshape(point.w.shape)
    return Point((raw - b[..., None] * problem.shift) / problem.scale + penalty * point.w, b)
