"""What a patch is scored by: numbers of a row's logits after one position.

A metric is a frozen pytree with these parts. A class of your own with them works in sweeps.

- `position`: static; the position whose logits are scored. Negative counts from the end.
- `vocab`: int [n] or [B, n], the only tokens that it reads and a sweep unembeds; None for all.
- `__call__(logits)`: logits [B, n or V] after that position -> float [B].
- `row(b)`, optional: the metric of one row alone.
- `check(n_vocab, batch)`, optional: raises ValueError before anything is computed.

A traced token cannot be checked. The metric of a token outside of the vocabulary is NaN.
"""

import dataclasses
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxasr import pytrees
from jaxasr.token_ids import check_ids, check_integers

Tokens = int | np.integer | Int[Array, "*B"] | Int[np.ndarray, "*B"]


class Metric(Protocol):
    """Scores logits; see the module's docstring for its parts."""

    @property
    def position(self) -> int: ...

    @property
    def vocab(self) -> Any: ...

    def __call__(self, logits: Float[Array, "B n"]) -> Float[Array, "B"]: ...


@pytrees.dataclass
class LogitDiff:
    """logit(answer) - logit(foil). Made by `logit_diff`.

    Example:
        >>> import interventions as iv
        >>> iv.logit_diff(13, 5).vocab.tolist()
        [13, 5]
    """

    vocab: Int[Array, "*B two"]
    position: int = pytrees.field(pytree_node=False, default=-1)

    def check(self, n_vocab: int, batch: int) -> None:
        """Raises ValueError for tokens outside of the vocabulary."""
        for i, name in enumerate(("answer", "foil")):
            check_tokens(self.vocab[..., i], n_vocab, batch, name)

    def row(self, b: int) -> "LogitDiff":
        """The metric of row `b`."""
        return (
            self if self.vocab.ndim == 1 else dataclasses.replace(self, vocab=self.vocab[b : b + 1])
        )

    def __call__(self, logits: Float[Array, "B two"]) -> Float[Array, "B"]:
        return logits[:, 0] - logits[:, 1]


class _AnswerMetric:
    """Scores one answer with all logits."""

    answer: Int[Array, "*B"]
    vocab = None

    def check(self, n_vocab: int, batch: int) -> None:
        """Raises ValueError for an answer outside of the vocabulary."""
        check_tokens(self.answer, n_vocab, batch, "answer")

    def row(self, b: int) -> Any:
        """The metric of row `b`."""
        if self.answer.ndim == 0:
            return self
        return cast(Any, self).replace(answer=self.answer[b : b + 1])


@pytrees.dataclass
class LogProb(_AnswerMetric):
    """log p(answer), natural logarithm. Made by `logprob`.

    Example:
        >>> import interventions as iv
        >>> iv.logprob(13).position
        -1
    """

    answer: Int[Array, "*B"]
    position: int = pytrees.field(pytree_node=False, default=-1)

    def __call__(self, logits: Float[Array, "B V"]) -> Float[Array, "B"]:
        return _pick(jax.nn.log_softmax(logits), self.answer)


@pytrees.dataclass
class Rank(_AnswerMetric):
    """How many tokens have a larger logit than the answer. Made by `rank`. Has no gradient.

    Example:
        >>> import interventions as iv
        >>> int(iv.metrics.rank(13).answer)
        13
    """

    answer: Int[Array, "*B"]
    position: int = pytrees.field(pytree_node=False, default=-1)

    def __call__(self, logits: Float[Array, "B V"]) -> Float[Array, "B"]:
        answer = _pick(logits, self.answer)
        n_larger = (logits > answer[:, None]).sum(-1).astype(logits.dtype)
        return jnp.where(jnp.isnan(answer), answer, n_larger)


@pytrees.dataclass
class Kl:
    """KL(p ‖ q) in nats, from the distribution p with logits `to` [B, V]. Made by `kl`.

    Example:
        >>> import interventions as iv
        >>> iv.kl(jnp.zeros((1, 4)), position=-2).position
        -2
    """

    to: Float[Array, "B V"]
    position: int = pytrees.field(pytree_node=False, default=-1)
    vocab = None

    def check(self, n_vocab: int, batch: int) -> None:
        """Raises ValueError for logits of another shape than [B or 1, V]."""
        if jnp.shape(self.to) not in ((batch, n_vocab), (1, n_vocab)):
            raise ValueError(
                f"to: expected logits [{batch}, {n_vocab}] of every row and token, "
                f"got shape {list(jnp.shape(self.to))}."
            )

    def row(self, b: int) -> "Kl":
        """The metric of row `b`."""
        return self if len(self.to) == 1 else dataclasses.replace(self, to=self.to[b : b + 1])

    def __call__(self, logits: Float[Array, "B V"]) -> Float[Array, "B"]:
        p, q = jax.nn.log_softmax(self.to), jax.nn.log_softmax(logits)
        return (jnp.exp(p) * (p - q)).sum(-1)


