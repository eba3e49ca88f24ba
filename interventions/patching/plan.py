"""Defines the plan of a sweep, which holds everything that is needed to run the sweep."""

import dataclasses

from jaxtyping import Array, Float

from interventions.metrics import Metric
from interventions.patching import cost
from interventions.patching.unedited import UneditedDecoder
from interventions.patching.workload import Workload
from interventions.run import Run
from jaxasr.model import Whisper
from jaxasr.taps import Edit


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """A sweep that `sweep(plan=plan)` runs. Made by `plan_sweep`.

    `str(plan)` is the cost of the sweep, on one line.

    Attributes:
        model: the model.
        target: the encoded run that is patched.
        source: the encoded run that patched-in activations come from; None if they are zeros or
            noise, or if the caller gave an edit.
        edit: the edit that is placed at every cell.
        metric: the metric of the patched logits.
        source_metric: the metric of `source` [B]; None if `source` is None or the target itself.
        decoder: the decoder that runs passes without an edit.
        work: the grid of cells, and the numbers that decide how the cells are batched.

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

    model: Whisper
    target: Run
    source: Run | None
    edit: Edit
    metric: Metric
    source_metric: Float[Array, "B"] | None
    decoder: UneditedDecoder
    work: Workload

    def __repr__(self) -> str:
        return f"Plan({self})"

    def __str__(self) -> str:
        return cost.describe_cost(self.work)
