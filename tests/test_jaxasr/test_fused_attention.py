"""Fused kernels agree with explicit attention, and the right one is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.tiny import TINY
from rounding import assert_near

import jaxasr
from jaxasr import fused_attention

# A score has 3 digits in bfloat16, and so have the weights of the values. Values are near 1.
BFLOAT16 = 2e-2
N_KEYS, WIDTH = 300, 64


def draw(*lead: int, n: int, dtype: str = "bfloat16", seed: int = 0) -> jax.Array:
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(*lead, 2, n, WIDTH)), jnp.dtype(dtype))


def inputs(n_queries: int, dtype: str = "bfloat16") -> tuple[jax.Array, ...]:
    sizes = n_queries, N_KEYS, N_KEYS
    return tuple(draw(1, n=n, dtype=dtype, seed=i) for i, n in enumerate(sizes))


def explicit(q, k, v):
    return fused_attention.attend_by_xla(q, k, v, None)


@pytest.mark.parametrize("n_queries", [5, 130])
def test_the_kernel_for_a_tpu_equals_explicit_attention(n_queries):
    q, k, v = inputs(n_queries)
    z = fused_attention._attend_by_splash(q, k, v, interpret=True)
    assert z.shape == q.shape
    assert z.dtype == jnp.bfloat16
    assert_near(z, explicit(q, k, v), BFLOAT16)


def test_padding_of_keys_is_not_attended_to(monkeypatch):
    """Large padding would dominate the output if any query attended to it."""
    q, k, v = inputs(130)
    expected = fused_attention._attend_by_splash(q, k, v, interpret=True)
    pad = jnp.pad
    monkeypatch.setattr(jnp, "pad", lambda x, width: pad(x, width, constant_values=100))
    z = fused_attention._attend_by_splash(q, k, v, interpret=True)
    np.testing.assert_array_equal(z, expected)


def test_1500_frames_are_padded_to_three_blocks():
    assert fused_attention._block_and_padding(1500) == (512, 1536)
    assert fused_attention._block_and_padding(1) == (128, 128)
    assert fused_attention._block_and_padding(7040) == (512, 7168)


# JAX transforms.


@pytest.mark.parametrize("mapped", ["q", "k", "kv", "qkv"])
@pytest.mark.parametrize("n_queries", [3, 130])
def test_mapped_attention_equals_a_loop(mapped, n_queries):
    one = dict(zip("qkv", inputs(n_queries), strict=True))
    many = {name: draw(4, 1, n=one[name].shape[2], seed=9 + i) for i, name in enumerate(mapped)}
    axes = [0 if name in mapped else None for name in "qkv"]
    arguments = [many.get(name, one[name]) for name in "qkv"]
    attend = lambda q, k, v: fused_attention.attend(q, k, v, "auto")  # noqa: E731
    z = jax.jit(jax.vmap(attend, axes))(*arguments)
    for i in range(4):
        row = explicit(*[many[name][i] if name in mapped else one[name] for name in "qkv"])
        assert_near(z[i], row, BFLOAT16)


def test_cells_of_several_recordings_are_mapped_twice():
    q, (k, v) = draw(3, 2, 1, n=5), (draw(3, 1, n=N_KEYS, seed=i) for i in (1, 2))
    attend = lambda q, k, v: fused_attention.attend(q, k, v, "auto")  # noqa: E731
    z = jax.vmap(jax.vmap(attend, (0, None, None)))(q, k, v)
    for recording in range(3):
        for cell in range(2):
            row = explicit(q[recording, cell], k[recording], v[recording])
            assert_near(z[recording, cell], row, BFLOAT16)


def test_queries_that_share_keys_are_computed_as_one_row(monkeypatch):
    """Otherwise a kernel would read copies of the keys for every cell of a sweep."""
    shapes = []
    record = lambda q, k, v, kernel: shapes.append((q.shape, k.shape)) or q  # noqa: E731
    monkeypatch.setattr(fused_attention, "_attend_unmapped", record)
    _, k, v = inputs(3)
    jax.vmap(lambda q: fused_attention.attend(q, k, v, "auto"))(draw(4, 1, n=3))
    assert shapes[-1] == ((1, 2, 12, WIDTH), (1, 2, N_KEYS, WIDTH))


def test_derivatives_are_those_of_explicit_attention():
    arrays = inputs(7)
    attend = lambda q, k, v: fused_attention.attend(q, k, v, "auto")  # noqa: E731
    total = lambda fn: lambda *x: fn(*x).astype(jnp.float32).sum()  # noqa: E731
    for gradient, expected in zip(
        jax.grad(total(attend), (0, 1, 2))(*arrays),
        jax.grad(total(explicit), (0, 1, 2))(*arrays),
        strict=True,
    ):
        assert_near(gradient, expected, BFLOAT16)
    np.testing.assert_array_equal(
        jax.jvp(attend, arrays, arrays)[1], jax.jvp(explicit, arrays, arrays)[1]
    )


# The choice of a kernel.


def test_float32_attention_is_bitwise_the_explicit_one():
    q, k, v = inputs(130, "float32")
    np.testing.assert_array_equal(
        fused_attention.attend(q, k, v, "auto"), fused_attention.attend_by_xla(q, k, v, None)
    )


@pytest.mark.parametrize("has_cudnn", [True, False])
def test_the_device_and_the_dtype_choose_the_kernel(monkeypatch, has_cudnn):
    monkeypatch.setattr(fused_attention, "_runs_cudnn", lambda dtype, width: has_cudnn)
    config = jaxasr.SIZES["tiny"].replace(dtype="bfloat16")
    chosen = {name: fused_attention.chosen_kernel(config, name) for name in ("cpu", "gpu", "tpu")}
    assert chosen == {"cpu": "xla", "gpu": "cudnn" if has_cudnn else "xla", "tpu": "splash"}
    assert fused_attention.chosen_kernel(config.replace(dtype="float32"), "tpu") == "xla"
    mixed = config.replace(dtype="float32", products="bfloat16")
    assert fused_attention.chosen_kernel(mixed, "tpu") == "splash"
    assert fused_attention.chosen_kernel(TINY["80 mels"].replace(dtype="bfloat16"), "tpu") == "xla"


@pytest.mark.parametrize("kernel", ["cudnn", "splash"])
def test_a_kernel_asked_for_by_name_raises_where_it_cannot_run(kernel, monkeypatch):
    message = f"attention_kernel: '{kernel}' was asked for by name and cannot run on cpu"
    with pytest.raises(ValueError, match=message):
        fused_attention.attend(*inputs(3), kernel)
    config = jaxasr.SIZES["tiny"].replace(dtype="bfloat16", attention_kernel=kernel)
    with pytest.raises(ValueError, match=message):
        fused_attention.chosen_kernel(config)


def test_cudnn_is_tried_while_another_function_is_traced():
    fused_attention._runs_cudnn.cache_clear()
    answers = []
    jax.jit(lambda x: answers.append(fused_attention._runs_cudnn(x.dtype, WIDTH)) or x)(
        jnp.zeros(2, jnp.bfloat16)
    )
    assert answers == [False]  # tests run on a CPU


def test_a_gpu_gets_the_operation_of_cudnn(monkeypatch):
    monkeypatch.setattr(fused_attention, "_platform", lambda: "gpu")
    monkeypatch.setattr(fused_attention, "_runs_cudnn", lambda dtype, width: True)
    calls = []

    def record(q, k, v, *, implementation):
        calls.append((implementation, q.shape, k.shape))
        return jnp.zeros(q.shape, q.dtype)

    monkeypatch.setattr(jax.nn, "dot_product_attention", record)
    z = fused_attention.attend(*inputs(130), "auto")
    assert calls == [("cudnn", (1, 130, 2, WIDTH), (1, N_KEYS, 2, WIDTH))]
    assert z.shape == (1, 2, 130, WIDTH)
    fused_attention.attend(*inputs(5), "auto")  # few queries: the scores are small
    assert len(calls) == 1


@pytest.mark.parametrize("rows", [1, 2])
def test_a_mask_of_keys_equals_explicit_attention_and_its_derivatives(rows):
    """Long inputs with one row of the mask run head by head on a CPU."""
    q, k, v = (draw(rows, n=N_KEYS, dtype="float32", seed=i) for i in range(3))
    n_visible = jnp.array([120, 300])[:rows, None]
    mask = (jnp.arange(N_KEYS) < n_visible)[:, None, None, :]
    whole = jnp.broadcast_to(mask, (rows, 1, N_KEYS, N_KEYS))
    lengths = []

    def attend(mask, name):
        fn = getattr(fused_attention, name)
        lowered = jax.jit(fn).lower(q, k, v, mask).as_text()
        lengths.append(len(lowered))
        loss = jax.value_and_grad(lambda q, k, v: jnp.sin(fn(q, k, v, mask)).sum(), (0, 1, 2))
        return fn(q, k, v, mask), *jax.tree.leaves(loss(q, k, v))

    ours = attend(mask, "attend_with_mask")
    expected = attend(whole, "attend_by_xla")
    for value, reference in zip(ours, expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-5, atol=2e-5)
    assert lengths[0] != lengths[1]  # a different program
    changed = jnp.where(mask.swapaxes(2, 3), k, 9.0)
    np.testing.assert_array_equal(fused_attention.attend_with_mask(q, changed, v, mask), ours[0])
