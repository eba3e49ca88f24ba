"""Takes the gradient of a metric with respect to activations."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from interventions import forward
from interventions.run import Run
from interventions.scoring import StackedMetric
from jaxasr import pytrees
from jaxasr.model import SpeechModel
from jaxasr.taps import Acts, At, select


@pytrees.dataclass
class _Offset:
    """Adds `value` to the activation, so that a gradient with respect to `value` can be taken.

    `value` has exactly the shape that a readout returns. `Add` also broadcasts over positions.
    """

    value: Array

    def __call__(self, x: Array, at: At) -> Array:
        return x + (self.value[at.layer] if self.value.ndim > x.ndim else self.value)


def gradients(
    model: SpeechModel,
    target: Run,
    metric: StackedMetric,
    read_sites: list[str],
    grad_sites: list[str],
) -> tuple[Float[Array, "B"], Acts, Acts]:
    """Runs one forward and one backward pass of the target.

    Returns:
        The metric, the activations at `read_sites`, and the metric's gradients at `grad_sites`.
    """
    # Offsets of zero change nothing, and their gradients are the activations' gradients.
    shapes = jax.eval_shape(lambda: forward.activations(model, target, grad_sites))
    zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}
    encoder_sites, decoder_sites = forward.split_by_stack(grad_sites)
    encoder_readout, decoder_readout = (
        select(*names) for names in forward.split_by_stack(read_sites)
    )
    memory = None
    if not encoder_sites:  # without a gradient in the encoder, it runs outside of `grad`
        memory = target.memory
        if memory is None:
            memory, _ = forward.encode(
                model, forward.mel_of(target), {}, encoder_readout, target.lengths
            )

    def score(offsets: Acts) -> tuple[Array, tuple[Array, Acts]]:
        encoder_edits = {name: _Offset(offsets[name]) for name in encoder_sites}
        decoder_edits = {name: _Offset(offsets[name]) for name in decoder_sites}
        if memory is None:
            mel = forward.mel_of(target)
            edited_memory, acts = forward.encode(
                model, mel, encoder_edits, encoder_readout, target.lengths
            )
        else:
            edited_memory, acts = memory, {}
        value, decoder_acts = forward.decode_and_score(
            model, target, edited_memory, decoder_edits, decoder_readout, metric
        )
        # Examples are independent, so the gradient of the sum contains that of each example.
        return value.sum(), (value, acts | decoder_acts)

    grads, (value, acts) = jax.grad(score, has_aux=True)(zeros)
    return value, acts, grads
