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


def query_effect(q: Queries, q_source: Queries, k: Keys, v: Keys, g: Queries, mask: Mask) -> Float[Array, "B T H"]:
    """g · Δz where every query is replaced by its source. Queries do not compete, so each cell is exact up to z."""
    return (g * (attend(q_source, k, v, mask) - attend(q, k, v, mask))).sum(-1)


def all_keys_effect(q: Queries, k: Keys, k_source: Keys, v: Keys, g: Queries, mask: Mask) -> Float[Array, "B one H"]:
    """g · Δz where all keys are replaced at once."""
    return (g * (attend(q, k_source, v, mask) - attend(q, k, v, mask))).sum((1, 3))[:, None]


def key_effect(q: Queries, k: Keys, k_source: Keys, v: Keys, g: Queries, mask: Mask, group: int) -> Float[Array, "B W H"]:
    """g · Δz where `group` consecutive keys at a time are replaced, the others staying: W groups, from three products in all.

    With p the pattern, r[t, s] = p[t, s]·exp(Δscore[t, s]) and W a group, softmax gives
    Δz[t] = Σ_{s∈W} (r - p)[t, s]·(v[s] - z[t]) / (1 - Σ_{s∈W} p[t, s] + Σ_{s∈W} r[t, s]); a single key is AtP*'s algorithm.
    """
    mask = jnp.ones((q.shape[0], 1, q.shape[1], k.shape[1]), bool) if mask is None else mask
    heads = tuple(jnp.moveaxis(x, 2, 1).reshape(-1, x.shape[1], x.shape[3]) for x in (q, k, k_source, v, g))
    masks = jnp.broadcast_to(mask, (mask.shape[0], q.shape[2], *mask.shape[2:])).reshape(-1, *mask.shape[2:])
    many = max(1, _TILE // (q.shape[1] * k.shape[1]))
    effect = jax.lax.map(functools.partial(_head, group), (*heads, masks), batch_size=min(many, len(masks)))
    return jnp.swapaxes(effect.reshape(q.shape[0], q.shape[2], -1), 1, 2)


def _head(group: int, x: tuple[Array, ...]) -> Float[Array, "W"]:
    q, k, k_source, v, g, mask = x
    wide = jnp.promote_types(q.dtype, jnp.float32)
    q = q.astype(wide) * q.shape[-1] ** -0.5
    scores = jnp.where(mask, q @ k.T.astype(wide), -jnp.inf)
    change = q @ (k_source - k).T.astype(wide)
    log_p = scores - jax.nn.logsumexp(scores, -1, keepdims=True)
    p, r = jnp.exp(log_p), jnp.exp(jnp.minimum(log_p + change, 60.0))
    more = jnp.where(change < 1, p * jnp.expm1(jnp.minimum(change, 1.0)), r - p)  # small changes keep their digits
    value = g @ v.T
    num = _grouped(more * (value - (p * value).sum(-1, keepdims=True)), group)
    rest = jnp.maximum(1 - _grouped(p, group), 0) + _grouped(r, group)
    return (num / jnp.maximum(rest, 1e-9)).sum(0)


def _grouped(x: Float[Array, "T S"], group: int) -> Float[Array, "T W"]:
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % group)))
    return x.reshape(x.shape[0], -1, group).sum(-1)
