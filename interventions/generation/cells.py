"""Generates text, or scores a given text, under the decoder edits of many cells."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from jaxtyping import Array, Float, Int

from interventions.generation.cell_edits import CellEdits, MakeEdits
from interventions.generation.decoding_bytes import cells_bytes, cells_per_loop
from interventions.generation.prompts import Ids, check_prompts
from interventions.generation.row_values import (
    acts_on_rows_alone,
    cell_specs,
    row_axis,
    value_of_rows,
    with_value,
)
from interventions.patching.chunks import run_one_ahead
from interventions.patching.row_chunks import RowChunks, rows_that_fit
from interventions.run import Run
from jaxasr import compiled
from jaxasr.cache import EncodedAudio
from jaxasr.decoding import LogitFilter
from jaxasr.generate import Generation, generate
from jaxasr.meshes import (
    CELLS,
    DATA,
    axes_of_memory,
    axis_size,
    place_parameters,
    resolve_mesh,
    specs_of,
)
from jaxasr.model import SpeechModel
from jaxasr.taps import Edits

Leaders = Int[Array, "B"] | Int[np.ndarray, "B"]  # index of the row whose tokens a row decodes


def generate_cells(
    model: SpeechModel,
    memory: EncodedAudio,
    prompt: Ids,
    cells: Any,
    *,
    edits_of: MakeEdits | None = None,
    max_new_tokens: int = 224,
    rules: LogitFilter | None = None,
    eot: int | None = None,
    no_speech: tuple[int, int] | None = None,
    leader: Leaders | None = None,
    positions: Ids | None = None,
    batch: int | None = None,
    mesh: Mesh | None = None,
    recordings: int | None = None,
) -> Generation:
    """Generates greedily under the decoder edits of every cell.

    All cells attend to the same memory, so each decoding step reads it only once.

    Args:
        model: the model.
        memory: encoded audio of B recordings.
        prompt: token ids [B, T0] before the generated texts.
        cells: a pytree whose arrays have a leading [K] axis. It is `{site: edit}`, or the argument
            of `edits_of`.
        edits_of: makes the edits of one cell. It is a pytree such as `AtCell`, or a module-level
            function. All cells share its arrays.
        max_new_tokens: most tokens to generate per text.
        rules: constraints on the logits.
        eot: id of the end-of-text token.
        no_speech: (position, id). The result has the probability of the token `id` after this
            position of the prompt.
        leader: int [B]. Row b reads the tokens that row `leader[b]` generates. Default: every row
            reads its own tokens.
        positions: int [B, T0], positions of the prompt; negative at padding on the left. Default: 0
            to T0 - 1.
        batch: number of cells that decode together on a device. The last batch is padded, so that
            all batches share one compiled program. Default: 64, or as many as fit the memory for an
            audio language model.
        mesh: devices that divide the recordings and the cells, as in `sweep`. Each device holds
            some recordings, so that only the value of a `Patch` or `Mix` in an `AtCell` may have
            one row per recording.
        recordings: recordings that a device decodes together. Default: as many as fit the memory.
            All recordings without a mesh, if an edit may read more than its own recording.

    Returns:
        A `Generation` of NumPy arrays with a leading [K] axis.

    Raises:
        ValueError: arrays have different leading axes, or `leader` comes with a mesh that divides
            the recordings. Other errors are those of `jaxasr.generate`.

    Example:
        ```python
        from interventions.edits import AtCell, Zero
        from interventions.generation import generate_cells

        memory, _ = asr.model.encode(jaxasr.log_mel(audio, asr.config.n_mels)[None])
        prompt, cells = np.array([asr.tokenizer.prompt()]), {"layer": np.arange(2, dtype=np.int32)}
        edits_of = AtCell(Zero(), "decoder.mlp_out")
        out = generate_cells(
            asr.model, memory, prompt, cells, edits_of=edits_of, max_new_tokens=4
        )
        out.tokens.shape  # (2, 1, 4)
        ```
    """
    cell_edits, prompt = CellEdits.of(cells, edits_of), np.asarray(prompt, np.int32)
    positions = check_prompts(model.config, prompt, positions, memory)
    n_rows, n_cells, mesh = len(prompt), len(cell_edits), resolve_mesh(mesh)
    n_tokens = prompt.shape[1] + max_new_tokens
    if batch is None:
        batch = min(n_cells, cells_per_loop(model.config, n_tokens))
    if leader is not None:
        _check_undivided(mesh, recordings, n_rows)
        recordings = n_rows
    elif recordings is None and mesh is None and not acts_on_rows_alone(edits_of, n_rows):
        recordings = n_rows
    n_bytes = cells_bytes(model.config, n_tokens, batch)
    chunks, axis = (
        RowChunks.of(n_rows, rows_that_fit(n_bytes), mesh, recordings),
        row_axis(edits_of, n_rows),
    )
    model, n_devices = place_parameters(model, mesh), axis_size(mesh, CELLS)
    parts: list[Generation] = []

    def store(out: Generation, n: int) -> None:
        parts.append(jax.tree.map(lambda x: np.asarray(x)[:, :n], out))

    def dispatch() -> Iterator[Callable[[], None]]:
        for rows in chunks:
            padded = chunks.padded(rows)
            of_rows = with_value(cell_edits, value_of_rows(edits_of, axis, padded))
            row_memory = memory if len(padded) == n_rows else memory.rows(padded)
            for start in range(0, n_cells, batch * n_devices):
                # Copies of the last cell pad the last chunk.
                index = np.minimum(np.arange(start, start + batch * n_devices), n_cells - 1)
                out = compiled.call_on_mesh(
                    mesh,
                    _generate_chunk,
                    model,
                    row_memory,
                    prompt[padded],
                    None if positions is None else positions[padded],
                    leader,
                    of_rows.take(index),
                    rules,
                    specs=(
                        P(),
                        specs_of(axes_of_memory(memory)),
                        P(DATA),
                        None if positions is None else P(DATA),
                        P(),
                        cell_specs(of_rows, axis),
                        P(),
                    ),
                    out_specs=P(CELLS, DATA),
                    max_new_tokens=max_new_tokens,
                    eot=eot,
                    no_speech=no_speech,
                )
                yield functools.partial(store, out, len(rows))

    run_one_ahead(dispatch())
    n_batches = -(-n_cells // (batch * n_devices))
    # Joins the cells of each chunk of rows, then the rows. Copies of the last cell are cut off.
    of_rows = [
        jax.tree.map(lambda *x: np.concatenate(x)[:n_cells], *parts[i : i + n_batches])
        for i in range(0, len(parts), n_batches)
    ]
    return jax.tree.map(lambda *x: np.concatenate(x, 1), *of_rows)


def _check_undivided(mesh: Mesh | None, recordings: int | None, n_rows: int) -> None:
    """Raises ValueError unless a device holds all rows, as a leader needs."""
    if axis_size(mesh, DATA) > 1 or recordings not in (None, n_rows):
        raise ValueError(
            f"leader: expected all {n_rows} rows on one device. Use a mesh with one device along "
            "'data', such as make_mesh(cells=...), and leave out recordings."
        )


def _generate_chunk(
    model: SpeechModel,
    memory: EncodedAudio,
    prompt: Array,
    positions: Array | None,
    leader: Array | None,
    cells: CellEdits,
    rules: LogitFilter | None,
    **options: Any,
) -> Generation:
    def generate_cell(edits: Edits) -> Generation:
        return generate(
            model,
            memory,
            prompt,
            edits=edits,
            rules=rules,
            positions=positions,
            leader=leader,
            axis_name="cells",
            **options,
        )

    return cells.vmap(generate_cell, axis_name="cells")


def text_logprobs(
    model: SpeechModel,
    run: Run,
    cells: Any,
    *,
    edits_of: MakeEdits,
    rules: LogitFilter | None = None,
    prompt_len: int = 0,
) -> Float[np.ndarray, "K B T"]:
    """Computes the log-probability of a given text under the decoder edits of every cell.

    The pass is teacher-forced. So the tokens are the same in every cell, and edits change only
    their probabilities.

    Args:
        model: the model.
        run: the audio, and the tokens of prompt and text.
        cells: K cells as a pytree whose arrays have a leading [K] axis: the argument of `edits_of`.
        edits_of: makes the edits of one cell, such as `AtCell`.
        rules: the constraints on the logits under which the text was generated.
        prompt_len: number of prompt tokens. Only `rules` need it.

    Returns:
        Log-probability of the token after each position, in nats; NaN at the last position.

    Raises:
        ValueError: arrays have different leading axes, or an edit is not at a decoder site.

    Example:
        ```python
        from interventions.edits import AtCell, Zero
        from interventions.generation import text_logprobs

        tokens = np.array([[*asr.tokenizer.prompt(), *asr.tokenizer.encode(" The captain")]])
        run = iv.Run(mel=jaxasr.log_mel(audio, asr.config.n_mels)[None], tokens=tokens)
        cells, edits_of = {"layer": np.arange(4)}, AtCell(Zero(), "decoder.mlp_out")
        logprobs = text_logprobs(asr.model, run, cells, edits_of=edits_of)  # [4, 1, T]
        ```
    """
    cell_edits, run = CellEdits.of(cells, edits_of), run.encode(model)
    logprobs = compiled.call(_text_logprobs, model, run, cell_edits, np.int32(prompt_len), rules)
    return np.asarray(logprobs)


def _text_logprobs(
    model: SpeechModel, run: Run, cells: CellEdits, prompt_len: Array, rules: Any
) -> Float[Array, "K B T"]:
    # Entry t is the token at t + 1. The last entry is wrong, and its result becomes NaN below.
    following = jnp.roll(run.tokens, -1, axis=1)[..., None]

    def score_cell(arrays: list[Array]) -> Float[Array, "B T"]:
        logits, _ = run.decode(model, cells.edits(arrays))
        logits = logits if rules is None else rules.along(logits, run.tokens, prompt_len)
        return jnp.take_along_axis(jax.nn.log_softmax(logits), following, -1)[..., 0]

    # `map` computes one cell at a time, because the logits of all cells need too much memory.
    return jax.lax.map(score_cell, cells.arrays).at[:, :, -1].set(jnp.nan)
