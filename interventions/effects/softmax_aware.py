"""What a changed query or key does to an attention head's output, through the softmax and not along its tangent.

A first-order estimate at q or k fails where the softmax is saturated: its gradient vanishes there, however far the change goes.
AtP* (Kramár et al. 2024, arXiv 2403.00745, section 3.1.1) recomputes the pattern under the patch and takes the gradient behind it:
Σ_s ∂m/∂pattern[t, s] · Δpattern[t, s]. As z is linear in the pattern and ∂m/∂pattern[t, s] = g[t] · v[s], with g = ∂m/∂z,
that sum is g[t] · Δz[t]: no gradient of a pattern is ever formed. Everything here is one layer, in the public layout.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Queries = Float[Array, "B T H Dh"]
Keys = Float[Array, "B S H Dh"]
Mask = Bool[Array, "B 1 T S"] | None
_TILE = 2**22  # attention weights formed at a time


def attend(q: Queries, k: Keys, v: Keys, mask: Mask) -> Queries:
    return jax.nn.dot_product_attention(q, k, v, mask=mask)


def query_effect(
    q: Queries, q_source: Queries, k: Keys, v: Keys, g: Queries, mask: Mask
) -> Float[Array, "B T H"]:
    """g · Δz where every query is replaced by its source. Queries do not compete, so each cell is exact up to z."""
    return (g * (attend(q_source, k, v, mask) - attend(q, k, v, mask))).sum(-1)


def all_keys_effect(
    q: Queries, k: Keys, k_source: Keys, v: Keys, g: Queries, mask: Mask
) -> Float[Array, "B one H"]:
    """g · Δz where all keys are replaced at once."""
    return (g * (attend(q, k_source, v, mask) - attend(q, k, v, mask))).sum((1, 3))[:, None]


def key_effect(
    q: Queries, k: Keys, k_source: Keys, v: Keys, g: Queries, mask: Mask, group: int
) -> Float[Array, "B W H"]:
    """g · Δz where `group` consecutive keys at a time are replaced, the others staying: W groups, from three products in all.

    A group takes the share m of the attention and gives the mean value y, the others give y₀. Both m and y follow from the new scores of
    the group, so Δz = m'·(y' - y) + (m' - m)·(y - y₀). For one key y' = y, and this is AtP*'s algorithm; put this way, it also holds
    where the group has all the attention to lose, and there 1 - m is rounded away.
    """
    mask = jnp.ones((q.shape[0], 1, q.shape[1], k.shape[1]), bool) if mask is None else mask
    heads = tuple(
        jnp.moveaxis(x, 2, 1).reshape(-1, x.shape[1], x.shape[3]) for x in (q, k, k_source, v, g)
    )
    masks = jnp.broadcast_to(mask, (mask.shape[0], q.shape[2], *mask.shape[2:])).reshape(
        -1, *mask.shape[2:]
    )
    many = max(1, _TILE // (q.shape[1] * k.shape[1]))
    effect = jax.lax.map(
        functools.partial(_head, group), (*heads, masks), batch_size=min(many, len(masks))
    )
    return jnp.swapaxes(effect.reshape(q.shape[0], q.shape[2], -1), 1, 2)


def _head(group: int, x: tuple[Array, ...]) -> Float[Array, "W"]:
    q, k, k_source, v, g, mask = (
        a.astype(jnp.promote_types(a.dtype, jnp.float32)) if a.dtype != bool else a for a in x
    )
    q = q * q.shape[-1] ** -0.5
    scores = _grouped(jnp.where(mask, q @ k.T, -jnp.inf), group, -jnp.inf)
    change, value = _grouped(q @ (k_source - k).T, group, 0), _grouped(g @ v.T, group, 0)
    old, new = jax.nn.logsumexp(scores, -1), jax.nn.logsumexp(scores + change, -1)
    grows = jnp.where(jnp.isfinite(old), new - old, 0)
    within = jnp.exp(scores - _finite(old)[..., None])
    y = (within * value).sum(-1)
    moves = _difference(
        within, jnp.exp(scores + change - _finite(new)[..., None]), change - grows[..., None]
    )
    dy = (moves * (value - y[..., None])).sum(-1)
    others, y_others = _others(old, y)
    m, left, m_new = (
        jax.nn.sigmoid(old - others),
        jax.nn.sigmoid(others - old),
        jax.nn.sigmoid(old + grows - others),
    )
    small = jnp.expm1(jnp.clip(grows, -1, 1))
    dm = jnp.where(jnp.abs(grows) < 1, m * left * small / (1 + m * small), m_new - m)
    return (m_new * dy + dm * (y - y_others)).sum(0)


def _difference(old: Array, new: Array, log_ratio: Array) -> Array:
    """new - old, with all its digits where they hardly differ."""
    return jnp.where(jnp.abs(log_ratio) < 1, old * jnp.expm1(jnp.clip(log_ratio, -1, 1)), new - old)


def _others(
    lse: Float[Array, "T W"], mean: Float[Array, "T W"]
) -> tuple[Float[Array, "T W"], Float[Array, "T W"]]:
    """Log weight and mean value of all groups but each, never by subtraction."""

    def both(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        weight = jnp.logaddexp(a[0], b[0])
        return weight, a[1] + jnp.exp(b[0] - _finite(weight)) * (b[1] - a[1])

    nothing = (jnp.full_like(lse[:, :1], -jnp.inf), jnp.zeros_like(mean[:, :1]))
    before = jax.lax.associative_scan(both, (lse, mean), axis=1)
    after = jax.lax.associative_scan(both, (lse, mean), axis=1, reverse=True)
    before = [jnp.concatenate([n, x[:, :-1]], 1) for n, x in zip(nothing, before)]
    after = [jnp.concatenate([x[:, 1:], n], 1) for n, x in zip(nothing, after)]
    return both(tuple(before), tuple(after))


def _finite(x: Array) -> Array:
    return jnp.where(jnp.isfinite(x), x, 0)


def _grouped(x: Float[Array, "T S"], group: int, fill: float) -> Float[Array, "T W G"]:
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % group)), constant_values=fill)
    return x.reshape(x.shape[0], -1, group)
