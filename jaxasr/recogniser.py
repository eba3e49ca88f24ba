"""A model with what belongs to it: tokenizer, alignment heads, where it came from."""
import dataclasses
import os
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxasr.audio import load_audio
from jaxasr.config import Config
from jaxasr.heads import Heads, default_heads
from jaxasr.model import Whisper
from jaxasr.options import Options
from jaxasr.taps import Edits
from jaxasr.tokenizer import Tokenizer
from jaxasr.transcribe import Progress, transcribe
from jaxasr.transcript import Transcript
from jaxasr.weights import Checkpoint, WeightsError, assemble, read_checkpoint


@dataclasses.dataclass(frozen=True, eq=False)
class Recogniser:
    """What `jaxasr.load` gives. `model` is a pytree; the rest is host-side convenience."""

    model: Whisper
    tokenizer: Tokenizer
    checkpoint: Checkpoint

    @property
    def config(self) -> Config:
        return self.model.config

    @property
    def alignment_heads(self) -> Heads:
        """(layer, head) of the cross-attention heads that follow the speech: the published ones where there are any."""
        return self.checkpoint.alignment_heads or default_heads(self.config)

    def transcribe(
        self,
        audio: Float[np.ndarray, "n_samples"] | str | os.PathLike,
        *,
        edits: Edits | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Transcript:
        """The text of a recording of any length: 16 kHz samples (`load_audio`), or a file.

        `options` are those of `jaxasr.options.Options` (language, task, timestamps, word_timestamps, temperature, ...);
        `edits` of both stacks are in force throughout. Raises ValueError naming the option or the site that is wrong.
        """
        known = [field.name for field in dataclasses.fields(Options)]
        if unknown := set(options) - set(known):
            raise ValueError(f"transcribe: unknown option {sorted(unknown)}. There are: {', '.join(known)}.")
        samples = load_audio(audio) if isinstance(audio, str | os.PathLike) else audio
        return transcribe(
            self.model, self.tokenizer, samples, Options(**options), edits=edits, heads=self.alignment_heads, progress=progress
        )


def load(name: str | os.PathLike, *, dtype: str = "float32", param_dtype: str | None = None) -> Recogniser:
    """Loads a recogniser: `jaxasr.load("tiny.en")`.

    `name` is, in this order: a path (Hugging Face folder, CTranslate2 folder, OpenAI `.pt`); a size that an installed
    package carries; one in the Hugging Face cache; one on the hub (`openai/whisper-small`). `dtype` is what activations
    are computed in, `param_dtype` (default: the same) what weights are kept in: "float32", "bfloat16" or "float16".

    Raises WeightsError (a ValueError) for a damaged, incomplete or unknown checkpoint, with the remedy.
    """
    checkpoint = read_checkpoint(name)
    if checkpoint.tokenizer_file is None:
        raise WeightsError(
            f"{checkpoint.source}: the weights are fine, but neither tokenizer.json nor vocab.json with merges.txt lies beside them. "
            "Copy those of the same model there, or use jaxasr.weights.assemble(jaxasr.weights.read_checkpoint(path)) for the bare model."
        )
    tokenizer = Tokenizer.from_file(checkpoint.tokenizer_file, checkpoint.config.n_vocab)
    return Recogniser(assemble(checkpoint, dtype, param_dtype or dtype), tokenizer, checkpoint)
