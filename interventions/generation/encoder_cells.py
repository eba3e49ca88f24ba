"""Generates text under the encoder edits of many cells.

Each cell has a memory of its own. If a cell edits one layer, its encoder pass starts at that layer,
with the stored residual stream of the unedited recording as its input.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from interventions.edits.cells import AtCell
from interventions.edits.values import Mix, Patch, select_row
from interventions.generation.cells import CellEdits, Ids, MakeEdits
from interventions.memory_budget import memory_budget
from interventions.patching.resumed_encoder import Residuals, resumed_memory
from interventions.patching.workload import encoder_bytes
from jaxasr import compiled, sites
from jaxasr.cache import Memory
from jaxasr.config import Config
from jaxasr.decoding import LogitFilter
from jaxasr.generate import Generation, generate
from jaxasr.model import Whisper, full_precision
from jaxasr.taps import Edits, select

# Bytes of memories and key-value caches of the cells that a CPU decodes together. They exceed the
# CPU's own caches, because sharing one read of the weights among many cells saves more time.
_DECODING_BUDGET = 1 << 30


def generate_encoder_cells(
    model: Whisper,
    mel: Float[Array, "B M F"] | Float[np.ndarray, "B M F"],
    prompt: Ids,
    cells: Any,
    *,
    edits_of: MakeEdits | None = None,
    budget: int | None = None,
    batch: int | None = None,
    **options: Any,
) -> Generation:
    """Generates greedily from the encoder output under the encoder edits of every cell.

    Encodes one example at a time. In an `AtCell`, the value of a `Patch` or `Mix` may have one row
    per example.

    Args:
        model: the model.
        mel: log-mel spectrograms of B recordings.
        prompt: token ids [B, T0] before the generated texts.
        cells: K cells as a pytree whose arrays have a leading [K] axis. It is `{site: edit}` with
            sites of the encoder, or the argument of `edits_of`.
        edits_of: makes the edits of one cell, such as `AtCell`. Default: a cell is `{site: edit}`.
        budget: bytes of the cells that are computed together. Default: a size chosen for the
            device.
        batch: most cells to compute together. Default: as many as the budget allows.
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
    examples = []
    for b in range(len(mel)):
        row = slice(b, b + 1)
        cell_edits = CellEdits.of(cells, _select_row_of_edits(edits_of, b, len(mel)))
        example = _Example.of(model, jnp.asarray(mel)[row], cell_edits, cells)
        row_prompt = jnp.asarray(prompt, jnp.int32)[row]
        examples.append(_generate_example(example, row_prompt, budget, batch, options))
    return jax.tree.map(lambda *rows: np.concatenate(rows, axis=1), *examples)


@dataclasses.dataclass(frozen=True, eq=False)
class _Example:
    """One recording and the cells that edit its encoding.

    Attributes:
        model: the model.
        mel: log-mel spectrogram of the recording.
        cells: the edits of the cells.
        site: the edited site if each cell edits one layer. None if each cell is a whole pass.
        layers: [K], the edited layer of each cell; zeros if each cell is a whole pass.
        residuals: the unedited residual stream before and after each layer. The pass of a cell
            starts from it. None if each cell is a whole pass.
    """

    model: Whisper
    mel: Float[Array, "1 M F"]
    cells: CellEdits
    site: str | None
    layers: Int[np.ndarray, "K"]
    residuals: Residuals | None

    @classmethod
    def of(
        cls, model: Whisper, mel: Float[Array, "1 M F"], cell_edits: CellEdits, cells: Any
    ) -> "_Example":
        site = getattr(cell_edits.edits_of, "site", None)
        if site not in sites.LAYERED or not isinstance(cells, dict) or "layer" not in cells:
            return cls(model, mel, cell_edits, None, np.zeros(len(cell_edits), int), None)
        names = "encoder.resid_pre", "encoder.resid_post"
        acts = model.encode(mel, readout=select(*names))[1]
        residuals = acts[names[0]], acts[names[1]]
        return cls(model, mel, cell_edits, site, np.asarray(cells["layer"]), residuals)

    def make_batches(self, size: int) -> list[Int[np.ndarray, "n"]]:
        """Returns the indices of cells to encode together: at most `size`, all of one layer."""
        groups = [np.flatnonzero(self.layers == layer) for layer in np.unique(self.layers)]
        return [group[i : i + size] for group in groups for i in range(0, len(group), size)]

    def encode(self, indices: Int[np.ndarray, "n"]) -> Memory:
        """Encodes the cells at `indices`. The result has a leading axis of cells."""
        # All cells of a batch edit the same layer.
        edited_layer = jnp.int32(self.layers[indices[0]])
        return compiled.call(
            _encode_cells,
            self.model,
            edited_layer,
            self.mel,
            self.residuals,
            self.cells.take(indices),
            site=self.site,
        )


