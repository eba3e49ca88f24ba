"""Checks metrics, and selects the position and the logits that a metric reads."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from interventions.metrics import Metric
from interventions.scored_tokens import logits_at
from jaxasr.token_ids import check_ids


def metric_of_row(metric: Metric, b: int) -> Metric:
    """Returns the metric of row `b`, or `metric` itself if it is the same for all rows."""
    row = getattr(metric, "row", None)  # `row` is optional (see `Metric`)
    return metric if row is None else row(b)


def check_metric(metric: Metric, n_vocab: int, batch: int) -> None:
    """Raises ValueError if a token is not in the vocabulary, or the tokens do not fit `batch`."""
    check = getattr(metric, "check", None)
    if check is not None:
        check(n_vocab, batch)
    elif getattr(metric, "vocab", None) is not None:
        check_ids(metric.vocab, n_vocab, "vocab")


def scored_position(metric: Metric, n_tokens: int) -> int:
    """Returns the index of the token whose logits `metric` scores, counted from 0.

    Raises:
        ValueError: the run has no such token.

    Example:
        >>> import interventions
        >>> scored_position(interventions.logprob(13), n_tokens=5)  # the last token
        4
    """
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
    """Computes the logits of the tokens that `metric` reads.

    Args:
        unembedding: one vector per token of the vocabulary.
        x: outputs of the decoder's final norm at the scored position.
        metric: the metric. Without `metric.vocab` it reads the whole vocabulary.
    """
    out_dtype = jnp.promote_types(x.dtype, jnp.float32)
    if metric.vocab is None:
        return jnp.einsum(
            "bd,vd->bv", x, unembedding.astype(x.dtype), preferred_element_type=out_dtype
        )
    tokens = jnp.broadcast_to(metric.vocab, (x.shape[0], metric.vocab.shape[-1]))
    # Unknown ids get NaN, not the vector of another token.
    vectors = unembedding.at[tokens].get(
        mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
    )
    return jnp.einsum("bd,bnd->bn", x, vectors.astype(x.dtype), preferred_element_type=out_dtype)


def needed_logits(logits: Float[Array, "B V"], metric: Metric) -> Float[Array, "B n"]:
    """Selects the logits that `metric` reads from the logits of the whole vocabulary."""
    if metric.vocab is None:
        return logits
    tokens = jnp.broadcast_to(metric.vocab, (logits.shape[0], metric.vocab.shape[-1]))
    return logits_at(logits, tokens)
