"""Token ids that metrics score: checked, and selected from logits."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxasr.token_ids import check_ids

Tokens = int | np.integer | Int[Array, "*B"] | Int[np.ndarray, "*B"]


def logits_at(values: Float[Array, "B V"], tokens: Int[Array, "B n"]) -> Float[Array, "B n"]:
    """The values of each row at `tokens`; NaN outside of the vocabulary."""
    # A negative index would count from the end; past the end `fill` applies.
    index = jnp.where(tokens < 0, values.shape[1], tokens)
    return jnp.take_along_axis(values, index, 1, mode="fill", fill_value=jnp.nan)


def check_tokens(tokens: Tokens, n_vocab: int, batch: int, name: str) -> None:
    """Raises ValueError unless `tokens` are one id of the vocabulary, or one per row."""
    check_ids(tokens, n_vocab, name)
    if jnp.shape(tokens) not in ((), (batch,)):
        raise ValueError(
            f"{name}: expected one token, or one for each of {batch} rows, "
            f"got shape {list(jnp.shape(tokens))}."
        )
