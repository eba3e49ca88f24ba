"""Defines metrics, which score a patch by the logits after one position.

`Metric` describes what a new metric must define. Traced token ids cannot be checked. The metric of
a traced id outside of the vocabulary is NaN.
"""

import dataclasses
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.scored_tokens import Tokens, check_tokens, logits_at
from jaxasr import pytrees
from jaxasr.token_ids import check_integers


class Metric(Protocol):
    """Scores the logits of each row after one position.

    A metric is a frozen pytree, such as a `jaxasr.pytrees.dataclass`. It may define `row(b)`, which
    returns the metric of one row. It may also define `check(n_vocab, batch)`, which raises
    ValueError before a pass runs.

    Attributes:
        position: the position whose logits are scored, as a static field. Negative values count
            from the end.
        vocab: int [n] or [B, n], the tokens whose logits the metric reads; None for all.

    Example:
        ```python
        @jaxasr.pytrees.dataclass
        class Entropy:
            position: int = jaxasr.pytrees.field(pytree_node=False, default=-1)
            vocab = None

            def __call__(self, logits):  # [B, V] -> [B]
                logp = jax.nn.log_softmax(logits)
                return -(jnp.exp(logp) * logp).sum(-1)
        ```
    """

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

    vocab: Int[Array, "*B two"]  # ids of the answer and of the foil
    position: int = pytrees.field(pytree_node=False, default=-1)

    def check(self, n_vocab: int, batch: int) -> None:
        """Raises ValueError for tokens outside of the vocabulary."""
        for i, name in enumerate(("answer", "foil")):
            check_tokens(self.vocab[..., i], n_vocab, batch, name)

    def row(self, b: int) -> "LogitDiff":
        """Returns the metric of row `b`.

        Example:
            >>> import interventions as iv
            >>> iv.logit_diff(jnp.array([13, 14]), 5).row(1).vocab.tolist()
            [[14, 5]]
        """
        return (
            self if self.vocab.ndim == 1 else dataclasses.replace(self, vocab=self.vocab[b : b + 1])
        )

    def __call__(self, logits: Float[Array, "B two"]) -> Float[Array, "B"]:
        return logits[:, 0] - logits[:, 1]


class _AnswerMetric:
    """Base class of metrics that compare one answer with all logits."""

    answer: Int[Array, "*B"]
    vocab = None  # reads the logits of all tokens

    def check(self, n_vocab: int, batch: int) -> None:
        """Raises ValueError for an answer outside of the vocabulary."""
        check_tokens(self.answer, n_vocab, batch, "answer")

    def row(self, b: int) -> Any:
        """Returns the metric of row `b`."""
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
        return _values_of_tokens(jax.nn.log_softmax(logits), self.answer)


@pytrees.dataclass
class Rank(_AnswerMetric):
    """Number of tokens with a larger logit than the answer. Made by `rank`.

    Its gradient is zero.

    Example:
        >>> import interventions as iv
        >>> int(iv.metrics.rank(13).answer)
        13
    """

    answer: Int[Array, "*B"]
    position: int = pytrees.field(pytree_node=False, default=-1)

    def __call__(self, logits: Float[Array, "B V"]) -> Float[Array, "B"]:
        answer = _values_of_tokens(logits, self.answer)
        # `>` is False for NaN, so without `where` an answer with a NaN logit would have rank 0.
        n_larger = (logits > answer[:, None]).sum(-1).astype(logits.dtype)
        return jnp.where(jnp.isnan(answer), answer, n_larger)


