"""Tensors are read once, copied exactly, and used by JAX without another copy."""

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxasr.weights import assemble
from jaxasr.weights.checkpoint import LazyTensor, Tensors
from jaxasr.weights.copying import copy_cast, empty_aligned, is_finite
from tests.golden import tiny

DTYPES = ("float32", "float16", ml_dtypes.bfloat16)


@pytest.mark.parametrize(("stored", "kept"), list(itertools.product(DTYPES, DTYPES)))
@pytest.mark.parametrize("shape", [(), (5,), (0, 4), (40, 33), (3, 20, 17)])
def test_a_copy_equals_the_assignment(shape, stored, kept):
    x = np.random.default_rng(0).normal(size=shape).astype(stored)
    for tensor in (x, x.transpose()):
        expected, target = (np.empty(tensor.shape, kept) for _ in range(2))
        expected[...] = tensor
        copy_cast(tensor, target)
        assert target.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_every_number_that_is_not_finite_is_found(dtype, value):
    x = np.array([[0, -1, np.finfo(np.float16).max], [-0.0, 3e-8, 2]], dtype)
    assert is_finite(x)
    x[1, 1] = value
    assert not is_finite(x)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only a CPU shares its memory")
def test_jax_uses_an_aligned_array_without_a_copy():
    x = empty_aligned((300, 200), np.float32)
    x[...] = 1
    assert jax.device_put(x).unsafe_buffer_pointer() == x.ctypes.data


def test_every_tensor_is_read_once():
    config = tiny.TINY["80 mels"]
    checkpoint = tiny.checkpoint(config, tiny.tiny_state(config))
    n_read = Counter()

    def count(name, entry):
        def read():
            n_read[name] += 1
            return entry.read()

        return LazyTensor(entry.shape, entry.dtype, read)

    entries = checkpoint.tensors.entries
    counted = Tensors({name: count(name, entry) for name, entry in entries.items()})
    model = assemble(checkpoint.replace(tensors=counted))
    assert n_read == dict.fromkeys(entries, 1)
    expected = assemble(checkpoint)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), model, expected)
    assert all(isinstance(x, jnp.ndarray) for x in jax.tree.leaves(model))
