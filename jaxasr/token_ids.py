"""Checks token ids, on the host and before anything is compiled."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxasr.taps import is_traced


def check_integers(ids: Any, name: str) -> None:
    """Raises ValueError for ids that are not integers, or that do not fit into int32."""
    ids = _array(ids)
    concrete = not is_traced(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer) or (
        concrete and ids.size and np.abs(ids).max() > np.iinfo(np.int32).max
    ):
        found = (
            f"{ids} ({ids.dtype})"
            if concrete and ids.size == 1
            else f"{ids.dtype} {list(ids.shape)}"
        )
        raise ValueError(
            f"{name}: expected token ids, which are integers of a vocabulary, got {found}."
        )


def check_ids(ids: Any, n_vocab: int, name: str) -> None:
    """Raises ValueError for ids outside of the vocabulary. Of traced ids only the type is checked.

    Args:
        ids: one id, or an array of them.
        n_vocab: how many tokens there are.
        name: the argument, for the message.
    """
    check_integers(ids, name)
    ids = _array(ids)
    if is_traced(ids):
        return
    if (bad := ids[(ids < 0) | (ids >= n_vocab)]).size:
        more = f" and {bad.size - 1} more" if bad.size > 1 else ""
        raise ValueError(
            f"{name}: expected token ids from 0 to {n_vocab - 1}, got {bad.flat[0]}{more}. "
            "English-only and multilingual tokenizers number their tokens differently: "
            "is it an id of another model's tokenizer?"
        )


def _array(ids: Any) -> Any:
    return (
        ids if is_traced(ids) else np.asarray(ids)
    )  # NumPy: under a trace even the minimum of a constant would be traced