@pytrees.dataclass
class Kl:
    """KL(p ‖ q) in nats, with p = softmax(`to`) and q = softmax(scored logits). Made by `kl`.

    Example:
        >>> import interventions as iv
        >>> iv.kl(jnp.zeros((1, 4)), position=-2).position
        -2
    """

    to: Float[Array, "B V"]
    position: int = pytrees.field(pytree_node=False, default=-1)
    vocab = None  # reads the logits of all tokens

    def check(self, n_vocab: int, batch: int) -> None:
        """Raises ValueError for logits of another shape than [B or 1, V]."""
        if jnp.shape(self.to) not in ((batch, n_vocab), (1, n_vocab)):
            raise ValueError(
                f"to: expected logits [{batch}, {n_vocab}] of every row and token, "
                f"got shape {list(jnp.shape(self.to))}."
            )

    def row(self, b: int) -> "Kl":
        """Returns the metric of row `b`."""
        return self if len(self.to) == 1 else dataclasses.replace(self, to=self.to[b : b + 1])

    def __call__(self, logits: Float[Array, "B V"]) -> Float[Array, "B"]:
        p, q = jax.nn.log_softmax(self.to), jax.nn.log_softmax(logits)
        return (jnp.exp(p) * (p - q)).sum(-1)


def logit_diff(answer: Tokens, foil: Tokens, position: int = -1) -> LogitDiff:
    """Scores logit(answer) - logit(foil).

    Args:
        answer: a token id for all rows, or int [B] with one per row.
        foil: the token to compare with, in the same form.
        position: the position whose logits are scored. The logits at -1, the last token, predict
            the next token.

    Raises:
        ValueError: ids are not integers. A sweep also refuses ids outside of the vocabulary.

    Example:
        >>> import interventions as iv
        >>> metric = iv.logit_diff(answer=13, foil=5)
        >>> metric(jnp.array([[3.0, 1.0]])).tolist()  # logits of these two tokens
        [2.0]
    """
    pair = jnp.broadcast_arrays(_checked_ids(answer, "answer"), _checked_ids(foil, "foil"))
    return LogitDiff(jnp.stack(pair, -1), position)


def logprob(answer: Tokens, position: int = -1) -> LogProb:
    """Scores the log-probability of a token, in nats.

    Args:
        answer: a token id for all rows, or int [B] with one per row.
        position: as in `logit_diff`.

    Raises:
        ValueError: ids are not integers. A sweep also refuses ids outside of the vocabulary.

    Example:
        >>> import interventions as iv
        >>> round(float(iv.logprob(1)(jnp.zeros((1, 4)))[0]), 3)  # log 1/4
        -1.386
    """
    return LogProb(_checked_ids(answer, "answer"), position)


def rank(answer: Tokens, position: int = -1) -> Rank:
    """Scores how many tokens have a larger logit than `answer`. The top token has rank 0.

    Args:
        answer: as in `logprob`.
        position: as in `logit_diff`.

    Raises:
        ValueError: ids are not integers. A sweep also refuses ids outside of the vocabulary.

    Example:
        >>> from interventions import metrics
        >>> metrics.rank(2)(jnp.array([[4.0, 1.0, 3.0, 2.0]])).tolist()
        [1.0]
    """
    return Rank(_checked_ids(answer, "answer"), position)


def kl(to: Float[Array, "B V"], position: int = -1) -> Kl:
    """Scores KL(p ‖ q) in nats, from a reference distribution p to the patched distribution q.

    Args:
        to: logits [B, V] of the reference distribution, such as the unpatched logits of the
            target. Logits [1, V] apply to all rows.
        position: as in `logit_diff`.

    Raises:
        ValueError: in a sweep, if the logits have another shape.

    Example:
        >>> import interventions as iv
        >>> iv.kl(jnp.zeros((1, 4)))(jnp.zeros((1, 4))).tolist()
        [0.0]
    """
    return Kl(jnp.asarray(to), position)


def _values_of_tokens(values: Float[Array, "B V"], tokens: Int[Array, "*B"]) -> Float[Array, "B"]:
    return logits_at(values, jnp.broadcast_to(tokens, values.shape[:1])[:, None])[:, 0]


def _checked_ids(tokens: Tokens, name: str) -> Int[Array, "*B"]:
    check_integers(tokens, name)
    return jnp.asarray(tokens)
