"""Checks metrics, and selects the position and the logits that a metric reads."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from interventions.metrics import Metric
from interventions.scored_tokens import logits_at
from jaxasr import compiled, pytrees
from jaxasr.token_ids import check_ids


@pytrees.dataclass
class StackedMetric:
    """The metrics of B rows, stacked, so that rows can be selected by indexing arrays.

    Attributes:
        rows: one metric whose arrays have a leading axis [B].
    """

    rows: Metric

    @classmethod
    def of(cls, metric: Metric, rows: Sequence[int] | Int[np.ndarray, "B"]) -> "StackedMetric":
        """Stacks the metrics `metric.row(b)` of `rows`. Without `row`, each is `metric` itself."""
        row_of = getattr(metric, "row", None)
        metrics = [metric if row_of is None else row_of(int(b)) for b in rows]
        return cls(jax.tree.map(_stack_arrays, *metrics))

    @property
    def position(self) -> int:
        """The position whose logits are scored."""
        return self.rows.position

    @property
    def vocab(self) -> Int[Array, "B n"] | None:
        """The tokens whose logits are read, per row; None for all."""
        vocab = self.rows.vocab
        return None if vocab is None else jnp.reshape(vocab, (len(vocab), -1))

    @property
    def first(self) -> Metric:
        """The metric of the first row."""
        return jax.tree.map(lambda x: x[0] if _is_array(x) else x, self.rows)

    def __call__(self, logits: Float[Array, "B n"]) -> Float[Array, "B"]:
        if len(logits) == 1:  # one row needs no `vmap`, which would change its program
            return self.first(logits)
        arrays, structure = compiled.split(self.rows)

        def score_row(row_logits: Array, row_arrays: Any) -> Array:
            return structure.join(row_arrays)(row_logits[None])[0]

        return jax.vmap(score_row)(logits, arrays)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int)


def _stack_arrays(*leaves: Any) -> Any:
    """Stacks arrays on a new leading axis. Any other leaf is the same for all rows."""
    return jnp.stack(list(map(jnp.asarray, leaves))) if _is_array(leaves[0]) else leaves[0]


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
