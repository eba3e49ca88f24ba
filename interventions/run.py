"""What goes through the model: a recording, heard or still to be heard, and the tokens said about it."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxasr import pytrees
from jaxasr.cache import Memory
from jaxasr.model import Whisper
from jaxasr.taps import Edits, Readout


@pytrees.dataclass
class Run:
    """One teacher-forced pass: `Run(mel=mel[None], tokens=tokens)` or `Run(memory=memory, tokens=tokens)`.

    tokens: int [B, T], prompt and text; mel: float [B, M, 3000] from `log_mel`; memory: from `model.encode`.
    positions: int [B, T], needed only when rows are padded (negative there).
    Raises ValueError when neither or both of mel and memory are given.
    """

    tokens: Int[Array, "B T"]
    mel: Float[Array, "B M F"] | None = None
    memory: Memory | None = None
    positions: Int[Array, "B T"] | None = None
    sound: Float[Array, "B M F"] | None = None  # the mel of a run that has been heard

    def __post_init__(self) -> None:
        if isinstance(self.memory, Memory) and isinstance(self.memory.k, tuple):
            raise ValueError(
                "Run: memory must have its layers stacked; leave out apart=True in model.encode, or pass memory.stacked()."
            )
        if (self.mel is None) == (self.memory is None):
            raise ValueError(
                "Run: expected mel= or memory=, not both: jaxasr.log_mel(...)[None], or what model.encode(mel) returns."
            )

    def encode(self, model: Whisper) -> "Run":
        """This run with its recording heard: `memory` in place of `mel`."""
        return (
            self
            if self.mel is None
            else self.replace(memory=model.encode(self.mel)[0], mel=None, sound=self.mel)
        )

    def decode(
        self, model: Whisper, edits: Edits | None = None, readout: Readout | None = None
    ) -> tuple[Float[Array, "B T V"], dict[str, Any]]:
        """Logits and activations of the decoder."""
        run = self.encode(model)
        return model.decode(run.tokens, run.memory, edits, readout, positions=run.positions)

    def row(self, b: int) -> "Run":
        """Example `b` alone, still with a batch axis. The run must have been heard."""
        if self.memory is None:
            raise ValueError("Run: call heard(model) before taking a row.")
        if self.batch == 1:  # without a copy
            return self.replace(tokens=jnp.asarray(self.tokens))
        k, v = jax.tree.map(lambda x: x[:, b : b + 1], (self.memory.k, self.memory.v))
        memory = Memory(self.memory.xa[b : b + 1], k, v)
        pick = lambda x: None if x is None else jnp.asarray(x)[b : b + 1]  # noqa: E731
        return self.replace(
            tokens=pick(self.tokens),
            memory=memory,
            positions=pick(self.positions),
            sound=pick(self.sound),
        )

    @property
    def batch(self) -> int:
        return jnp.shape(self.tokens)[0]
