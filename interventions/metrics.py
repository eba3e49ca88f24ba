"""What a patch is scored by: numbers of a row's logits after one position.

A metric is a frozen pytree with `position` (static; negative counts from the end of the tokens), `vocab`, int [n] or [B, n], the only
tokens it needs (None: all of them), and `__call__(logits)`: [B, n or V] logits after that position -> float [B].
`row(b)` is the metric of one row alone. Knowing what it needs, a sweep unembeds one position and two rows of 51,865.
`check(n_vocab, batch)`, where there is one, raises ValueError before anything is computed. A traced token cannot be checked: the
metric of one outside of the vocabulary is NaN.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxasr import pytrees
from jaxasr.token_ids import check_ids, check_integers


@pytrees.dataclass
class LogitDiff:
    """logit(answer) - logit(foil)."""

    vocab: Int[Array, "*B two"]
    position: int = pytrees.field(pytree_node=False, default=-1)

    def check(self, n_vocab: int, batch: int) -> None:
        for i, name in enumerate(("answer", "foil")):
            check_tokens(self.vocab[..., i], n_vocab, batch, name)

    def row(self, b: int) -> "LogitDiff":
        return self if self.vocab.ndim == 1 else self.replace(vocab=self.vocab[b : b + 1])

    def __call__(self, logits: Float[Array, "B two"]) -> Float[Array, "B"]:
        return logits[:, 0] - logits[:, 1]


class _OfAnswer:
    def check(self, n_vocab: int, batch: int) -> None:
        check_tokens(self.answer, n_vocab, batch, "answer")

    def row(self, b: int) -> Any:
        return self if self.answer.ndim == 0 else self.replace(answer=self.answer[b : b + 1])


@pytrees.dataclass
class LogProb(_OfAnswer):
    """log p(answer), natural logarithm."""

    answer: Int[Array, "*B"]
    position: int = pytrees.field(pytree_node=False, default=-1)
    vocab = None

    def __call__(self, logits: Float[Array, "B V"]) -> Float[Array, "B"]:
        return _pick(jax.nn.log_softmax(logits), self.answer)


@pytrees.dataclass
class Rank(_OfAnswer):
    """How many tokens are likelier than the answer; 0 is the top. Has no gradient."""

    answer: Int[Array, "*B"]
    position: int = pytrees.field(pytree_node=False, default=-1)
    vocab = None

    def __call__(self, logits: Float[Array, "B V"]) -> Float[Array, "B"]:
        answer = _pick(logits, self.answer)
        return jnp.where(
            jnp.isnan(answer), answer, (logits > answer[:, None]).sum(-1).astype(logits.dtype)
        )


@pytrees.dataclass
class Kl:
    """KL(p ‖ q) in nats, from the distribution p with logits `to` [B, V] to the patched one."""

    to: Float[Array, "B V"]
    position: int = pytrees.field(pytree_node=False, default=-1)
    vocab = None

    def check(self, n_vocab: int, batch: int) -> None:
        if jnp.shape(self.to) not in ((batch, n_vocab), (1, n_vocab)):
            raise ValueError(
                f"to: expected logits [{batch}, {n_vocab}], of every row and token, got shape {list(jnp.shape(self.to))}."
            )

    def row(self, b: int) -> "Kl":
        return self if len(self.to) == 1 else self.replace(to=self.to[b : b + 1])

    def __call__(self, logits: Float[Array, "B V"]) -> Float[Array, "B"]:
        p, q = jax.nn.log_softmax(self.to), jax.nn.log_softmax(logits)
        return (jnp.exp(p) * (p - q)).sum(-1)


Metric = LogitDiff | LogProb | Rank | Kl


def _pick(values: Float[Array, "B V"], tokens: Int[Array, "*B"]) -> Float[Array, "B"]:
    return _columns(values, jnp.broadcast_to(tokens, values.shape[:1])[:, None])[:, 0]


def _columns(values: Float[Array, "B V"], tokens: Int[Array, "B n"]) -> Float[Array, "B n"]:
    """The values of each row at `tokens`; NaN outside of the vocabulary, also below 0."""
    return jnp.take_along_axis(
        values, jnp.where(tokens < 0, values.shape[1], tokens), 1, mode="fill", fill_value=jnp.nan
    )


def logit_diff(
    answer: int | Int[Array, "B"], foil: int | Int[Array, "B"], position: int = -1
) -> LogitDiff:
    """logit(answer) - logit(foil) after `position`; one token for all rows, or one a row."""
    return LogitDiff(
        jnp.stack(jnp.broadcast_arrays(_ids(answer, "answer"), _ids(foil, "foil")), -1), position
    )


def logprob(answer: int | Int[Array, "B"], position: int = -1) -> LogProb:
    """log p(answer) after `position`, in nats."""
    return LogProb(_ids(answer, "answer"), position)


def rank(answer: int | Int[Array, "B"], position: int = -1) -> Rank:
    """Rank of `answer` after `position`, 0 is the top."""
    return Rank(_ids(answer, "answer"), position)


def _ids(tokens: Any, name: str) -> Int[Array, "*B"]:
    """Returns `tokens` as an array; raises ValueError unless they are integers. The vocabulary is known only to `check_metric`."""
    check_integers(tokens, name)
    return jnp.asarray(tokens)


def kl(to: Float[Array, "B V"], position: int = -1) -> Kl:
    """KL divergence in nats from the distribution with logits `to` (a run's, after `position`) to the patched one."""
    return Kl(jnp.asarray(to), position)


def check_metric(metric: Metric, n_vocab: int, batch: int) -> None:
    """Raises ValueError for a metric of tokens outside of the vocabulary, or of another number of rows than `batch`."""
    if hasattr(metric, "check"):
        metric.check(n_vocab, batch)
    elif getattr(metric, "vocab", None) is not None:
        check_ids(metric.vocab, n_vocab, "vocab")


def check_tokens(tokens: Any, n_vocab: int, batch: int, name: str) -> None:
    """Raises ValueError unless `tokens` are one id of the vocabulary, or one for each of `batch` rows."""
    check_ids(tokens, n_vocab, name)
    if jnp.shape(tokens) not in ((), (batch,)):
        raise ValueError(
            f"{name}: expected one token, or one for each of {batch} rows, got shape {list(jnp.shape(tokens))}."
        )


def scored_position(metric: Metric, n_tokens: int) -> int:
    """The column that `metric` reads. Raises ValueError when the tokens do not have it."""
    column = metric.position + n_tokens if metric.position < 0 else metric.position
    if not 0 <= column < n_tokens:
        raise ValueError(
            f"position: expected {-n_tokens} to {n_tokens - 1} for {n_tokens} tokens, got {metric.position}."
        )
    return column


def unembed_scored(
    unembedding: Float[Array, "V D"], x: Float[Array, "B D"], metric: Metric
) -> Float[Array, "B n"]:
    """Logits [B, n or V] of normed residuals, for no more tokens than `metric` needs."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    if metric.vocab is None:
        return jnp.einsum("bd,vd->bv", x, unembedding.astype(x.dtype), preferred_element_type=wide)
    rows = jnp.broadcast_to(metric.vocab, (x.shape[0], metric.vocab.shape[-1]))
    vectors = unembedding.at[rows].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    return jnp.einsum("bd,bnd->bn", x, vectors.astype(x.dtype), preferred_element_type=wide)


def needed(logits: Float[Array, "B V"], metric: Metric) -> Float[Array, "B n"]:
    """The logits that `metric` needs, of all."""
    if metric.vocab is None:
        return logits
    return _columns(
        logits, jnp.broadcast_to(metric.vocab, (logits.shape[0], metric.vocab.shape[-1]))
    )
