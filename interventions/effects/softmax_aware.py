"""The effect of a changed query or key on a head's output, recomputed through the softmax.

A first-order estimate at q or k fails where the softmax is saturated, because its gradient vanishes
there. AtP* (Kramár et al. 2024, arXiv:2403.00745, section 3.1.1) recomputes the pattern under the
patch and takes the gradient behind it: Σ_s ∂m/∂pattern[t, s] · Δpattern[t, s]. Because z is linear
in the pattern and ∂m/∂pattern[t, s] = g[t] · v[s], with g = ∂m/∂z, that sum is g[t] · Δz[t], and no
gradient of a pattern is ever formed. All functions take one layer.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Queries = Float[Array, "B T H Dh"]
Keys = Float[Array, "B S H Dh"]
Mask = Bool[Array, "B 1 T S"] | None
_MAX_WEIGHTS = 2**22  # attention weights formed at a time


def attend(q: Queries, k: Keys, v: Keys, mask: Mask) -> Queries:
    """Returns the output z of every head."""
    return jax.nn.dot_product_attention(q, k, v, mask=mask)


def query_effect(
    q: Queries, q_source: Queries, k: Keys, v: Keys, g: Queries, mask: Mask
) -> Float[Array, "B T H"]:
    """Returns g · Δz with every query replaced by its source.

    Each query has a softmax of its own, so every cell is exact up to z.
    """
    return (g * (attend(q_source, k, v, mask) - attend(q, k, v, mask))).sum(-1)


def all_keys_effect(
    q: Queries, k: Keys, k_source: Keys, v: Keys, g: Queries, mask: Mask
) -> Float[Array, "B one H"]:
    """Returns g · Δz with all keys replaced at once."""
    return (g * (attend(q, k_source, v, mask) - attend(q, k, v, mask))).sum((1, 3))[:, None]


def key_effect(
    q: Queries, k: Keys, k_source: Keys, v: Keys, g: Queries, mask: Mask, group: int
) -> Float[Array, "B W H"]:
    """Returns g · Δz for each of W groups of `group` consecutive keys, replaced one at a time.

    All groups together take three matrix products.

    A group takes the share m of the attention and has the mean value y; the other keys have the
    mean value y₀. Both m and y follow from the new scores of the group, so
    Δz = m'·(y' - y) + (m' - m)·(y - y₀). For one key y' = y, which is the algorithm of AtP*. This
    form also holds where the group has nearly all the attention and 1 - m would round to 0.
    """
    mask = jnp.ones((q.shape[0], 1, q.shape[1], k.shape[1]), bool) if mask is None else mask
    n_batch, n_queries, n_heads, _ = q.shape
    heads = tuple(
        jnp.moveaxis(x, 2, 1).reshape(-1, x.shape[1], x.shape[3]) for x in (q, k, k_source, v, g)
    )
    masks = jnp.broadcast_to(mask, (mask.shape[0], n_heads, *mask.shape[2:]))
    masks = masks.reshape(-1, *mask.shape[2:])
    heads_per_batch = min(max(1, _MAX_WEIGHTS // (n_queries * k.shape[1])), len(masks))
    effect = jax.lax.map(
        functools.partial(_head_effect, group), (*heads, masks), batch_size=heads_per_batch
    )
    return jnp.swapaxes(effect.reshape(n_batch, n_heads, -1), 1, 2)


def _head_effect(group: int, head: tuple[Array, ...]) -> Float[Array, "W"]:
    *arrays, mask = head
    wide = jnp.promote_types(arrays[0].dtype, jnp.float32)
    q, k, k_source, v, g = (x.astype(wide) for x in arrays)
    q = q * q.shape[-1] ** -0.5
    scores = _grouped(jnp.where(mask, q @ k.T, -jnp.inf), group, -jnp.inf)
    change = _grouped(q @ (k_source - k).T, group, 0)
    value = _grouped(g @ v.T, group, 0)
    # Log weight of each group before and after the patch.
    old, new = jax.nn.logsumexp(scores, -1), jax.nn.logsumexp(scores + change, -1)
    log_ratio = jnp.where(jnp.isfinite(old), new - old, 0)
    # The mean value of each group, y, and its change.
    within = jnp.exp(scores - _finite(old)[..., None])
    within_new = jnp.exp(scores + change - _finite(new)[..., None])
    y = (within * value).sum(-1)
    moves = _difference(within, within_new, change - log_ratio[..., None])
    dy = (moves * (value - y[..., None])).sum(-1)
    # The share of each group, m, and its change.
    others, y_others = _others(old, y)
    m, rest = jax.nn.sigmoid(old - others), jax.nn.sigmoid(others - old)
    m_new = jax.nn.sigmoid(old + log_ratio - others)
    growth = jnp.expm1(jnp.clip(log_ratio, -1, 1))
    dm = jnp.where(jnp.abs(log_ratio) < 1, m * rest * growth / (1 + m * growth), m_new - m)
    return (m_new * dy + dm * (y - y_others)).sum(0)


def _difference(old: Array, new: Array, log_ratio: Array) -> Array:
    """Returns new - old without cancellation where the two are close."""
    return jnp.where(jnp.abs(log_ratio) < 1, old * jnp.expm1(jnp.clip(log_ratio, -1, 1)), new - old)


def _others(
    lse: Float[Array, "T W"], mean: Float[Array, "T W"]
) -> tuple[Float[Array, "T W"], Float[Array, "T W"]]:
    """Returns log weight and mean value of all groups except each one, without subtraction."""

    def join(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        weight = jnp.logaddexp(a[0], b[0])
        return weight, a[1] + jnp.exp(b[0] - _finite(weight)) * (b[1] - a[1])

    empty = (jnp.full_like(lse[:, :1], -jnp.inf), jnp.zeros_like(mean[:, :1]))
    before = jax.lax.associative_scan(join, (lse, mean), axis=1)
    after = jax.lax.associative_scan(join, (lse, mean), axis=1, reverse=True)
    before = [jnp.concatenate([e, x[:, :-1]], 1) for e, x in zip(empty, before)]
    after = [jnp.concatenate([x[:, 1:], e], 1) for e, x in zip(empty, after)]
    return join((before[0], before[1]), (after[0], after[1]))


def _finite(x: Array) -> Array:
    return jnp.where(jnp.isfinite(x), x, 0)


def _grouped(x: Float[Array, "T S"], group: int, fill: float) -> Float[Array, "T W G"]:
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % group)), constant_values=fill)
    return x.reshape(x.shape[0], -1, group)
