"""Runs the decoder without an edit. All cells share the resulting metric and activations."""

import dataclasses
from typing import NamedTuple

from jaxtyping import Array, Float

from interventions import forward
from interventions.metrics import Metric
from interventions.run import Run
from jaxasr import compiled
from jaxasr.blocks import Block
from jaxasr.cache import Memory
from jaxasr.decoding import unrolls_layers
from jaxasr.model import Whisper, full_precision
from jaxasr.stack import unstack_once
from jaxasr.taps import Acts, Readout, select


class UneditedResults(NamedTuple):
    """Results of one pass without an edit.

    Attributes:
        metric: the metric [B].
        acts: activations at the sites that the decoder reads.
        memory: the memory of the run; unstacked if the decoder is unrolled.
    """

    metric: Float[Array, "B"]
    acts: Acts
    memory: Memory


@dataclasses.dataclass(frozen=True, eq=False)
class UneditedDecoder:
    """A decoder that is prepared for many passes without an edit.

    Attributes:
        unrolled: whether passes loop over unstacked layers, as for models of few layers. A scan
            would copy the weights of every layer.
        frozen: the model and its unstacked decoder layers (None if not unrolled). They are split
            into arrays and structure once for all passes.
        readout: the activations that passes return.
    """

    unrolled: bool
    frozen: compiled.Frozen
    readout: Readout

    @classmethod
    def of(cls, model: Whisper, *sites: str) -> "UneditedDecoder":
        """Prepares a decoder whose passes return the activations of `sites`."""
        unrolled = unrolls_layers(model.config)
        blocks = unstack_once(model, model.decoder.blocks) if unrolled else None
        return cls(unrolled, compiled.Frozen.from_pytree((model, blocks)), select(*sites))

    def run(self, run: Run, metric: Metric) -> UneditedResults:
        """Decodes an encoded run, and computes the metric of each row."""
        return UneditedResults(
            *compiled.call(_run_unedited, self.frozen, run, metric, self.readout)
        )


def _run_unedited(
    frozen: compiled.Frozen, run: Run, metric: Metric, readout: Readout
) -> tuple[Float[Array, "B"], Acts, Memory]:
    model, blocks = unfreeze(frozen)
    # The memory is unstacked once, for this pass and all cells, because unstacking copies it.
    memory = run.encoded_memory if blocks is None else run.encoded_memory.unstacked()
    with full_precision(model):
        value, acts = forward.decode_and_score(model, run, memory, {}, readout, metric, blocks)
    return value, acts, memory


def unfreeze(frozen: compiled.Frozen) -> tuple[Whisper, tuple[Block, ...] | None]:
    """Returns the model and its unstacked decoder layers."""
    return frozen.whole
