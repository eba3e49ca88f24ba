"""Runs the unedited passes of some recordings, and computes the cells that resume from them."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from interventions.edits.cells import Coordinates
from interventions.forward import mel_of
from interventions.patching import programs
from interventions.patching.cell_chunks import CellChunk
from interventions.patching.chunks import Deferred, dispatch_cells
from interventions.patching.plan import Plan
from interventions.patching.recordings import Recordings
from interventions.patching.resumed_decoder import UneditedTrace
from interventions.patching.resumed_encoder import RESIDUAL_SITES, Residuals
from interventions.patching.row_chunks import encode_rows, select_rows
from interventions.patching.sources import mean_over_time
from interventions.patching.unedited import UneditedResults
from interventions.run import Run
from interventions.scoring import StackedMetric
from jaxasr import compiled, sites
from jaxasr.cache import EncodedAudio, Memory
from jaxasr.meshes import CELLS, DATA, axis_size, specs_of
from jaxasr.taps import Acts


@dataclasses.dataclass(frozen=True, eq=False)
class RecordingChunk:
    """Rows of the target whose cells are computed together.

    Attributes:
        plan: the sweep.
        rows: indices of the rows, with padding at the end.
        recordings: the activations that the cells of these rows share.
        baseline: [R], the metric without an edit. Its computation may not have finished.
        source_metric: [R], the metric of the source; None without a source run.
    """

    plan: Plan
    rows: Int[np.ndarray, "R"]
    recordings: Recordings
    baseline: Float[Array, "R"]
    source_metric: Float[Array, "R"] | None

    @classmethod
    def of(cls, plan: Plan, rows: Int[np.ndarray, "n"]) -> "RecordingChunk":
        """Runs the unedited passes of `rows` of the target and of the source."""
        work = plan.work
        padded = np.pad(rows, (0, work.recordings_per_chunk - len(rows)), mode="edge")
        metric = StackedMetric.of(plan.metric, padded)
        target = _run_unedited(plan, plan.target, padded, metric)
        source = None if plan.source is None else _run_unedited(plan, plan.source, padded, metric)
        values, values_pass = None, target if plan.averages_target else source
        if values_pass is not None:
            values = values_pass.acts[work.grid.site]
            if plan.averages_target:
                lengths = target.run.lengths
                values = mean_over_time(work.config, values, work.grid.site, lengths)
        run, acts = target.run, target.acts
        encoder_resumes = work.resumes and not work.in_decoder
        return cls(
            plan,
            padded,
            Recordings(
                tokens=run.tokens,
                memory=run.memory if work.in_decoder else None,
                audio_kv=_unstacked_audio(plan, target.decoded.memory),
                mel=None if work.in_decoder or encoder_resumes else mel_of(run),
                lengths=None if work.in_decoder else run.lengths,
                trace=UneditedTrace.of(work.config, acts) if work.resumes_decoder else None,
                residuals=_residuals(acts) if encoder_resumes else None,
                values=values,
                metric=metric,
                recording_axis_of_values=int(work.grid.site in sites.LAYERED),
            ),
            target.decoded.metric,
            None if source is None else source.decoded.metric,
        )

    def dispatch(self, chunks: Sequence[CellChunk]) -> Deferred:
        """Starts to compute chunks with one program. Each device of the mesh axis "cells" gets one.

        Returns:
            A function that waits for the metrics [R, chunks, K, P], of R recordings and, per chunk,
            of K cells at each of P edited positions.
        """
        n_devices = axis_size(self.plan.mesh, CELLS)
        padded = [*chunks, *[chunks[-1]] * (n_devices - len(chunks))]
        cells = {dim: np.stack([chunk.cells[dim] for chunk in padded]) for dim in padded[0].cells}
        return dispatch_cells(functools.partial(self._compute, padded), cells)

    def _compute(self, chunks: Sequence[CellChunk], cells: Coordinates) -> Array:
        plan, work, first = self.plan, self.plan.work, chunks[0]
        batch = programs.CellBatch(
            np.array([chunk.layer or 0 for chunk in chunks], np.int32),  # pyright: ignore
            {dim: values.reshape(-1) for dim, values in cells.items()},
            jax.tree.map(lambda *x: np.stack(x), *(chunk.rows for chunk in chunks)),
        )
        options: dict[str, Any] = {"site": work.grid.site}
        if work.resumes_decoder:
            program, model = programs.resumed_decoder_cells, plan.decoder.frozen
            options |= {
                "has_places": work.grid.place_dim is not None,
                "changes_only_edited": work.changes_only_edited,
                "layers_above": first.layers_above,
            }
        else:
            program = programs.whole_decoder_cells if work.in_decoder else programs.encoder_cells
            model = plan.decoder.model
            options["scored_position"] = work.scored_position
        metrics = compiled.call_on_mesh(
            plan.mesh,
            program,
            model,
            batch,
            work.grid.frames,
            self.recordings,
            plan.edit,
            specs=(P(), P(CELLS), P(), specs_of(self.recordings.axes()), P()),
            out_specs=P(DATA, CELLS),
            **options,
        )
        return metrics.reshape(len(metrics), len(chunks), -1, metrics.shape[-1])


@dataclasses.dataclass(frozen=True, eq=False)
class _UneditedPass:
    """Some rows of a run, encoded and decoded without an edit."""

    run: Run
    acts: Acts
    decoded: UneditedResults


def _run_unedited(
    plan: Plan, run: Run, rows: Int[np.ndarray, "R"], metric: StackedMetric
) -> _UneditedPass:
    """Encodes and decodes `rows` of a run, and reads the activations that the sweep needs."""
    selected = select_rows(run, rows)
    run, acts = encode_rows(plan.decoder.model, selected, plan.mesh, plan.encoder_sites)
    decoded = plan.decoder.run(Run(tokens=run.tokens, memory=run.memory), metric)
    return _UneditedPass(run, acts | decoded.acts, decoded)


def _residuals(acts: Acts) -> Residuals:
    pre, post = (acts[site] for site in RESIDUAL_SITES)
    return pre, post


def _unstacked_audio(plan: Plan, memory: EncodedAudio) -> tuple[tuple[Array, Array], ...] | None:
    """Returns keys and values of cross-attention per layer, if cells loop over unstacked layers."""
    if not isinstance(memory, Memory) or not (plan.work.resumes_decoder and plan.decoder.unrolled):
        return None
    return tuple(zip(memory.k, memory.v))
