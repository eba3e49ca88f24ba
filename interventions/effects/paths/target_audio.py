"""Computes the decoder's memory of the target, with or without a patched encoder sender."""

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
    """The memory of the target, and the inputs for computing a patched memory.

    Attributes:
        memory: the memory of the target without a patch.
        mel: the mel features of the doubled batch (see `stream_edits`), if sender and receiver are
            both in the encoder. The encoder then runs again. Otherwise None.
        last_resid: the encoder's last residual stream, if only the sender is in the encoder. No
            receiver changes this stream, so the encoder need not run again. Otherwise None.
    """

    memory: Memory
    mel: Float[Array, "B2 M F"] | None
    last_resid: Float[Array, "B S D"] | None

    @classmethod
    def of(cls, model: Whisper, run: Run, stack: str, reruns_encoder: bool) -> "TargetAudio":
        """Computes the fields of the target `run` for senders in `stack`."""
        memory = memory_of(model, run)
        if stack == "decoder":
            return cls(memory, None, None)
        if reruns_encoder:
            return cls(memory, jnp.concatenate([forward.mel_of(run)] * 2), None)
        acts = forward.activations(model, run, ["encoder.resid_post"])
        return cls(memory, None, acts["encoder.resid_post"][-1])  # of the last layer

    def patched_memory(
        self,
        model: Whisper,
        delta: Float[Array, "B S D"],
        sender_stage: Int[Array, ""],
        masks: dict[str, Bool[Array, "..."]],
    ) -> Memory:
        """Returns the memory of the doubled batch (see `stream_edits`) for an encoder sender."""
        if self.mel is not None:
            edits = path_edits("encoder", delta, sender_stage, masks)
            return forward.encode(model, self.mel, edits, NOTHING)[0]
        assert self.last_resid is not None
        patched = model.decoder.memory(model.encoder.ln_post(self.last_resid + delta))
        return join_memories(self.memory, patched)


def join_memories(run: Memory, patched: Memory) -> Memory:
    """Joins the memories of the two halves of the doubled batch."""
    return Memory(
        jnp.concatenate([run.xa, patched.xa]),
        _join_rows(run.k, patched.k),
        _join_rows(run.v, patched.v),
    )


def _join_rows(run: Array | tuple[Array, ...], patched: Array | tuple[Array, ...]) -> Array:
    assert not isinstance(run, tuple)  # the memory of a run is stacked
    assert not isinstance(patched, tuple)
    return jnp.concatenate([run, patched], 1)  # axis 0 is the layer


def memory_of(model: Whisper, run: Run) -> Memory:
    """Returns the memory of a run; encodes its recording if it has none."""
    if run.memory is not None:
        return run.memory
    with full_precision(model):
        return forward.encode(model, forward.mel_of(run), {}, NOTHING)[0]
