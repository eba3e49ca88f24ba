"""Computes attention without a mask, by the fastest kernel of the device.

A fused kernel computes scores, softmax and the sum of values in one pass, so it never stores the
scores. `docs/decisions/0019-fused-attention.md` has the reasons for the choice.

| kernel | device | dtypes |
|---|---|---|
| `"cudnn"` | NVIDIA GPU | bfloat16, float16 |
| `"splash"` | TPU | bfloat16 |
| `"xla"` | every device | all; stores the scores, except on a CPU |
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxasr import cpu_kernels
from jaxasr.config import Config

# Axes: B batch, H heads, T query time, S key time, Dh width of a head.
Queries = Float[Array, "B H T Dh"]
KeysOrValues = Float[Array, "B H S Dh"]
Mask = Bool[Array, "B 1 #T S"]  # one row serves all queries

# Fewest queries for which "auto" chooses a fused kernel. A TPU computes blocks of 128 queries, and
# the scores of fewer queries are small.
MIN_FUSED_QUERIES = 128
_TPU_BLOCKS = 512, 256, 128  # queries or keys per step of the TPU kernel
_SPLASH = "jax.experimental.pallas.ops.tpu.splash_attention"


def compute_scores(q: Queries, k: KeysOrValues) -> Float[Array, "B H T S"]:
    """Returns the scaled dot products of queries and keys, in float32 or wider."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    return jnp.einsum("bhtd,bhsd->bhts", q * q.shape[-1] ** -0.5, k, preferred_element_type=wide)


def softmax(scores: Float[Array, "B H T S"], mask: Mask | None) -> Float[Array, "B H T S"]:
    """Returns the softmax over the keys that `mask` allows, in float32 or wider."""
    # As in openai/whisper. The sum would lose digits in 16 bits.
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    return jax.nn.softmax(scores if mask is None else jnp.where(mask, scores, -jnp.inf), axis=-1)


def attend_by_xla(q: Queries, k: KeysOrValues, v: KeysOrValues, mask: Mask | None) -> Queries:
    """Computes attention by matrix products and a softmax, as XLA compiles them."""
    pattern = softmax(compute_scores(q, k), mask).astype(q.dtype)
    return jnp.einsum("bhts,bhsd->bhtd", pattern, v)


def attend_with_mask(q: Queries, k: KeysOrValues, v: KeysOrValues, mask: Mask) -> Queries:
    """Attends from each query to the keys that `mask` allows.

    With one row of the mask for all queries, a CPU does not store the scores.
    """
    if mask.shape[2] > 1 or q.shape[2] < cpu_kernels.MIN_LONG_QUERIES:
        return attend_by_xla(q, k, v, mask)
    by_xla = functools.partial(attend_by_xla, mask=mask)
    return cpu_kernels.attend(q, k, v, default=by_xla, is_visible=mask[:, 0, 0])


def chosen_kernel(config: Config, platform: str | None = None) -> str:
    """Returns the kernel of the encoder's attention: "xla", "cudnn" or "splash".

    Decoder cross-attention uses the same kernel for 128 queries or more.

    Args:
        config: dtypes, and `attention_kernel`.
        platform: "cpu", "gpu" or "tpu". None: that of JAX's default device.

    Raises:
        ValueError: the kernel was asked for by name and cannot run.

    Example:
        >>> from jaxasr.fused_attention import chosen_kernel
        >>> chosen_kernel(jaxasr.SIZES["tiny"], "cpu")
        'xla'
    """
    dtype = jnp.dtype(config.product_dtype)
    platform = _platform() if platform is None else platform
    return _choose(config.attention_kernel, platform, dtype, config.encoder.d_head)


