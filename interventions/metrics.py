"""What a patch is scored by: numbers of a row's logits after one position.

A metric is a frozen pytree with `position` (static; negative counts from the end of the tokens), `vocab`, int [n] or [B, n], the only
tokens it needs (None: all of them), and `__call__(logits)`: [B, n or V] logits after that position -> float [B].
`row(b)` is the metric of one row alone. Knowing what it needs, a sweep unembeds one position and two rows of 51,865.
"""
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@flax.struct.dataclass
class LogitDiff:
    """logit(answer) - logit(foil)."""

    vocab: Int[Array, "*B two"]
    position: int = flax.struct.field(pytree_node=False, default=-1)

    def row(self, b: int) -> "LogitDiff":
        return self if self.vocab.ndim == 1 else self.replace(vocab=self.vocab[b : b + 1])

    def __call__(self, logits: Float[Array, "B two"]) -> Float[Array, "B"]:
        return logits[:, 0] - logits[:, 1]


class _OfAnswer:
    def row(self, b: int) -> Any:
        return self if self.answer.ndim == 0 else self.replace(answer=self.answer[b : b + 1])


@flax.struct.dataclass
class LogProb(_OfAnswer):
    """log p(answer), natural logarithm."""

    answer: Int[Array, "*B"]
    position: int = flax.struct.field(pytree_node=False, default=-1)
    vocab = None

    def __call__(self, logits: Float[Array, "B V"]) -> Float[Array, "B"]:
        return _pick(jax.nn.log_softmax(logits), self.answer)


@flax.struct.dataclass
class Rank(_OfAnswer):
    """How many tokens are likelier than the answer; 0 is the top. Has no gradient."""

    answer: Int[Array, "*B"]
    position: int = flax.struct.field(pytree_node=False, default=-1)
    vocab = None

    def __call__(self, logits: Float[Array, "B V"]) -> Float[Array, "B"]:
        return (logits > _pick(logits, self.answer)[:, None]).sum(-1).astype(logits.dtype)


@flax.struct.dataclass
class Kl:
    """KL(p ‖ q) in nats, from the distribution p with logits `to` [B, V] to the patched one."""

    to: Float[Array, "B V"]
    position: int = flax.struct.field(pytree_node=False, default=-1)
    vocab = None

    def row(self, b: int) -> "Kl":
        return self.replace(to=self.to[b : b + 1])

    def __call__(self, logits: Float[Array, "B V"]) -> Float[Array, "B"]:
        p, q = jax.nn.log_softmax(self.to), jax.nn.log_softmax(logits)
        return (jnp.exp(p) * (p - q)).sum(-1)


Metric = LogitDiff | LogProb | Rank | Kl


def _pick(values: Float[Array, "B V"], tokens: Int[Array, "*B"]) -> Float[Array, "B"]:
    return jnp.take_along_axis(values, jnp.broadcast_to(tokens, values.shape[:1])[:, None], -1)[:, 0]


def logit_diff(answer: int | Int[Array, "B"], foil: int | Int[Array, "B"], position: int = -1) -> LogitDiff:
    """logit(answer) - logit(foil) after `position`; one token for all rows, or one a row."""
    return LogitDiff(jnp.stack(jnp.broadcast_arrays(jnp.asarray(answer), jnp.asarray(foil)), -1), position)


def logprob(answer: int | Int[Array, "B"], position: int = -1) -> LogProb:
    """log p(answer) after `position`, in nats."""
    return LogProb(jnp.asarray(answer), position)


def rank(answer: int | Int[Array, "B"], position: int = -1) -> Rank:
    """Rank of `answer` after `position`, 0 is the top."""
    return Rank(jnp.asarray(answer), position)


def kl(to: Float[Array, "B V"], position: int = -1) -> Kl:
    """KL divergence in nats from the distribution with logits `to` (a run's, after `position`) to the patched one."""
    return Kl(jnp.asarray(to), position)


def scored_position(metric: Metric, n_tokens: int) -> int:
    """The column that `metric` reads. Raises ValueError when the tokens do not have it."""
    column = metric.position + n_tokens if metric.position < 0 else metric.position
    if not 0 <= column < n_tokens:
        raise ValueError(f"position: expected {-n_tokens} to {n_tokens - 1} for {n_tokens} tokens, got {metric.position}.")
    return column


def unembed_scored(unembedding: Float[Array, "V D"], x: Float[Array, "B D"], metric: Metric) -> Float[Array, "B n"]:
    """Logits [B, n or V] of normed residuals, for no more tokens than `metric` needs."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    if metric.vocab is None:
        return jnp.einsum("bd,vd->bv", x, unembedding.astype(x.dtype), preferred_element_type=wide)
    rows = jnp.broadcast_to(metric.vocab, (x.shape[0], metric.vocab.shape[-1]))
    return jnp.einsum("bd,bnd->bn", x, unembedding[rows].astype(x.dtype), preferred_element_type=wide)
