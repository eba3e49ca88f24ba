"""Computes the decoder's memory of the target, with or without a patched encoder sender."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from interventions import forward
from interventions.effects.paths.components import layer_order
from interventions.effects.paths.stream_edits import path_edits
from interventions.run import Run
from jaxasr import pytrees
from jaxasr.cache import EncodedAudio, Prefix
from jaxasr.language.decoder import LanguageDecoder
from jaxasr.meshes import axes_of_memory
from jaxasr.model import SpeechModel, full_precision
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
        lengths: mel frames of each row before its padding. None: no row has padding.
    """

    memory: EncodedAudio
    mel: Float[Array, "B2 M F"] | None
    last_resid: Float[Array, "B S D"] | None
    lengths: Int[Array, "B"] | None

    @classmethod
    def of(cls, model: SpeechModel, run: Run, stack: str, reruns_encoder: bool) -> "TargetAudio":
        """Computes the fields of the target `run` for senders in `stack`."""
        memory = memory_of(model, run)
        if stack == "decoder":
            return cls(memory, None, None, None)
        if reruns_encoder:
            return cls(memory, jnp.concatenate([forward.mel_of(run)] * 2), None, run.lengths)
        acts = forward.activations(model, run, ["encoder.resid_post"])
        last_resid = acts["encoder.resid_post"][-1]  # of the last layer
        return cls(memory, None, last_resid, run.lengths)

    def patched_memory(
        self,
        model: SpeechModel,
        delta: Float[Array, "B S D"],
        sender_stage: Int[Array, ""],
        masks: dict[str, Bool[Array, "..."]],
    ) -> EncodedAudio:
        """Returns the memory of the doubled batch (see `stream_edits`) for an encoder sender."""
        if self.mel is not None:
            order = layer_order(model.config, "encoder")
            edits = path_edits("encoder", order, delta, sender_stage, masks)
            lengths = None if self.lengths is None else jnp.concatenate([self.lengths] * 2)
            return forward.encode(model, self.mel, edits, NOTHING, lengths)[0]
        assert self.last_resid is not None
        patched = forward.memory_of_stream(model, self.last_resid + delta, self.lengths)
        return join_memories(self.memory, patched)


def join_memories(run: EncodedAudio, patched: EncodedAudio) -> EncodedAudio:
    """Joins the memories of the two halves of the doubled batch."""
    axes = axes_of_memory(run)
    return jax.tree.map(lambda axis, *halves: jnp.concatenate(halves, axis), axes, run, patched)


def memory_of(model: SpeechModel, run: Run) -> EncodedAudio:
    """Returns the memory of a run; encodes its recording if it has none."""
    if run.memory is not None:
        return run.memory
    with full_precision(model):
        return forward.encode(model, forward.mel_of(run), {}, NOTHING, run.lengths)[0]


def change_of_embeddings(
    model: SpeechModel, target: Run, memory: EncodedAudio
) -> Float[Array, "B T D"]:
    """Returns how the second half of a doubled memory differs from the first in the embeddings.

    In a language model, a sender of the encoder changes the embeddings of audio tokens. In Whisper
    the change reaches the decoder through the memory only.
    """
    decoder = model.decoder
    if not isinstance(memory, Prefix) or not isinstance(decoder, LanguageDecoder):
        return jnp.zeros((*jnp.shape(target.tokens), model.config.n_text_state), memory.xa.dtype)
    tokens, n_rows = jnp.asarray(target.tokens), target.batch
    halves = memory.rows(slice(0, n_rows)), memory.rows(slice(n_rows, None))
    frames = decoder.frames(tokens, forward.positions_of(target), halves[0])
    run, copy = (decoder.embed(tokens, frames, half) for half in halves)
    return copy - run
