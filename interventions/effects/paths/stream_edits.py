"""Edits that keep a second copy of the residual stream, which only the receivers read.

The batch is doubled. Its first half is the run; its second half is the run's stream plus what the
sender would have added. Norms and projections of the altered stream are therefore the model's own.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from interventions.effects.paths.components import ORDER
from jaxasr import pytrees, sites
from jaxasr.taps import At, Edits


@pytrees.dataclass
class OffsetCopy:
    """Sets the second half of the batch to the first half plus `delta`.

    Attributes:
        delta: float [B, T, D], what the sender would have added.
        after: int, the stage of the sender's addition, counted through all layers; earlier sites
            of the stream get no `delta`.
        n_stages: additions per layer.
        stage: how many of them the edited site includes.
    """

    delta: Float[Array, "B T D"]
    after: Int[Array, ""]
    n_stages: int = pytrees.field(pytree_node=False)
    stage: int = pytrees.field(pytree_node=False)

    def __call__(self, x: Array, at: At) -> Array:
        run = x[: len(x) // 2]
        is_later = self.after < self.n_stages * at.layer + self.stage
        delta = jnp.where(is_later, self.delta, 0).astype(x.dtype)
        return jnp.concatenate([run, run + delta])


@pytrees.dataclass
class ReadOffsetCopy:
    """Lets the first half of the batch take the value of the second where `mask` holds.

    Attributes:
        mask: bool [L, H], [L] or [], the receivers.
    """

    mask: Bool[Array, "..."]

    def __call__(self, x: Array, at: At) -> Array:
        run, copy = jnp.split(x, 2)
        mask = self.mask[at.layer] if self.mask.ndim else self.mask
        return jnp.concatenate([jnp.where(mask[:, None] if mask.ndim else mask, copy, run), copy])


def path_edits(
    stack: str,
    delta: Float[Array, "B T D"],
    after: Int[Array, ""],
    masks: dict[str, Bool[Array, "..."]],
) -> Edits:
    """Makes the edits of one stack: the offset copy along its stream, and its receivers.

    Args:
        stack: "encoder" or "decoder".
        delta: what the sender would have added.
        after: the stage of the sender's addition.
        masks: receivers by site, of any stack.
    """
    order = ORDER[stack]
    edits: dict[str, OffsetCopy | ReadOffsetCopy] = {
        f"{stack}.{site}": OffsetCopy(delta, after, order.n_stages, stage)
        for site, stage in order.stream.items()
    }
    for site, mask in masks.items():
        if sites.stack_of(site) == stack:
            # The logits receive at the final norm's output, where only one position is unembedded.
            edits[site.replace("decoder.logits", "decoder.ln")] = ReadOffsetCopy(mask)
    return edits