def _encode_cells(
    model: Whisper,
    edited_layer: Int[Array, ""],
    mel: Float[Array, "1 M F"],
    residuals: Residuals | None,
    cells: CellEdits,
    *,
    site: str | None,
) -> Memory:
    def encode_cell(edits: Edits) -> Memory:
        if site is None or residuals is None:
            return model.encode(mel, edits)[0]
        return resumed_memory(model, site, residuals, edits, edited_layer)

    with full_precision(model):
        return cells.vmap(encode_cell)


def _generate_example(
    example: _Example, prompt: Array, budget: int | None, batch: int | None, options: dict[str, Any]
) -> Generation:
    """Encodes cells in batches of one layer each. Decodes several batches together."""
    config = example.model.config
    # Two limits apply: cells per encoder pass, and cells per decoding loop.
    max_encoded = max(1, memory_budget(budget) // encoder_bytes(config))
    batches = example.make_batches(min(max_encoded, batch or max_encoded))
    cells_per_batch = min(max_encoded, batch) if batch else max(map(len, batches))
    n_tokens = prompt.shape[1] + options["max_new_tokens"]
    max_decoded = memory_budget(budget, _DECODING_BUDGET) // decoding_bytes(config, n_tokens)
    max_batches = batch // cells_per_batch if batch else len(batches)
    batches_per_loop = min(max_batches, max(1, max_decoded // cells_per_batch))
    parts = []
    for i in range(0, len(batches), batches_per_loop):
        chunk = batches[i : i + batches_per_loop]
        # Padding with the last batch lets all chunks share one executable.
        padding = [batches[-1]] * (batches_per_loop - len(chunk))
        out = _generate_batches(example, [*chunk, *padding], cells_per_batch, prompt, options)
        for j, indices in enumerate(chunk):
            start, stop = j * cells_per_batch, j * cells_per_batch + len(indices)
            parts.append(jax.tree.map(lambda x, a=start, b=stop: x[a:b], out))
    # Batches are sorted by layer. The inverse of their order restores the order of cells.
    order = np.argsort(np.concatenate(batches))
    return jax.tree.map(lambda *x: np.concatenate(x)[order], *parts)


def _generate_batches(
    example: _Example,
    batches: list[Int[np.ndarray, "n"]],
    cells_per_batch: int,
    prompt: Array,
    options: dict[str, Any],
) -> Generation:
    """Generates for several batches at once, each padded to `cells_per_batch` cells."""
    # `np.resize` repeats the indices until there are `cells_per_batch`.
    memories = [example.encode(np.resize(indices, cells_per_batch)) for indices in batches]
    memory = jax.tree.map(lambda *x: jnp.concatenate(x), *memories)
    static = {name: value for name, value in options.items() if name != "rules"}
    out = compiled.call(
        _generate_memories, example.model, memory, prompt, options.get("rules"), **static
    )
    return jax.device_get(out)


def _generate_memories(
    model: Whisper, memories: Memory, prompt: Array, rules: LogitFilter | None, **options: Any
) -> Generation:
    def generate_cell(memory: Memory) -> Generation:
        return generate(model, memory, prompt=prompt, rules=rules, axis_name="cells", **options)

    return jax.vmap(generate_cell, axis_name="cells")(memories)


def decoding_bytes(config: Config, n_tokens: int) -> int:
    """Returns the bytes that decoding one cell takes in float32.

    These are the memory, the key-value cache and three copies of the logits.

    Args:
        config: dimensions of the model.
        n_tokens: number of tokens, prompt included.

    Example:
        >>> import jaxasr
        >>> decoding_bytes(jaxasr.SIZES["tiny.en"], n_tokens=4) > 0
        True
    """
    return 4 * (
        (2 * config.n_text_layer + 1) * config.n_audio_ctx * config.n_text_state
        + 2 * config.n_text_layer * n_tokens * config.n_text_state
        + 3 * config.n_vocab
    )


def _select_row_of_edits(edits_of: MakeEdits | None, b: int, batch: int) -> MakeEdits | None:
    """Returns `edits_of` with only row `b` of its value, if the value has one row per example."""
    edit = getattr(edits_of, "edit", None)
    if not isinstance(edits_of, AtCell) or not isinstance(edit, Patch | Mix):
        return edits_of
    # At a site with layers, the axis of examples follows the axis of layers.
    shape, axis = getattr(edit.value, "shape", ()), int(edits_of.site in sites.LAYERED)
    if len(shape) != len(sites.SITES[edits_of.site]) + axis or shape[axis] != batch:
        return edits_of
    return dataclasses.replace(edits_of, edit=select_row(edit, edits_of.site, b))
