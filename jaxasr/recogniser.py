"""A model with what belongs to it: tokenizer, alignment heads, where it came from."""

import dataclasses
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxasr.alignment.choose_heads import choose_heads, speech_windows
from jaxasr.alignment.forced import align_windows, place
from jaxasr.alignment.released_heads import Heads, check_heads, default_heads
from jaxasr.audio import load_audio
from jaxasr.cache import Memory
from jaxasr.config import Config
from jaxasr.generated_text import GeneratedText, Prompt, generate_text
from jaxasr.model import Whisper
from jaxasr.options import Options
from jaxasr.rules import Rules
from jaxasr.taps import Edits
from jaxasr.tokenizer import Tokenizer
from jaxasr.transcribe import Progress, transcribe
from jaxasr.transcript import Transcript, Word
from jaxasr.weights import Checkpoint, WeightsError, assemble, read_checkpoint

Audio = Float[np.ndarray, "n_samples"] | str | os.PathLike


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
        audio: Audio,
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
            raise ValueError(
                f"transcribe: unknown option {sorted(unknown)}. There are: {', '.join(known)}."
            )
        if options.get("word_timestamps") and not self.checkpoint.alignment_heads:
            warnings.warn(
                f"{self.checkpoint.name} names no alignment heads: word times are read from all heads of the upper half of the decoder. "
                "Choose heads once with asr.with_alignment_heads(asr.choose_heads(files)), and keep them with jaxasr.save.",
                stacklevel=2,
            )
        return transcribe(
            self.model,
            self.tokenizer,
            _samples(audio),
            Options(**options),
            edits=edits,
            heads=self.alignment_heads,
            progress=progress,
        )

    def generate(
        self,
        memory: Memory,
        prompt: Prompt | None = None,
        *,
        max_new_tokens: int = 224,
        edits: Edits | None = None,
        rules: Rules | None = None,
    ) -> GeneratedText:
        """Generates the text of each row of `memory`, greedily and under the checkpoint's rules.

        Args:
            memory: encoded audio of B recordings, from `asr.model.encode(mel)`.
            prompt: ids before the text, `[T0]` for all rows or `[B, T0]`. None:
                `asr.tokenizer.prompt()`.
            max_new_tokens: most tokens to generate for a row.
            edits: edits of decoder sites.
            rules: constraints on the logits. None: those of openai/whisper, with the grammar of
                timestamps if the prompt asks for timestamps.

        Returns:
            Ids, text, mean log-probability and no-speech probability of each row.

        Raises:
            ValueError: as `jaxasr.generate`.

        Example:
            ```python
            memory, _ = asr.model.encode(jaxasr.log_mel(audio, asr.config.n_mels)[None])
            text = asr.generate(memory).text[0]
            ```
        """
        return generate_text(
            self, memory, prompt, max_new_tokens=max_new_tokens, edits=edits, rules=rules
        )

    def align(
        self, audio: Audio, text: str, *, language: str | None = None, heads: Heads | None = None
    ) -> tuple[Word, ...]:
        """Returns when each word of a given text is spoken in a recording of any length.

        Args:
            audio: 16 kHz samples (`load_audio`), or a file.
            text: what is spoken. Words that are not spoken get times too, with a low probability.
            language: of the text, a code or an English name; None detects it (multilingual checkpoints).
            heads: (layer, head) of the cross-attention to read; None: those of the checkpoint, or, where it names none,
                those that `choose_heads` finds for this recording and text.

        Returns:
            Words in order, with `start` and `end` in seconds and `probability`, the mean over the word's tokens of the
            probability that the model gives them.

        Raises:
            ValueError: no words in the text; more text than fits the recording; an unknown language; bad audio.

        Example:
            `words = asr.align("speech.flac", "The captain read the old letter aloud.")`
        """
        windows = place(self.model, self.tokenizer, _samples(audio), text, language=language)
        heads = heads or self.checkpoint.alignment_heads
        heads = heads or choose_heads(self.model, self.tokenizer, windows)
        return tuple(align_windows(self.model, self.tokenizer, windows, heads=heads))

    def choose_heads(
        self, audios: Sequence[Audio], *, language: str | None = None, n: int | None = None
    ) -> Heads:
        """Returns cross-attention heads that follow the speech, for a checkpoint that names none; needs no labels.

        Transcribes the recordings and scores every head by how well it alone follows the speech while the decoder reads
        the transcript; see `jaxasr.alignment.choose_heads`. Ten recordings or more give a stable choice.

        Args:
            audios: recordings of speech of any length: 16 kHz samples, or files.
            language: a code or an English name; None detects it (multilingual checkpoints).
            n: how many heads; None: as many as a layer of the decoder has.

        Raises:
            ValueError: no recording with speech; `n` out of range.

        Example:
            `jaxasr.save(asr.with_alignment_heads(asr.choose_heads(files)), "folder")` keeps the choice with the weights.
        """
        samples = [_samples(audio) for audio in audios]
        windows = [
            window
            for one in samples
            for window in speech_windows(self.model, self.tokenizer, one, language=language)
        ]
        return choose_heads(self.model, self.tokenizer, windows, n=n)

    def with_alignment_heads(self, heads: Heads) -> "Recogniser":
        """Returns the same recogniser with these alignment heads, which `jaxasr.save` writes to `generation_config.json`."""
        heads = tuple((int(layer), int(head)) for layer, head in check_heads(self.config, heads))
        return dataclasses.replace(self, checkpoint=self.checkpoint.replace(alignment_heads=heads))


def _samples(audio: Audio) -> Float[np.ndarray, "n_samples"]:
    return load_audio(audio) if isinstance(audio, str | os.PathLike) else audio


def load(
    name: str | os.PathLike, *, dtype: str = "float32", param_dtype: str | None = None
) -> Recogniser:
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
