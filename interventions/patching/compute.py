"""One example of a sweep: the passes that its cells share, its cells by layer, and what is compiled for them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from interventions import forward
from interventions.edits import Mix, Patch
from interventions.metrics import Metric
from interventions.patching import planning, resumed as _cells
from interventions.patching.grid import placed, strength
from interventions.patching.packing import Rows
from interventions.patching.resumed import Resumed, Trace
from interventions.patching.sources import encoder_activations
from interventions.run import Run
from jaxasr import compiled, sites
from jaxasr.cache import Memory
from jaxasr.decoding import unrolls
from jaxasr.model import Whisper, full_precision
from jaxasr.stack import unstack_once
from jaxasr.taps import Acts, Edit, Edits, select

Said = tuple[Float[Array, "B"], Acts, Memory]
Frames = tuple[Any, Any]  # in a window, and that are true


class Passes:
    """The passes without an edit that cells share. Those of whole runs, which sources are, are made once a run."""

    def __init__(self, model: Whisper, metric: Metric, keep: tuple[str, ...]):
        self.blocks = unstack_once(model, model.decoder.blocks) if unrolls(model.config) else None
        self.frozen, self.metric, self.readout = (
            compiled.Frozen.of((model, self.blocks)),
            metric,
            select(*keep),
        )
        self._known: list[tuple[Run, Said]] = []

    def of(self, run: Run, metric: Metric | None = None) -> Said:
        """The metric of every row, what the run shows, and its memory as cells read it. `metric`: of a run that is one row."""
        if metric is not None:
            return compiled.call(_said, self.frozen, run, (metric, self.readout))
        found = next((said for known, said in self._known if known is run), None)
        if found is None:
            found = self.of(run, self.metric)
            self._known.append((run, found))
        return found


def _said(frozen: compiled.Frozen, run: Run, taps: tuple) -> Said:
    (model, blocks), (metric, readout) = frozen.whole, taps
    memory = (
        run.memory if blocks is None else run.memory.unstacked()
    )  # one copy for the pass and for the cells
    with full_precision(model):
        return *forward.decode_and_score(model, run, memory, {}, readout, metric, blocks), memory


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One row of the target with everything that its cells share."""

    plan: Any
    row: Run
    heard: Memory  # apart, where generation loops over layers too
    edit: Edit
    metric: Metric
    said: Array  # the metric without an edit, [1]
    stored: Any  # Trace of the decoder, or the encoder's residuals before and after each layer

    @classmethod
    def of(cls, plan: Any, b: int) -> "Example":
        row = plan.target.row(b)
        metric = plan.metric.row(b) if hasattr(plan.metric, "row") else plan.metric
        edit = plan.edit
        if plan.source is not None and isinstance(edit, Patch | Mix):
            axis = int(plan.grid.site in sites.LAYERED)
            edit = edit.replace(value=jnp.take(edit.value, jnp.array([b]), axis))
        said, acts, heard = plan.passes.of(row, metric)
        stored = (
            Trace.of(acts)
            if plan.by_rows
            else _hear(plan.model, row.sound)
            if plan.resumes
            else None
        )
        return cls(plan, row, heard, edit, metric, said, stored)

    @property
    def baseline(self) -> float:
        return float(self.said[0])

    def group(
        self, layer: int | None
    ) -> tuple[Int[np.ndarray, "n"], Callable[[], planning.Finish]]:
        """The cells that start at one layer: where they stand in the flat grid, and what begins to compute them."""
        if self.plan.by_rows:
            flat, cells = self.plan.grid.columns(layer)
            return flat.ravel(), functools.partial(self._columns, layer, flat.shape, cells)
        flat, cells = self.plan.grid.cells(layer)
        return flat, lambda: planning.chunked(
            functools.partial(self._one_by_one, layer), cells, planning.chunk(self.plan)
        )

    def _columns(
        self, layer: int, shape: tuple[int, ...], cells: dict[str, np.ndarray]
    ) -> planning.Finish:
        parts = planning.parts(self.plan, layer)
        begun = [
            planning.chunked(functools.partial(self._part, layer, part), cells, part.together)
            for part in parts
        ]

        def finish() -> Float[np.ndarray, "n"]:
            values = np.full(shape, self.baseline)
            for part, found in zip(parts, begun):
                values[part.columns] = found()[:, : len(part.columns)].T
            return values.ravel()

        return finish

    def _part(self, layer: int, part: planning.Part, cells: dict[str, np.ndarray]) -> Array:
        p = self.plan
        heard = None if p.passes.blocks is None else tuple(zip(self.heard.k, self.heard.v))
        dynamic = (
            p.passes.frozen,
            heard,
            jnp.int32(layer),
            cells,
            p.grid.frames,
            part.rows,
            self.row.memory,
            self.stored,
        )
        options = {
            "site": p.grid.site,
            "in_columns": "position" in p.grid.coords,
            "own": p.position_local,
            "above": part.above,
        }
        return compiled.call(_decoder_cells, *dynamic, (self.edit, self.metric), **options)

    def _one_by_one(self, layer: int | None, cells: dict[str, np.ndarray]) -> Array:
        p = self.plan
        dynamic = (
            p.model,
            jnp.int32(layer or 0),
            cells,
            p.grid.frames,
            self.row.tokens,
            self.row.memory,
            self.stored,
            self.row.sound,
        )
        fn = _plain_cells if sites.stack_of(p.grid.site) == "decoder" else _encoder_cells
        return compiled.call(
            fn, *dynamic, (self.edit, self.metric), site=p.grid.site, scored=p.scored
        )


