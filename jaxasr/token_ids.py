"""Checks token ids on the host, before a program is compiled."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxasr.taps import is_traced


def check_integers(ids: Any, name: str) -> None:
    """Checks that ids are integers that fit into int32.

    Args:
        ids: one id, or an array of them.
        name: name of the argument in the error message.

    Raises:
        ValueError: ids that are not integers, or do not fit into int32.
    """
    ids = _as_array(ids)
    concrete = not is_traced(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer) or (
        concrete and ids.size and np.abs(ids).max() > np.iinfo(np.int32).max
    ):
        is_scalar = concrete and ids.size == 1
        got = f"{ids} ({ids.dtype})" if is_scalar else f"{ids.dtype} {list(ids.shape)}"
        raise ValueError(
            f"{name}: expected token ids, which are integers of a vocabulary, got {got}."
        )


def check_ids(ids: Any, n_vocab: int, name: str) -> None:
    """Checks that ids are in the vocabulary. Of traced ids, checks only the type.

    Args:
        ids: one id, or an array of them.
        n_vocab: number of tokens.
        name: name of the argument in the error message.

    Raises:
        ValueError: ids that are not integers, or not from 0 to `n_vocab` - 1.
    """
    check_integers(ids, name)
    ids = _as_array(ids)
    if is_traced(ids):
        return
    unknown = ids[(ids < 0) | (ids >= n_vocab)]
    if unknown.size:
        more = f" and {unknown.size - 1} more" if unknown.size > 1 else ""
        raise ValueError(
            f"{name}: expected token ids from 0 to {n_vocab - 1}, got {unknown.flat[0]}{more}. "
            "Check that no id is from another model's tokenizer. English-only and multilingual "
            "tokenizers number their tokens differently."
        )


def _as_array(ids: Any) -> Any:
    # Uses NumPy, because inside a trace jnp would also trace comparisons of concrete ids.
    return ids if is_traced(ids) else np.asarray(ids)
