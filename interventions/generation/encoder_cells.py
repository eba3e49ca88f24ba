"""Generates text under the encoder edits of many cells.

Each cell has a memory of its own. If a cell edits one layer, its encoder pass starts at that layer,
with the stored residual stream of the unedited recording as its input.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from jaxtyping import Array, Float, Int

from interventions.generation.cell_edits import CellEdits, MakeEdits
from interventions.generation.encoder_plan import CellUnit, EncoderCellPlan
from interventions.generation.prompts import Ids, check_prompts
from interventions.generation.row_values import cell_specs, row_axis, value_of_rows, with_value
from interventions.generation.unedited import Lengths, Mel
from interventions.patching.chunks import run_one_ahead
from interventions.patching.resumed_encoder import RESIDUAL_SITES, Residuals, resumed_memory
from interventions.patching.row_chunks import Rows, encode_rows
from interventions.run import Run, encode_mel
from jaxasr import compiled
from jaxasr.cache import EncodedAudio, Prefix
from jaxasr.decoding import LogitFilter
from jaxasr.generate import Generation, generate
from jaxasr.inputs import check_mel
from jaxasr.language.encoder import count_frames
from jaxasr.language.model import check_lengths
from jaxasr.meshes import CELLS, DATA, axis_size, place_parameters, resolve_mesh, specs_of
from jaxasr.model import SpeechModel, full_precision
from jaxasr.taps import Edits

# The log-mel spectrograms and the unedited residuals of recordings, one of them None; their rows of
# the edits' value, if it has rows; and their mel frames without padding, if the model needs them.
RowInputs = tuple[
    Float[Array, "R M F"] | None, Residuals | None, Array | None, Int[Array, "R"] | None
]
Prompts = tuple[Int[np.ndarray, "R T0"], Int[np.ndarray, "R T0"] | None]  # tokens and positions


def generate_encoder_cells(
    model: SpeechModel,
    mel: Mel,
    prompt: Ids,
    cells: Any,
    *,
    edits_of: MakeEdits | None = None,
    budget: int | None = None,
    batch: int | None = None,
    mesh: Mesh | None = None,
    recordings: int | None = None,
    positions: Ids | None = None,
    lengths: Lengths | None = None,
    **options: Any,
) -> Generation:
    """Generates greedily from the encoder output under the encoder edits of every cell.

    Cells of several recordings are encoded and decoded together. In an `AtCell`, the value of a
    `Patch` or `Mix` may have one row per recording.

    Args:
        model: the model.
        mel: log-mel spectrograms of B recordings.
        prompt: token ids [B, T0] before the generated texts.
        cells: K cells as a pytree whose arrays have a leading [K] axis. It is `{site: edit}` with
            sites of the encoder, or the argument of `edits_of`.
        edits_of: makes the edits of one cell, such as `AtCell`. Default: a cell is `{site: edit}`.
        budget: bytes of the cells that are computed together. Default: a size chosen for the
            device.
        batch: most cells of a recording to compute together. Default: as many as the budget
            allows.
        mesh: devices that divide the recordings and the cells, as in `sweep`.
        recordings: recordings that a device encodes together. Default: as many as the budget
            allows.
        positions: int [B, T0], positions of the prompt; negative at padding on the left.
        lengths: int [B], mel frames of each recording before its padding, for an audio language
            model. Default: no recording has padding.
        options: options of `jaxasr.generate`. `max_new_tokens` is required.

    Returns:
        A `Generation` of NumPy arrays [K, B, ...].

    Raises:
        ValueError: arrays have different leading axes. Other errors are those of `jaxasr.generate`.

    Example:
        ```python
        from interventions.edits import AtCell, Zero
        from interventions.generation import generate_encoder_cells

        mel = jaxasr.log_mel(audio, asr.config.n_mels)[None]
        prompt, cells = np.array([asr.tokenizer.prompt()]), {"layer": np.arange(2, dtype=np.int32)}
        edits_of = AtCell(Zero(), "encoder.mlp_out")
        out = generate_encoder_cells(
            asr.model, mel, prompt, cells, edits_of=edits_of, max_new_tokens=4
        )
        ```
    """
    mel, prompt, mesh = (
        check_mel(model.config, mel),
        np.asarray(prompt, np.int32),
        resolve_mesh(mesh),
    )
    cell_edits, axis = CellEdits.of(cells, edits_of), row_axis(edits_of, len(mel))
    n_tokens = prompt.shape[1] + options["max_new_tokens"]
    plan = EncoderCellPlan.of(
        model.config, cell_edits, cells, len(mel), n_tokens, budget, batch, mesh, recordings
    )
    positions = check_prompts(model.config, prompt, positions, _empty_prefix(model, mel, lengths))
    lengths = None if lengths is None else np.asarray(lengths, np.int32)
    recordings_of = (mel, lengths), (prompt, positions)
    encoder = _CellEncoder(
        place_parameters(model, mesh), *recordings_of, cell_edits, axis, plan, mesh
    )
    parts: list[tuple[list[CellUnit], Generation]] = []
    run_one_ahead(_dispatch_loops(encoder, options, lambda *part: parts.append(part)))
    return plan.join(parts)


def _empty_prefix(model: SpeechModel, mel: Mel, lengths: Lengths | None) -> Prefix | None:
    """Returns a prefix that only has the right numbers of audio tokens; None for a Whisper."""
    if model.config.audio_language is None:
        return None
    counts = count_frames(model.config, check_lengths(model.config, len(mel), lengths))[1]
    return Prefix(jnp.zeros((len(mel), 0, 0)), jnp.asarray(counts))


@dataclasses.dataclass(frozen=True, eq=False)
class _CellEncoder:
    """Encodes units of cells.

    Attributes:
        model: the model, on the devices of the mesh.
        audio: log-mel spectrograms of all recordings, and their mel frames before the padding.
        prompts: prompts of all recordings, and their positions.
        cells: the edits of the cells.
        axis: the axis of recordings of the edits' value; None if all recordings share it.
        plan: which cells are computed together.
        mesh: the mesh; None for one device.
    """

    model: SpeechModel
    audio: tuple[Mel, Int[np.ndarray, "B"] | None]
    prompts: Prompts
    cells: CellEdits
    axis: int | None
    plan: EncoderCellPlan
    mesh: Mesh | None

    def units(self) -> Iterator[tuple[CellUnit, EncodedAudio, Prompts]]:
        """Yields units with the memories [R, K, 1, ...] of their cells, and with their prompts."""
        for rows in self.plan.chunks:
            padded = self.plan.chunks.padded(rows)
            inputs = self._inputs_of_rows(padded)
            prompts = jax.tree.map(lambda x, padded=padded: x[padded], self.prompts)
            for batches in self.plan.groups_of_batches():
                yield CellUnit(rows, batches), self._encode(inputs, batches), prompts

    def _inputs_of_rows(self, rows: Rows) -> RowInputs:
        value = value_of_rows(self.cells.edits_of, self.axis, rows)
        # Selects rows of a NumPy array before they are copied to a device.
        mel, lengths = jax.tree.map(lambda x: jnp.asarray(x[rows]), self.audio)
        if self.plan.site is None:
            return mel, None, value, lengths
        run = Run(tokens=jnp.asarray(self.prompts[0][rows]), mel=mel, lengths=lengths)
        _, acts = encode_rows(self.model, run, self.mesh, RESIDUAL_SITES)
        return None, (acts[RESIDUAL_SITES[0]], acts[RESIDUAL_SITES[1]]), value, lengths

    def _encode(self, inputs: RowInputs, batches: list[Int[np.ndarray, "n"]]) -> EncodedAudio:
        """Encodes one batch of cells on each device along "cells"."""
        n_devices = axis_size(self.mesh, CELLS)
        padded = [*batches, *[batches[-1]] * (n_devices - len(batches))]
        # `np.resize` repeats the indices until the batch is full.
        indices = np.concatenate([np.resize(x, self.plan.cells_per_batch) for x in padded])
        cells, axes = self.cells.take(indices), _axes_of_inputs(inputs, self.axis)
        return compiled.call_on_mesh(
            self.mesh,
            _encode_cells,
            self.model,
            # All cells of a batch edit the same layer.
            self.plan.layers[[batch[0] for batch in padded]],
            inputs,
            with_value(cells, inputs[2]),
            specs=(P(), P(CELLS), specs_of(axes), cell_specs(cells, self.axis)),
            out_specs=P(DATA, CELLS),
            site=self.plan.site,
            axis=self.axis,
        )


def _dispatch_loops(
    encoder: _CellEncoder,
    options: dict[str, Any],
    store: Callable[[list[CellUnit], Generation], None],
) -> Iterator[Callable[[], None]]:
    """Dispatches decoding loops, and yields functions that wait for one and store its result."""
    static, size = dict(options), encoder.plan.units_per_loop
    rules, units = static.pop("rules", None), encoder.units()
    while loop := list(itertools.islice(units, size)):
        # Padding with the last unit lets all loops share one program.
        padded = [*loop, *[loop[-1]] * (size - len(loop))]
        memories, prompts = ([unit[i] for unit in padded] for i in (1, 2))
        out = compiled.call_on_mesh(
            encoder.mesh,
            _generate_memories,
            encoder.model,
            memories,
            prompts,
            rules,
            specs=(P(), P(DATA, CELLS), P(DATA), P()),
            out_specs=P(None, DATA, CELLS),
            **static,
        )
        yield functools.partial(store, [unit for unit, _, _ in loop], out)


def _axes_of_inputs(inputs: RowInputs, axis: int | None) -> Any:
    """Returns the axis of recordings of every array of the inputs."""
    return tuple(jax.tree.map(lambda _, a=a: a, x) for x, a in zip(inputs, (0, 1, axis, 0)))


def _encode_cells(
    model: SpeechModel,
    layers: Int[Array, "1"],
    inputs: RowInputs,
    cells: CellEdits,
    *,
    site: str | None,
    axis: int | None,
) -> EncodedAudio:
    """Encodes K cells of R recordings. The arrays of the result begin with [R, K, 1]."""

    def encode_row(inputs: RowInputs) -> Any:
        mel, residuals, value, lengths = inputs

        def encode_cell(edits: Edits) -> Any:
            if site is None or residuals is None:
                assert mel is not None
                return encode_mel(model, mel, lengths, edits)[0]
            return resumed_memory(model, site, residuals, edits, layers[0], lengths)

        of_row = with_value(cells, value)
        if len(cells) > 1:
            return of_row.vmap(encode_cell)
        # Without `vmap`, a single cell runs the kernels of an ordinary pass.
        edits = of_row.edits([array[0] for array in of_row.arrays])
        return jax.tree.map(lambda x: x[None], encode_cell(edits))

    axes = _axes_of_inputs(inputs, axis)
    with full_precision(model):
        if all(x.shape[a] == 1 for x, a in zip(*map(jax.tree.leaves, (inputs, axes)))):
            return jax.tree.map(lambda x: x[None], encode_row(inputs))
        return jax.vmap(
            lambda row: encode_row(jax.tree.map(jnp.expand_dims, row, axes)), in_axes=(axes,)
        )(inputs)


def _generate_memories(
    model: SpeechModel,
    memories: list[EncodedAudio],
    prompts: list[Prompts],
    rules: LogitFilter | None,
    **options: Any,
) -> Generation:
    """Generates from the memories [R, K, 1, ...] of units. The result begins with [units, R, K]."""
    memory = jax.tree.map(lambda *x: jnp.stack(x), *memories)
    shape = memory.xa.shape[:3]

    def repeat(*prompts: Array) -> Array:
        stacked = jnp.stack(prompts)[:, :, None]
        return jnp.broadcast_to(stacked, (*shape, stacked.shape[-1]))

    def generate_cell(memory: EncodedAudio, prompts: Any) -> Generation:
        prompt, positions = jax.tree.map(lambda x: x[None], prompts)
        given = {"positions": positions, "rules": rules, "axis_name": "cells"}
        return generate(model, memory, prompt, **given, **options)

    flat = memory, jax.tree.map(repeat, *prompts)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), flat)
    out = jax.vmap(generate_cell, axis_name="cells")(*flat)
    # The axis of size 1 in each cell is its batch.
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[2:]), out)
