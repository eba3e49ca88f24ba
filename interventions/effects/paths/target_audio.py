"""The audio side of a path: the target's memory, and the memory that an encoder sender changes."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from interventions import forward
from interventions.effects.paths.stream_edits import path_edits
from interventions.run import Run
from jaxasr import pytrees
from jaxasr.cache import Memory
from jaxasr.model import Whisper, full_precision
from jaxasr.taps import NOTHING


@pytrees.dataclass
class TargetAudio:
    """The target's memory and, for encoder senders, what it takes to compute a patched memory.

    Attributes:
        memory: of the target.
        mel: the recording twice, if a receiver is in the encoder, which then runs again.
        last_resid: else the encoder's last residual stream, which no receiver changes.
    """

    memory: Memory
    mel: Float[Array, "B2 M F"] | None
    last_resid: Float[Array, "B S D"] | None

    @classmethod
    def of(cls, model: Whisper, run: Run, stack: str, reruns_encoder: bool) -> "TargetAudio":
        """Prepares `run` for senders in `stack`."""
        memory = memory_of(model, run)
        if stack == "decoder":
            return cls(memory, None, None)
        if reruns_encoder:
            return cls(memory, jnp.concatenate([forward.mel_of(run)] * 2), None)
        acts = forward.activations(model, run, ["encoder.resid_post"])
        return cls(memory, None, acts["encoder.resid_post"][-1])

    def patched_memory(
        self,
        model: Whisper,
        delta: Float[Array, "B S D"],
        after: Int[Array, ""],
        masks: dict[str, Bool[Array, "..."]],
    ) -> Memory:
        """Returns the memory of the doubled batch for a sender in the encoder."""
        if self.mel is not None:
            edits = path_edits("encoder", delta, after, masks)
            return forward.encode(model, self.mel, edits, NOTHING)[0]
        assert self.last_resid is not None
        copy = model.decoder.memory(model.encoder.ln_post(self.last_resid + delta))
        return join(self.memory, copy)

    def pairs_per_batch(self, stack: str) -> int:
        """Returns how many pairs are computed together; an encoder pass takes most memory."""
        if stack == "decoder":
            return 16
        return 4 if self.mel is None else 1


def join(run: Memory, copy: Memory) -> Memory:
    """Joins the memories of the two halves of the batch."""
    return Memory(
        jnp.concatenate([run.xa, copy.xa]), _join_rows(run.k, copy.k), _join_rows(run.v, copy.v)
    )


def _join_rows(run: Array | tuple[Array, ...], copy: Array | tuple[Array, ...]) -> Array:
    assert not isinstance(run, tuple)  # the memory of a run is stacked
    assert not isinstance(copy, tuple)
    return jnp.concatenate([run, copy], 1)


def memory_of(model: Whisper, run: Run) -> Memory:
    if run.memory is not None:
        return run.memory
    with full_precision(model):
        return forward.encode(model, forward.mel_of(run), {}, NOTHING)[0]
