"""Computes the cells of one example of a sweep, in groups that edit the same layer."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from interventions.edits.cells import Coordinates
from interventions.edits.values import Mix, Patch, select_row
from interventions.forward import mel_of
from interventions.metrics import Metric
from interventions.patching import programs
from interventions.patching.chunks import Deferred, dispatch_chunks
from interventions.patching.plan import Plan
from interventions.patching.resumed_decoder import UneditedTrace
from interventions.patching.resumed_encoder import Residuals
from interventions.patching.sources import encoder_activations
from interventions.patching.workload import DecoderBatch, chunk_size, decoder_batches
from interventions.run import Run
from interventions.scoring import metric_of_row
from jaxasr import compiled
from jaxasr.cache import Memory
from jaxasr.taps import Edit


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One row of the target, with everything that its cells share.

    Attributes:
        plan: the sweep.
        run: the row, encoded.
        memory: the memory of the row; unstacked if the decoder's layers are unstacked.
        edit: the edit that every cell applies at its own place. Its values are those of this row.
        metric: the metric of this row.
        unedited_metric: [1], the metric without an edit. Its computation may not have finished.
        trace: unedited activations that decoder cells resume from; None if they do not resume.
        residuals: unedited residuals that encoder cells resume from; None if they do not resume.
    """

    plan: Plan
    run: Run
    memory: Memory
    edit: Edit
    metric: Metric
    unedited_metric: Float[Array, "1"]
    trace: UneditedTrace | None
    residuals: Residuals | None

    @classmethod
    def of(cls, plan: Plan, b: int) -> "Example":
        """Runs the unedited passes that the cells of row `b` share."""
        run, work, edit = plan.target.row(b), plan.work, plan.edit
        metric = metric_of_row(plan.metric, b)
        if plan.source is not None and isinstance(edit, Patch | Mix):
            # The values come from a run and have one row per example.
            edit = select_row(edit, work.grid.site, b)
        unedited = plan.decoder.run(run, metric)
        return cls(
            plan,
            run,
            unedited.memory,
            edit,
            metric,
            unedited.metric,
            trace=UneditedTrace.of(unedited.acts) if work.resumes_decoder else None,
            residuals=_compute_residuals(plan, run)
            if work.resumes and not work.in_decoder
            else None,
        )

    @property
    def baseline(self) -> float:
        """The metric without an edit. Reading it waits for its computation."""
        return float(self.unedited_metric[0])

    def indices(self, layer: int | None) -> Int[np.ndarray, "n"]:
        """Returns the flat grid indices of the cells that edit `layer`.

        None stands for all layers, in a grid without the dimension "layer".
        """
        return self._select_cells(layer)[0].ravel()

    def dispatch(self, layer: int | None) -> Deferred:
        """Starts to compute the cells that edit `layer`, in the order of `indices`."""
        indices, cells = self._select_cells(layer)
        # If `resumes_decoder`, the grid has layers, so `layer` is not None. Only the type checker
        # needs this test.
        if layer is not None and self.plan.work.resumes_decoder:
            return self._dispatch_decoder_batches(layer, indices.shape, cells)
        work = self.plan.work
        compute = self._compute_whole_decoder if work.in_decoder else self._compute_encoder
        return dispatch_chunks(functools.partial(compute, layer or 0), cells, chunk_size(work))

    def _select_cells(self, layer: int | None) -> tuple[np.ndarray, Coordinates]:
        """Returns the flat grid indices and the coordinates of the cells that edit `layer`."""
        work = self.plan.work
        if layer is not None and work.resumes_decoder:
            return work.grid.cells_by_position(layer)
        return work.grid.cells_of_layer(layer)

    def _dispatch_decoder_batches(
        self, layer: int, shape: tuple[int, ...], cells: Coordinates
    ) -> Deferred:
        """Dispatches the batches of one layer, whose values form an array of `shape`."""
        batches = decoder_batches(self.plan.work, layer)
        deferred = [
            dispatch_chunks(
                functools.partial(self._compute_decoder_batch, layer, batch),
                cells,
                batch.cells_per_chunk,
            )
            for batch in batches
        ]

        def wait() -> Float[np.ndarray, "n"]:
            # Positions that no batch edits keep the baseline, because an edit there cannot change
            # the scored logits.
            values = np.full(shape, self.baseline)
            for batch, batch_values in zip(batches, deferred):
                # Batch values are [cells, columns], with padding columns at the end.
                values[batch.edited] = batch_values()[:, : len(batch.edited)].T
            return values.ravel()

        return wait

    def _compute_decoder_batch(self, layer: int, batch: DecoderBatch, cells: Coordinates) -> Array:
        plan, grid = self.plan, self.plan.work.grid
        audio_kv = tuple(zip(self.memory.k, self.memory.v)) if plan.decoder.unrolled else None
        return compiled.call(
            programs.resumed_decoder_cells,
            plan.decoder.frozen,
            audio_kv,
            jnp.int32(layer),
            cells,
            grid.frames,
            batch.rows,
            self.run.memory,
            self.trace,
            self.edit,
            self.metric,
            site=grid.site,
            has_positions="position" in grid.coords,
            position_local=plan.work.position_local,
            layers_above=batch.layers_above,
        )

    def _compute_whole_decoder(self, layer: int, cells: Coordinates) -> Array:
        del layer  # unused, because a whole pass begins at the first layer
        work = self.plan.work
        # A new `site` or `scored` is compiled; new values of the cells and of the edit are not.
        return compiled.call(
            programs.whole_decoder_cells,
            self.plan.model,
            cells,
            work.grid.frames,
            self.run.tokens,
            self.run.memory,
            self.edit,
            self.metric,
            site=work.grid.site,
            scored=work.scored,
        )

    def _compute_encoder(self, layer: int, cells: Coordinates) -> Array:
        work = self.plan.work
        return compiled.call(
            programs.encoder_cells,
            self.plan.model,
            jnp.int32(layer),
            cells,
            work.grid.frames,
            self.run.tokens,
            self.residuals,
            mel_of(self.run),
            self.edit,
            self.metric,
            site=work.grid.site,
            scored=work.scored,
        )


def _compute_residuals(plan: Plan, run: Run) -> Residuals:
    """Encodes the recording of `run`, and returns the residuals before and after every layer."""
    names = "encoder.resid_pre", "encoder.resid_post"
    acts = encoder_activations(plan.model, mel_of(run), *names)
    return acts[names[0]], acts[names[1]]
