"""Decoder passes without an edit: their metric, activations and memory, which cells share."""

import dataclasses
from typing import NamedTuple

from jaxtyping import Array, Float

from interventions import forward
from interventions.metrics import Metric
from interventions.run import Run
from jaxasr import compiled
from jaxasr.blocks import Block
from jaxasr.cache import Memory
from jaxasr.decoding import loops_over_layers
from jaxasr.model import Whisper, full_precision
from jaxasr.stack import unstack_once
from jaxasr.taps import Acts, Readout, select


class Unedited(NamedTuple):
    """One unedited pass: the metric [B], activations, and the memory in the layout of cells."""

    metric: Float[Array, "B"]
    acts: Acts
    memory: Memory


@dataclasses.dataclass(frozen=True, eq=False)
class UneditedDecoder:
    """A decoder prepared for many passes.

    Attributes:
        unrolled: whether layers are unstacked, so that no pass copies a weight.
        frozen: the model and its unstacked decoder layers (None if not unrolled), split once.
        readout: the activations that passes return.
    """

    unrolled: bool
    frozen: compiled.Frozen
    readout: Readout

    @classmethod
    def of(cls, model: Whisper, *sites: str) -> "UneditedDecoder":
        """Prepares a decoder whose passes return the activations of `sites`."""
        unrolled = loops_over_layers(model.config)
        blocks = unstack_once(model, model.decoder.blocks) if unrolled else None
        return cls(unrolled, compiled.Frozen.from_pytree((model, blocks)), select(*sites))

    def run(self, run: Run, metric: Metric) -> Unedited:
        """Scores an encoded run, for all rows of `metric`."""
        return Unedited(*compiled.call(_unedited, self.frozen, run, metric, self.readout))


def _unedited(
    frozen: compiled.Frozen, run: Run, metric: Metric, readout: Readout
) -> tuple[Float[Array, "B"], Acts, Memory]:
    model, blocks = unfrozen(frozen)
    # Unstacking copies the memory, so it is done once, for this pass and for all cells.
    memory = run.encoded_memory if blocks is None else run.encoded_memory.unstacked()
    with full_precision(model):
        value, acts = forward.decode_and_score(model, run, memory, {}, readout, metric, blocks)
    return value, acts, memory


def unfrozen(frozen: compiled.Frozen) -> tuple[Whisper, tuple[Block, ...] | None]:
    """The model and its unstacked decoder layers."""
    return frozen.whole
