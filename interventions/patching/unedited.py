"""Runs the decoder without an edit. All cells share the resulting metric and activations."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh, PartitionSpec as P
from jaxtyping import Array, Float

from interventions import forward
from interventions.patching.axes import axes_of_acts, axes_of_run
from interventions.run import Run
from interventions.scoring import StackedMetric
from jaxasr import compiled
from jaxasr.cache import EncodedAudio
from jaxasr.decoding import unrolls_layers
from jaxasr.meshes import DATA, axes_of_memory, place_parameters, specs_of
from jaxasr.model import SpeechModel, full_precision
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
    memory: EncodedAudio


@dataclasses.dataclass(frozen=True, eq=False)
class UneditedDecoder:
    """A decoder that is prepared for many passes without an edit.

    Attributes:
        unrolled: whether passes loop over unstacked layers, as for models of few layers. A scan
            would copy the weights of every layer.
        frozen: the model and its unstacked decoder layers (None if not unrolled). They are split
            into arrays and structure once for all passes.
        model: the model, on the devices of the mesh.
        read_sites: sites whose activations passes return.
        mesh: the mesh that divides the rows of a run; None for one device.
    """

    unrolled: bool
    frozen: compiled.Frozen
    model: SpeechModel
    read_sites: tuple[str, ...]
    mesh: Mesh | None

    @classmethod
    def of(
        cls, model: SpeechModel, read_sites: Sequence[str], mesh: Mesh | None = None
    ) -> "UneditedDecoder":
        """Prepares a decoder whose passes return the activations of `read_sites`."""
        unrolled, model = unrolls_layers(model.config), place_parameters(model, mesh)
        blocks = unstack_once(model, model.decoder.blocks) if unrolled else None
        frozen = compiled.Frozen.from_pytree((model, blocks))
        return cls(unrolled, frozen, model, tuple(read_sites), mesh)

    def run(self, run: Run, metric: StackedMetric) -> UneditedResults:
        """Decodes an encoded run, and computes the metric of each row."""
        memory, acts_axes = run.encoded_memory, axes_of_acts(self.read_sites)
        out_axes = 0, acts_axes, axes_of_memory(memory, unstacked=self.unrolled)
        return UneditedResults(
            *compiled.call_on_mesh(
                self.mesh,
                _run_unedited,
                self.frozen,
                run,
                metric,
                select(*self.read_sites),
                specs=(P(), specs_of(axes_of_run(run)), P(DATA), P()),
                out_specs=specs_of(out_axes),
            )
        )


def _run_unedited(
    frozen: compiled.Frozen, run: Run, metric: StackedMetric, readout: Readout
) -> tuple[Float[Array, "B"], Acts, EncodedAudio]:
    model, blocks = unfreeze(frozen)
    # The memory is unstacked once, for this pass and all cells, because unstacking copies it.
    memory = run.encoded_memory if blocks is None else run.encoded_memory.unstacked()
    with full_precision(model):
        value, acts = forward.decode_and_score(model, run, memory, {}, readout, metric, blocks)
    return value, acts, memory


def unfreeze(frozen: compiled.Frozen) -> tuple[SpeechModel, tuple[Any, ...] | None]:
    """Returns the model and its unstacked decoder layers."""
    return frozen.whole
