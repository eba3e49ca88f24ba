"""Checks the token ids that metrics score, and selects their logits."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxasr.token_ids import check_ids

# One token id, or one id per row.
Tokens = int | np.integer | Int[Array, "*B"] | Int[np.ndarray, "*B"]


def logits_at(logits: Float[Array, "B V"], tokens: Int[Array, "B n"]) -> Float[Array, "B n"]:
    """Returns the logits of `tokens` in each row, and NaN for ids outside of the vocabulary.

    Example:
        >>> logits_at(jnp.array([[5.0, 6.0, 7.0]]), jnp.array([[2, 0]])).tolist()
        [[7.0, 5.0]]
    """
    # `take_along_axis` counts negative ids from the end, so they are moved past the end.
    index = jnp.where(tokens < 0, logits.shape[1], tokens)
    return jnp.take_along_axis(logits, index, 1, mode="fill", fill_value=jnp.nan)


def check_tokens(tokens: Tokens, n_vocab: int, batch: int, name: str) -> None:
    """Raises ValueError unless `tokens` is one id of the vocabulary, or has one id per row."""
    check_ids(tokens, n_vocab, name)
    if jnp.shape(tokens) not in ((), (batch,)):
        raise ValueError(
            f"{name}: expected one token, or one for each of {batch} rows, "
            f"got shape {list(jnp.shape(tokens))}."
        )
