"""Defines the plan of a sweep, which holds everything that is needed to run the sweep."""

import dataclasses

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from interventions.metrics import Metric
from interventions.patching import cost
from interventions.patching.unedited import UneditedDecoder
from interventions.patching.workload import Workload
from interventions.run import Run
from jaxasr.model import SpeechModel
from jaxasr.processes import Process
from jaxasr.taps import Edit


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """A sweep that `sweep(plan=plan)` runs. Made by `plan_sweep`.

    `str(plan)` is the cost of the sweep, on one line.

    Attributes:
        model: the model.
        target: the run that is patched.
        source: the run that patched-in activations come from; None if they are zeros, noise or
            means of the target, or if the caller gave an edit.
        averages_target: whether the patched-in activations are means of the target.
        edit: the edit that is placed at every cell. If it patches activations of a run in,
            its value is None until that run is computed.
        metric: the metric of the patched logits.
        decoder: the decoder that runs passes without an edit.
        encoder_sites: sites of the encoder whose unedited activations the cells need.
        work: the grid of cells, and the numbers that decide how the cells are batched.
        mesh: the devices that share the work; None for one device.
        process: the process that computes its share of the recordings.

    Example:
        ```python
        run = iv.Run(
            mel=jaxasr.log_mel(audio, asr.config.n_mels)[None],
            tokens=np.array([asr.tokenizer.prompt()]),
        )
        metric = iv.logprob(asr.tokenizer.encode(" The")[0])
        plan = iv.plan_sweep(
            asr.model, run, "zero", site="decoder.mlp_out", over=("layer",), metric=metric
        )
        print(plan)
        ```
    """

    model: SpeechModel
    target: Run
    source: Run | None
    averages_target: bool
    edit: Edit
    metric: Metric
    decoder: UneditedDecoder
    encoder_sites: tuple[str, ...]
    work: Workload
    mesh: Mesh | None
    process: Process

    def row_chunks(self) -> list[Int[np.ndarray, "n"]]:
        """Returns the rows of the target that this process computes, chunk by chunk."""
        chunks = self.work.row_chunks()
        return [chunks[i] for i in self.process.share(len(chunks))]

    def __repr__(self) -> str:
        return f"Plan({self})"

    def __str__(self) -> str:
        return cost.describe_cost(self.work)
