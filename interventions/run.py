"""The input of one pass: a recording, encoded or not, and the tokens of the decoder."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxasr import pytrees
from jaxasr.cache import Memory
from jaxasr.model import Whisper
from jaxasr.taps import Acts, Edits, Readout

Rows = slice | Int[np.ndarray, "n"]


@pytrees.dataclass(repr=False)
class Run:
    """One teacher-forced pass: B recordings, each with the T tokens that the decoder is fed.

    Give `mel` or `memory`. `encode` turns the first into the second, once for many calls.

    Args:
        tokens: int [B, T], prompt and text.
        mel: float [B, M, 3000] from `jaxasr.log_mel`.
        memory: from `model.encode`.
        positions: int [B, T], needed only for rows that are padded on the left; negative there.
        encoded_mel: the mel that `memory` was encoded from; set by `encode`.

    Raises:
        ValueError: neither or both of `mel` and `memory` are given; the memory is unstacked.

    Example:
        ```python
        mel = jaxasr.log_mel(audio, asr.config.n_mels)[None]
        run = iv.Run(mel=mel, tokens=np.array([asr.tokenizer.prompt()])).encode(asr.model)
        logits, acts = run.decode(asr.model, readout=jaxasr.select("decoder.resid_post"))
        ```
    """

    tokens: Int[Array, "B T"]
    mel: Float[Array, "B M F"] | None = None
    memory: Memory | None = None
    positions: Int[Array, "B T"] | None = None
    encoded_mel: Float[Array, "B M F"] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.memory, Memory) and isinstance(self.memory.k, tuple):
            raise ValueError(
                "memory: expected stacked layers, got unstacked ones. Leave out unstacked=True "
                "in model.encode, or pass memory.stacked()."
            )
        if (self.mel is None) == (self.memory is None):
            present = "neither" if self.mel is None else "both"
            raise ValueError(
                f"Run: expected mel= or memory=, got {present}: "
                "jaxasr.log_mel(...)[None], or what model.encode(mel) returns."
            )

    def __repr__(self) -> str:
        # JAX puts other things than arrays into pytrees, which have no shape.
        n_rows, n_tokens = (*getattr(self.tokens, "shape", ()), "?", "?")[:2]
        padded = "" if self.positions is None else ", padded"
        if self.mel is not None:
            shape = list(getattr(self.mel, "shape", ()))
            return f"Run({n_rows} x {n_tokens} tokens{padded}, mel {shape})"
        suffix = "" if self.encoded_mel is None else " with its mel"
        return f"Run({n_rows} x {n_tokens} tokens{padded}, encoded{suffix})"

    def encode(self, model: Whisper) -> "Run":
        """Encodes the recordings: `memory` takes the place of `mel`.

        Returns:
            The encoded run; the same run if it is already encoded.
        """
        if self.mel is None:
            return self
        memory, _ = model.encode(self.mel)
        return dataclasses.replace(self, memory=memory, mel=None, encoded_mel=self.mel)

    def decode(
        self, model: Whisper, edits: Edits | None = None, readout: Readout | None = None
    ) -> tuple[Float[Array, "B T V"], Acts]:
        """Runs the decoder on the tokens.

        Args:
            model: the model.
            edits: edits of decoder sites.
            readout: activations to return.

        Returns:
            Logits [B, T, V], and a dict of activations by site.

        Raises:
            ValueError: an edit or a readout of a site that the decoder does not have.
        """
        run = self.encode(model)
        memory = run.encoded_memory
        return model.decode(run.tokens, memory, edits, readout, positions=run.positions)

    @property
    def encoded_memory(self) -> Memory:
        """The memory. Raises ValueError for a run that is not encoded."""
        if self.memory is None:
            raise ValueError("Run: expected an encoded run; call run.encode(model) first.")
        return self.memory

    def row(self, b: int) -> "Run":
        """Example `b` of an encoded run, still with a batch axis."""
        memory = self.encoded_memory
        if self.batch == 1:  # as it is: selecting would copy the memory
            return dataclasses.replace(self, tokens=jnp.asarray(self.tokens), memory=memory)
        return self.rows(slice(b, b + 1))

    def rows(self, rows: Rows) -> "Run":
        """Some examples of the batch, in the order of `rows`."""
        memory = self.memory
        if memory is not None:
            k, v = jax.tree.map(lambda stacked: stacked[:, rows], (memory.k, memory.v))
            memory = Memory(memory.xa[rows], k, v)
        return dataclasses.replace(
            self,
            tokens=jnp.asarray(self.tokens)[rows],
            mel=_take_rows(self.mel, rows),
            memory=memory,
            positions=_take_rows(self.positions, rows),
            encoded_mel=_take_rows(self.encoded_mel, rows),
        )

    @property
    def batch(self) -> int:
        """B, the number of examples."""
        return jnp.shape(self.tokens)[0]


def _take_rows(values: Any, rows: Rows) -> Array | None:
    return None if values is None else jnp.asarray(values)[rows]
