"""Generates text, or scores a given text, under the decoder edits of many cells."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from interventions.run import Run
from jaxasr import compiled, pytrees
from jaxasr.cache import Memory
from jaxasr.decoding import LogitFilter
from jaxasr.generate import Generation, generate
from jaxasr.model import Whisper
from jaxasr.taps import Edits

MakeEdits = Callable[[Any], Edits]  # makes `{site: edit}` of one cell
Ids = Int[Array, "B T0"] | Int[np.ndarray, "B T0"]  # token ids of B prompts
Leaders = Int[Array, "B"] | Int[np.ndarray, "B"]  # index of the row whose tokens a row decodes
# Default number of cells that decode together in one loop.
CELLS_PER_LOOP = 64

_Result = TypeVar("_Result")


@pytrees.dataclass
class CellEdits:
    """The edits of K cells.

    Attributes:
        arrays: the arrays of the cells, each with a leading [K] axis.
        structure: the static part of a cell. It decides what is compiled.
        edits_of: makes the edits of one cell; None if a cell is `{site: edit}` itself.

    Example:
        ```python
        from interventions.edits import AtCell, Zero
        from interventions.generation.cells import CellEdits

        cells = CellEdits.of({"layer": np.arange(4)}, AtCell(Zero(), "decoder.mlp_out"))
        len(cells.take(np.array([0, 2])))  # 2
        ```
    """

    arrays: list[Any]
    structure: compiled.Structure = pytrees.field(pytree_node=False)
    edits_of: MakeEdits | None

    @classmethod
    def of(cls, cells: Any, edits_of: MakeEdits | None) -> "CellEdits":
        """Splits a pytree of cells into its arrays and its static structure.

        Args:
            cells: a pytree whose arrays have a leading [K] axis.
            edits_of: makes the edits of one cell; None if a cell is `{site: edit}` itself.

        Raises:
            ValueError: there is no array or no cell, or the arrays differ in the leading axis.
        """
        arrays, structure = compiled.split(cells)
        numbers = {np.shape(array)[:1] for array in arrays}  # () for an array without axes
        if len(numbers) != 1 or () in numbers or (0,) in numbers:
            raise ValueError(
                "cells: expected arrays with the same leading axis of cells, "
                f"got shapes {[np.shape(array) for array in arrays]}."
            )
        return cls([jnp.asarray(array) for array in arrays], structure, edits_of)

    def __len__(self) -> int:
        return len(self.arrays[0])

    def take(self, index: Int[np.ndarray, "n"]) -> "CellEdits":
        """Returns the cells at the indices `index`."""
        return dataclasses.replace(self, arrays=[array[index] for array in self.arrays])

    def edits(self, arrays: list[Array]) -> Edits:
        """Returns the edits of one cell from its arrays, without the [K] axis."""
        cell = self.structure.join(arrays)
        return cell if self.edits_of is None else self.edits_of(cell)

    def vmap(self, fn: Callable[[Edits], _Result], axis_name: str | None = None) -> _Result:
        """Maps `fn` over the edits of every cell with `jax.vmap`."""
        return jax.vmap(lambda arrays: fn(self.edits(arrays)), axis_name=axis_name)(self.arrays)


def generate_cells(
    model: Whisper,
    memory: Memory,
    prompt: Ids,
    cells: Any,
    *,
    edits_of: MakeEdits | None = None,
    max_new_tokens: int = 224,
    rules: LogitFilter | None = None,
    eot: int | None = None,
    no_speech: tuple[int, int] | None = None,
    leader: Leaders | None = None,
    batch: int | None = None,
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
        batch: number of cells that decode together. The last batch is padded, so that all batches
            share one compiled program. Default: 64.

    Returns:
        A `Generation` of NumPy arrays with a leading [K] axis.

    Raises:
        ValueError: arrays have different leading axes. Other errors are those of `jaxasr.generate`.

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
    cell_edits, prompt = CellEdits.of(cells, edits_of), jnp.asarray(prompt, jnp.int32)
    n_cells, chunks = len(cell_edits), []
    batch = min(CELLS_PER_LOOP, n_cells) if batch is None else batch
    for start in range(0, n_cells, batch):
        # Copies of the last cell pad the last chunk.
        index = np.minimum(np.arange(start, start + batch), n_cells - 1)
        out = compiled.call(
            _generate_chunk,
            model,
            memory,
            prompt,
            leader,
            cell_edits.take(index),
            rules,
            max_new_tokens=max_new_tokens,
            eot=eot,
            no_speech=no_speech,
        )
        chunks.append(jax.device_get(out))
    # The copies that pad the last chunk are cut off.
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:n_cells], *chunks)


def _generate_chunk(
    model: Whisper,
    memory: Memory,
    prompt: Array,
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
            leader=leader,
            axis_name="cells",
            **options,
        )

    return cells.vmap(generate_cell, axis_name="cells")


def text_logprobs(
    model: Whisper,
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
    model: Whisper, run: Run, cells: CellEdits, prompt_len: Array, rules: Any
) -> Float[Array, "K B T"]:
    # Entry t is the token at t + 1. The last entry is wrong, and its result becomes NaN below.
    following = jnp.roll(run.tokens, -1, axis=1)[..., None]

    def score_cell(arrays: list[Array]) -> Float[Array, "B T"]:
        logits, _ = run.decode(model, cells.edits(arrays))
        logits = logits if rules is None else rules.along(logits, run.tokens, prompt_len)
        return jnp.take_along_axis(jax.nn.log_softmax(logits), following, -1)[..., 0]

    # `map` computes one cell at a time, because the logits of all cells need too much memory.
    return jax.lax.map(score_cell, cells.arrays).at[:, :, -1].set(jnp.nan)