def attend(q: Queries, k: KeysOrValues, v: KeysOrValues, kernel: str) -> Queries:
    """Attends from each query to all keys.

    Derivatives are those of `attend_by_xla`. Under `vmap`, queries of mapped rows that share keys
    and values become queries of one row.

    Args:
        q: queries.
        k: keys.
        v: values.
        kernel: `Config.attention_kernel`.

    Returns:
        The weighted sum of the values.

    Raises:
        ValueError: the kernel was asked for by name and cannot run.
    """
    is_wide = q.dtype not in (jnp.bfloat16, jnp.float16)
    if kernel == "xla" or (kernel == "auto" and is_wide):
        return _attend_by_xla_or_cpu(q, k, v)
    return _make_attention(kernel)(q, k, v)


@functools.cache
def _make_attention(kernel: str) -> Callable[[Array, Array, Array], Array]:
    """Returns attention by one kernel, with rules for `vmap` and derivatives."""

    @jax.custom_batching.custom_vmap
    def forward(q: Array, k: Array, v: Array) -> Array:
        return _attend_unmapped(q, k, v, kernel)

    @forward.def_vmap
    def map_forward(
        n: int, is_mapped: list[bool], q: Array, k: Array, v: Array
    ) -> tuple[Array, bool]:
        if not any(is_mapped[1:]):
            # [n, B, H, T, Dh] -> [B, H, n T, Dh]: all rows attend to the same keys.
            rows = jnp.moveaxis(q, 0, 2).reshape(*q.shape[1:3], -1, q.shape[-1])
            z = forward(rows, k, v).reshape(*q.shape[1:3], n, *q.shape[3:])
            return jnp.moveaxis(z, 2, 0), True
        rows = [
            jnp.reshape(x if mapped else jnp.broadcast_to(x, (n, *x.shape)), (-1, *x.shape[-3:]))
            for x, mapped in zip((q, k, v), is_mapped, strict=True)
        ]
        return forward(*rows).reshape(n, -1, *rows[0].shape[1:]), True

    attention = jax.custom_jvp(lambda q, k, v: forward(q, k, v))

    @attention.defjvp
    def differentiate(primals: Any, tangents: Any) -> tuple[Array, Array]:
        # A backward pass through `checkpoint` computes the scores again instead of keeping them.
        explicit = jax.checkpoint(functools.partial(attend_by_xla, mask=None))
        return forward(*primals), jax.jvp(explicit, primals, tangents)[1]

    return attention


def _attend_unmapped(q: Queries, k: KeysOrValues, v: KeysOrValues, kernel: str) -> Queries:
    """Runs a kernel. JAX has applied `vmap` already, so the shapes are those that are computed."""
    if kernel == "auto" and q.shape[2] < MIN_FUSED_QUERIES:
        return attend_by_xla(q, k, v, None)
    platform, d_head = _platform(), q.shape[-1]
    chosen = _choose(kernel, platform, q.dtype, d_head)
    if chosen == "cudnn":
        return _attend_by_cudnn(q, k, v)
    if chosen == "splash" and kernel == "splash":
        return _attend_by_splash(q, k, v)
    if kernel == "auto" and platform != "gpu" and _runs_splash(q.dtype, d_head):
        # A program for a TPU can be compiled on a CPU, so the platform decides when it is compiled.
        return jax.lax.platform_dependent(
            q, k, v, tpu=_attend_by_splash, default=_attend_by_xla_or_cpu
        )
    return _attend_by_xla_or_cpu(q, k, v)


def _attend_by_xla_or_cpu(q: Queries, k: KeysOrValues, v: KeysOrValues) -> Queries:
    if q.shape[2] < cpu_kernels.MIN_LONG_QUERIES:
        return attend_by_xla(q, k, v, None)
    return cpu_kernels.attend(q, k, v, default=functools.partial(attend_by_xla, mask=None))


