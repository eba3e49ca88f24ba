"""Compares arrays that the same float32 operations give in different orders."""

import jax
import numpy as np

ROUNDING = 5e-6  # of max(1, max|value|)


def assert_near(a: jax.Array, b: jax.Array, tolerance: float = ROUNDING) -> None:
    """Asserts that arrays differ by at most `tolerance` times max(1, max|b|)."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    assert a.shape == b.shape
    assert np.max(np.abs(a - b)) <= tolerance * max(1.0, np.max(np.abs(b)))


def assert_all_near(a: object, b: object) -> None:
    """Asserts that all arrays of two pytrees are near."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert_near(x, y)
