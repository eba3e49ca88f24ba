"""Estimates the effect of changed queries or keys on the metric, through an exact softmax.

A first-order estimate at q or k fails where the softmax is saturated, because the gradient of the
softmax vanishes there. AtP* (Kramár et al. 2024, arXiv:2403.00745, section 3.1.1) therefore
recomputes the attention pattern under the patch. Its estimate of the change of the metric is
Σ_s ∂metric/∂pattern[t, s] · Δpattern[t, s]. Let z be the output of the head and g = ∂metric/∂z.
Then ∂metric/∂pattern[t, s] is g[t] · v[s], and the estimate equals g[t] · Δz[t].

All functions take the arrays of one layer. Arguments in `_source` are of the source.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Also the shape of the output z and of its gradient g.
Queries = Float[Array, "B T H Dh"]
Keys = Float[Array, "B S H Dh"]  # also the shape of the values v
# True where a query attends to a key. None: everywhere.
Mask = Bool[Array, "B 1 T S"] | None
_MAX_WEIGHTS = 2**22  # attention weights per batch of heads, to bound the device memory


def attend(q: Queries, k: Keys, v: Keys, mask: Mask) -> Queries:
    """Returns the output z of every head."""
    return jax.nn.dot_product_attention(q, k, v, mask=mask)


def query_effect(
    q: Queries, q_source: Queries, k: Keys, v: Keys, g: Queries, mask: Mask
) -> Float[Array, "B T H"]:
    """Returns g · Δz with each query replaced by that of the source.

    Each query has a separate softmax, so Δz is exact for every query.
    """
    return (g * (attend(q_source, k, v, mask) - attend(q, k, v, mask))).sum(-1)


def all_keys_effect(
    q: Queries, k: Keys, k_source: Keys, v: Keys, g: Queries, mask: Mask
) -> Float[Array, "B one H"]:
    """Returns g · Δz with all keys replaced at once."""
    return (g * (attend(q, k_source, v, mask) - attend(q, k, v, mask))).sum((1, 3))[:, None]


def key_effect(
    q: Queries, k: Keys, k_source: Keys, v: Keys, g: Queries, mask: Mask, window: int
) -> Float[Array, "B W H"]:
    """Returns g · Δz for each of W windows of keys, replaced one window at a time.

    Let m be the share of a query's attention that a window gets. Let y be the mean value in the
    window, weighted by attention. The keys outside of the window have the mean value y₀, which the
    patch does not change. With m' and y' after the patch, Δz = m'·(y' - y) + (m' - m)·(y - y₀). For
    windows of one key y' = y, and this is the algorithm of AtP*. The formula remains accurate if m
    is so close to 1 that 1 - m rounds to 0. It needs three matrix products for all windows.

    Args:
        q: queries.
        k: keys.
        k_source: keys of the source.
        v: values.
        g: gradient of the metric with respect to z.
        mask: True where a query attends to a key. None: everywhere.
        window: number of consecutive keys per window.
    """
    mask = jnp.ones((q.shape[0], 1, q.shape[1], k.shape[1]), bool) if mask is None else mask
    n_batch, n_queries, n_heads, _ = q.shape
    # [B, T, H, Dh] -> [B·H, T, Dh], so that `lax.map` runs over the heads of all examples.
    heads = tuple(
        jnp.moveaxis(x, 2, 1).reshape(-1, x.shape[1], x.shape[3]) for x in (q, k, k_source, v, g)
    )
    masks = jnp.broadcast_to(mask, (mask.shape[0], n_heads, *mask.shape[2:]))
    masks = masks.reshape(-1, *mask.shape[2:])
    heads_per_batch = min(max(1, _MAX_WEIGHTS // (n_queries * k.shape[1])), len(masks))
    effect = jax.lax.map(
        functools.partial(_head_effect, window), (*heads, masks), batch_size=heads_per_batch
    )
    return jnp.swapaxes(effect.reshape(n_batch, n_heads, -1), 1, 2)


def _head_effect(window: int, head: tuple[Array, ...]) -> Float[Array, "W"]:
    """Computes `key_effect` for one head of one example."""
    *arrays, mask = head
    dtype = jnp.promote_types(arrays[0].dtype, jnp.float32)
    q, k, k_source, v, g = (x.astype(dtype) for x in arrays)
    q = q * q.shape[-1] ** -0.5
    scores = _split_windows(jnp.where(mask, q @ k.T, -jnp.inf), window, -jnp.inf)
    score_change = _split_windows(q @ (k_source - k).T, window, 0)
    g_v = _split_windows(g @ v.T, window, 0)  # values enter only through their product with g
    # The log of each window's unnormalised attention, before and after the patch.
    log_old = jax.nn.logsumexp(scores, -1)
    log_new = jax.nn.logsumexp(scores + score_change, -1)
    log_ratio = jnp.where(jnp.isfinite(log_old), log_new - log_old, 0)
    # The mean value of each window, y, and its change.
    pattern = jnp.exp(scores - _zero_if_infinite(log_old)[..., None])
    new_pattern = jnp.exp(scores + score_change - _zero_if_infinite(log_new)[..., None])
    y = (pattern * g_v).sum(-1)
    pattern_change = _difference(pattern, new_pattern, score_change - log_ratio[..., None])
    dy = (pattern_change * (g_v - y[..., None])).sum(-1)
    # The share of each window, m, and its change.
    log_rest, y_rest = _outside_each_window(log_old, y)
    m, m_rest = jax.nn.sigmoid(log_old - log_rest), jax.nn.sigmoid(log_rest - log_old)
    m_new = jax.nn.sigmoid(log_old + log_ratio - log_rest)
    growth = jnp.expm1(jnp.clip(log_ratio, -1, 1))
    # For small ratios m_new - m would cancel, so the difference is computed from the ratio.
    dm = jnp.where(jnp.abs(log_ratio) < 1, m * m_rest * growth / (1 + m * growth), m_new - m)
    return (m_new * dy + dm * (y - y_rest)).sum(0)


def _difference(old: Array, new: Array, log_ratio: Array) -> Array:
    """Returns new - old, without cancellation if new / old = exp(log_ratio) is close to 1."""
    # `clip` keeps the branch that `where` does not select finite.
    return jnp.where(jnp.abs(log_ratio) < 1, old * jnp.expm1(jnp.clip(log_ratio, -1, 1)), new - old)


def _outside_each_window(
    log_weight: Float[Array, "T W"], mean: Float[Array, "T W"]
) -> tuple[Float[Array, "T W"], Float[Array, "T W"]]:
    """Returns, for each window, the log weight and the mean value of all other windows.

    Joins the windows before and after each one. Subtraction from the total would lose precision.
    """

    def join(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        weight = jnp.logaddexp(a[0], b[0])
        return weight, a[1] + jnp.exp(b[0] - _zero_if_infinite(weight)) * (b[1] - a[1])

    empty = (jnp.full_like(log_weight[:, :1], -jnp.inf), jnp.zeros_like(mean[:, :1]))
    before = jax.lax.associative_scan(join, (log_weight, mean), axis=1)
    after = jax.lax.associative_scan(join, (log_weight, mean), axis=1, reverse=True)
    # Shifted by one window, each scan excludes the window itself.
    before = [jnp.concatenate([e, x[:, :-1]], 1) for e, x in zip(empty, before)]
    after = [jnp.concatenate([x[:, 1:], e], 1) for e, x in zip(empty, after)]
    return join((before[0], before[1]), (after[0], after[1]))


def _zero_if_infinite(x: Array) -> Array:
    return jnp.where(jnp.isfinite(x), x, 0)


def _split_windows(x: Float[Array, "T S"], window: int, fill: float) -> Float[Array, "T W G"]:
    """Splits S keys into W windows of G keys. Fills the last window with `fill`."""
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % window)), constant_values=fill)
    return x.reshape(x.shape[0], -1, window)