def _choose(kernel: str, platform: str, dtype: Any, d_head: int) -> str:
    """Returns the kernel that runs. Raises if one was asked for by name and cannot run."""
    runs = {
        "cudnn": platform == "gpu" and _runs_cudnn(jnp.dtype(dtype), d_head),
        "splash": platform == "tpu" and _runs_splash(dtype, d_head),
        "xla": True,
    }
    if kernel == "auto":
        return next(name for name, can_run in runs.items() if can_run)
    if not runs[kernel]:
        raise ValueError(
            f"attention_kernel: {kernel!r} was asked for by name and cannot run on {platform} with "
            f"{jnp.dtype(dtype).name} heads of width {d_head}. Expected: 'cudnn' on an NVIDIA GPU "
            "with cuDNN, bfloat16 or float16, and a width that is a multiple of 8 up to 128; "
            "'splash' on a TPU, bfloat16, and a width that is a multiple of 64. 'auto' chooses a "
            "kernel that runs."
        )
    return kernel


def _platform() -> str:
    """Returns "cpu", "gpu" or "tpu", the platform of JAX's default device."""
    device = jax.config.jax_default_device  # pyright: ignore
    if device is None:
        return jax.default_backend()
    platform = device if isinstance(device, str) else device.platform
    return "gpu" if platform in ("cuda", "rocm") else platform


@functools.cache
def _runs_cudnn(dtype: Any, d_head: int) -> bool:
    """Returns whether cuDNN compiles a small attention here."""
    if dtype not in (jnp.bfloat16, jnp.float16) or d_head % 8 or d_head > 128:
        return False
    # Versions of CUDA, cuDNN and of the GPU decide, and only compiling shows that they fit.
    inputs = [jax.ShapeDtypeStruct((1, 1, MIN_FUSED_QUERIES, d_head), dtype)] * 3
    try:
        jax.jit(_attend_by_cudnn).lower(*inputs).compile()
    except Exception:  # every failure has the same remedy, another kernel
        return False
    return True


def _runs_splash(dtype: Any, d_head: int) -> bool:
    """Returns whether the TPU kernel computes these heads, and this version of JAX has it."""
    return dtype == jnp.bfloat16 and d_head % 64 == 0 and _has_splash()


@functools.cache
def _has_splash() -> bool:
    try:
        return importlib.util.find_spec(_SPLASH) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def _attend_by_cudnn(q: Queries, k: KeysOrValues, v: KeysOrValues) -> Queries:
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    return jnp.swapaxes(jax.nn.dot_product_attention(q, k, v, implementation="cudnn"), 1, 2)


def _attend_by_splash(
    q: Queries, k: KeysOrValues, v: KeysOrValues, interpret: bool = False
) -> Queries:
    """Runs the Pallas kernel. It computes whole blocks, so queries and keys are padded."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    n_head, n_queries, n_keys = q.shape[1], q.shape[2], k.shape[2]
    block_q, padded_q = _block_and_padding(n_queries)
    block_k, padded_k = _block_and_padding(n_keys)
    q, k, v = (
        jnp.pad(x, ((0, 0), (0, 0), (0, padded - x.shape[2]), (0, 0)))
        for x, padded in ((q * q.shape[-1] ** -0.5, padded_q), (k, padded_k), (v, padded_k))
    )
    # Queries attend to keys of their own segment. Padded keys are segment 1, all else is segment 0.
    is_padding = (jnp.arange(padded_k) >= n_keys).astype(jnp.int32)
    segments = splash.SegmentIds(jnp.zeros(padded_q, jnp.int32), is_padding)
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([splash.FullMask((padded_q, padded_k))] * n_head),
        block_sizes=splash.BlockSizes(block_q=block_q, block_kv=block_k),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    # The kernel multiplies bfloat16, which has no other precision.
    with jax.default_matmul_precision("default"):
        z = jax.vmap(kernel, (0, 0, 0, None))(q, k, v, segments)
    return jnp.asarray(z)[:, :, :n_queries]


def _block_and_padding(n: int) -> tuple[int, int]:
    """Returns the size of a block, and `n` rounded up to whole blocks.

    Example:
        >>> _block_and_padding(1500)
        (512, 1536)
    """
    rounded = [(block, -(-n // block) * block) for block in _TPU_BLOCKS]
    # Large blocks are faster, unless they compute much padding.
    fitting = [(block, padded) for block, padded in rounded if padded <= 1.125 * n]
    return (fitting or rounded[-1:])[0]