def logit_diff(answer: Tokens, foil: Tokens, position: int = -1) -> LogitDiff:
    """Scores logit(answer) - logit(foil).

    Args:
        answer: a token id for all rows, or int [B] with one per row.
        foil: likewise, the token to compare with.
        position: the position whose logits are scored; -1 is the last token, whose logits predict
            the next one.

    Raises:
        ValueError: ids that are not integers; in a sweep, ids outside of the vocabulary.

    Example:
        >>> import interventions as iv
        >>> metric = iv.logit_diff(answer=13, foil=5)
        >>> metric(jnp.array([[3.0, 1.0]])).tolist()  # logits of these two tokens
        [2.0]
    """
    pair = jnp.broadcast_arrays(_ids(answer, "answer"), _ids(foil, "foil"))
    return LogitDiff(jnp.stack(pair, -1), position)


def logprob(answer: Tokens, position: int = -1) -> LogProb:
    """Scores the log-probability of a token, in nats.

    Args:
        answer: a token id for all rows, or int [B] with one per row.
        position: as in `logit_diff`.

    Raises:
        ValueError: in a sweep, an id outside of the vocabulary.

    Example:
        >>> import interventions as iv
        >>> round(float(iv.logprob(1)(jnp.zeros((1, 4)))[0]), 3)  # log 1/4
        -1.386
    """
    return LogProb(_ids(answer, "answer"), position)


def rank(answer: Tokens, position: int = -1) -> Rank:
    """Scores how many tokens have a larger logit than `answer`; 0 is the top.

    Args:
        answer: as in `logprob`.
        position: as in `logit_diff`.

    Raises:
        ValueError: as `logprob`.

    Example:
        >>> from interventions import metrics
        >>> metrics.rank(2)(jnp.array([[4.0, 1.0, 3.0, 2.0]])).tolist()
        [1.0]
    """
    return Rank(_ids(answer, "answer"), position)


def kl(to: Float[Array, "B V"], position: int = -1) -> Kl:
    """Scores the KL divergence, in nats, of the patched distribution from another one.

    Args:
        to: logits [B, V] of the reference distribution, such as the target's own after `position`;
            [1, V] serves all rows.
        position: as in `logit_diff`.

    Raises:
        ValueError: in a sweep, logits of another shape.

    Example:
        >>> import interventions as iv
        >>> iv.kl(jnp.zeros((1, 4)))(jnp.zeros((1, 4))).tolist()
        [0.0]
    """
    return Kl(jnp.asarray(to), position)


def _pick(values: Float[Array, "B V"], tokens: Int[Array, "*B"]) -> Float[Array, "B"]:
    return _columns(values, jnp.broadcast_to(tokens, values.shape[:1])[:, None])[:, 0]


def _columns(values: Float[Array, "B V"], tokens: Int[Array, "B n"]) -> Float[Array, "B n"]:
    """The values of each row at `tokens`; NaN outside of the vocabulary."""
    # A negative index would count from the end; past the end `fill` applies.
    index = jnp.where(tokens < 0, values.shape[1], tokens)
    return jnp.take_along_axis(values, index, 1, mode="fill", fill_value=jnp.nan)


def _ids(tokens: Tokens, name: str) -> Int[Array, "*B"]:
    check_integers(tokens, name)
    return jnp.asarray(tokens)


def metric_of_row(metric: Metric, b: int) -> Metric:
    """The metric of row `b` alone."""
    row = getattr(metric, "row", None)
    return metric if row is None else row(b)


def check_metric(metric: Metric, n_vocab: int, batch: int) -> None:
    """Raises ValueError for tokens outside of the vocabulary, or of another number of rows."""
    check = getattr(metric, "check", None)
    if check is not None:
        check(n_vocab, batch)
    elif getattr(metric, "vocab", None) is not None:
        check_ids(metric.vocab, n_vocab, "vocab")


def check_tokens(tokens: Tokens, n_vocab: int, batch: int, name: str) -> None:
    """Raises ValueError unless `tokens` are one id of the vocabulary, or one per row."""
    check_ids(tokens, n_vocab, name)
    if jnp.shape(tokens) not in ((), (batch,)):
        raise ValueError(
            f"{name}: expected one token, or one for each of {batch} rows, "
            f"got shape {list(jnp.shape(tokens))}."
        )


def scored_position(metric: Metric, n_tokens: int) -> int:
    """The column that `metric` scores. Raises ValueError when the tokens do not have it."""
    column = metric.position + n_tokens if metric.position < 0 else metric.position
    if not 0 <= column < n_tokens:
        raise ValueError(
            f"position: expected {-n_tokens} to {n_tokens - 1} for {n_tokens} tokens, "
            f"got {metric.position}."
        )
    return column


def unembed_scored(
    unembedding: Float[Array, "V D"], x: Float[Array, "B D"], metric: Metric
) -> Float[Array, "B n"]:
    """Logits [B, n or V] of normed residuals, for the tokens that `metric` reads."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    if metric.vocab is None:
        return jnp.einsum("bd,vd->bv", x, unembedding.astype(x.dtype), preferred_element_type=wide)
    rows = jnp.broadcast_to(metric.vocab, (x.shape[0], metric.vocab.shape[-1]))
    vectors = unembedding.at[rows].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    return jnp.einsum("bd,bnd->bn", x, vectors.astype(x.dtype), preferred_element_type=wide)


def needed(logits: Float[Array, "B V"], metric: Metric) -> Float[Array, "B n"]:
    """The logits that `metric` reads, of all."""
    if metric.vocab is None:
        return logits
    tokens = jnp.broadcast_to(metric.vocab, (logits.shape[0], metric.vocab.shape[-1]))
    return _columns(logits, tokens)