def _hear(model: Whisper, mel: Array | None) -> tuple[Array, Array]:
    if mel is None:
        raise ValueError(
            "target: a sweep of the encoder needs the recording; give Run(mel=...) rather than Run(memory=...)."
        )
    acts = encoder_activations(model, mel, "encoder.resid_pre", "encoder.resid_post")
    return acts["encoder.resid_pre"], acts["encoder.resid_post"]


def _decoder_cells(
    frozen: compiled.Frozen, heard: tuple | None, first: Array, cells: dict, frames: Frames, rows: Rows, memory: Memory, trace: Trace,
    taps: tuple, *, site: str, in_columns: bool, own: bool, above: int,
) -> Float[Array, "K P"]:  # fmt: skip
    (model, blocks), (edit, metric) = frozen.whole, taps
    # Where every row is at its own place, so is the edit; else it acts on the rows at which a column starts.
    shape = [-1 if axis in "TS" else 1 for axis in sites.SITES[site]]
    when = jnp.reshape(rows.starting, shape) if in_columns and not own else None

    def edits_of(cell: dict) -> Edits:
        return {site: placed(*strength(edit, cell), *frames, when)}

    with full_precision(model):
        x = Resumed(model, blocks, heard, memory, trace, rows, first, own, above).residuals(
            edits_of, cells
        )
        scored = jax.vmap(lambda row: _cells.score(model, row[None], metric))(
            x.reshape(-1, x.shape[-1])
        )
        return scored.reshape(x.shape[:-1])


def _plain_cells(
    model: Whisper, first: Array, cells: dict, frames: Frames, tokens: Array, memory: Memory, stored: None, mel: None, taps: tuple,
    *, site: str, scored: int,
) -> Float[Array, "K"]:  # fmt: skip
    del first, stored, mel
    edit, metric = taps

    def cell(place: dict) -> Array:
        edits = {site: placed(*strength(edit, place), *frames)}
        return _cells.plain_score(model, tokens, memory, edits, scored, metric)

    with full_precision(model):
        return jax.vmap(cell)(cells)


def _encoder_cells(
    model: Whisper, first: Array, cells: dict, frames: Frames, tokens: Array, memory: Memory, stored: tuple | None, mel: Array, taps: tuple,
    *, site: str, scored: int,
) -> Float[Array, "K"]:  # fmt: skip
    edit, metric = taps

    def cell(place: dict) -> Array:
        edits = {site: placed(*strength(edit, place), *frames)}
        heard = (
            model.encode(mel, edits)[0]
            if stored is None
            else _cells.resumed_memory(model, site, stored, edits, first)
        )
        return _cells.score(model, _cells.scored_residual(model, tokens, heard, {}, scored), metric)

    with full_precision(model):
        if len(jax.tree.leaves(cells)[0]) == 1:  # a lone cell runs as a plain pass
            return cell(jax.tree.map(lambda column: column[0], cells))[None]
        return jax.vmap(cell)(cells)
