"""Defines edits that give the receivers of a path a patched copy of the residual stream.

The batch is doubled. Its first half is the run. Its second half is the patched copy: the stream of
the first half plus the change of the sender's output. The model itself therefore computes the norms
and projections of the patched copy.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from interventions.effects.paths.components import LayerOrder
from jaxasr import pytrees, sites
from jaxasr.taps import At, Edits


@pytrees.dataclass
class SetPatchedCopy:
    """Sets the second half of the batch to the first half plus `delta`.

    Attributes:
        delta: float [B, T, D], the change of the sender's output.
        sender_stage: int, the stage at which the sender adds its output, counted through all
            layers. A stage is the addition of one sublayer to the stream (see `LayerOrder`). Sites
            before this stage get no `delta`.
        n_stages: the number of stages per layer.
        stages_before: the number of stages of the layer that precede the edited site.
    """

    delta: Float[Array, "B T D"]
    sender_stage: Int[Array, ""]
    n_stages: int = pytrees.field(pytree_node=False)
    stages_before: int = pytrees.field(pytree_node=False)

    def __call__(self, x: Array, at: At) -> Array:
        run = x[: len(x) // 2]
        is_after_sender = self.sender_stage < self.n_stages * at.layer + self.stages_before
        delta = jnp.where(is_after_sender, self.delta, 0).astype(x.dtype)
        return jnp.concatenate([run, run + delta])


@pytrees.dataclass
class ReadPatchedCopy:
    """Replaces the first half of the batch by the second half at the receivers.

    Attributes:
        mask: bool [L, H], [L] or [], True at the receivers.
    """

    mask: Bool[Array, "..."]

    def __call__(self, x: Array, at: At) -> Array:
        run, copy = jnp.split(x, 2)
        mask = self.mask[at.layer] if self.mask.ndim else self.mask
        # A mask over heads [H] becomes [H, 1] to fit x [B, T, H, Dh].
        return jnp.concatenate([jnp.where(mask[:, None] if mask.ndim else mask, copy, run), copy])


def path_edits(
    stack: str,
    order: LayerOrder,
    delta: Float[Array, "B T D"],
    sender_stage: Int[Array, ""],
    masks: dict[str, Bool[Array, "..."]],
) -> Edits:
    """Makes the edits that set the patched copy in one stack and let the receivers read it.

    Args:
        stack: "encoder" or "decoder".
        order: the order of the components in a layer of the stack.
        delta: the change of the sender's output.
        sender_stage: the stage at which the sender adds its output, counted through all layers.
        masks: for each site of either stack, True at the receivers.
    """
    edits: dict[str, SetPatchedCopy | ReadPatchedCopy] = {
        f"{stack}.{site}": SetPatchedCopy(delta, sender_stage, order.n_stages, stages_before)
        for site, stages_before in order.stages_before.items()
    }
    for site, mask in masks.items():
        if sites.stack_of(site) == stack:
            # The pass has no site `decoder.logits`, because only the scored position is unembedded.
            # As a receiver, the logits therefore read the patched copy at the final norm's output.
            edits[site.replace("decoder.logits", "decoder.ln")] = ReadPatchedCopy(mask)
    return edits
