"""Defines the recogniser that `jaxasr.load` returns: a model with its tokenizer."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from jaxasr.alignment.choose_heads import choose_heads, speech_windows
from jaxasr.alignment.forced import align_windows, place_text
from jaxasr.alignment.released_heads import Heads, check_heads, default_heads
from jaxasr.cache import Memory
from jaxasr.decoding import LogitFilter
from jaxasr.generated_text import GeneratedText, Prompt, generate_text
from jaxasr.loaded_model import Audio, LoadedModel, read_samples
from jaxasr.model import Whisper
from jaxasr.options import Options
from jaxasr.taps import Edits
from jaxasr.tokenizer import Tokenizer
from jaxasr.transcribe import Progress, transcribe
from jaxasr.transcript import Transcript, Word


class Recogniser(LoadedModel[Whisper, Tokenizer]):
    """A speech recogniser: model, tokenizer and checkpoint.

    Attributes:
        model: the model, a pytree.
        tokenizer: converts between text and token ids.
        checkpoint: source of the weights, and settings such as the alignment heads.

    Example:
        ```python
        asr = jaxasr.load("tiny.en")
        print(asr.transcribe(audio).text)
        ```
    """

    @property
    def alignment_heads(self) -> Heads:
        """`(layer, head)` pairs of the cross-attention heads that give word times.

        If the checkpoint names no heads, these are all heads of the upper half of the decoder.
        """
        return self.checkpoint.alignment_heads or default_heads(self.config)

    def transcribe(
        self,
        audio: Audio,
        *,
        edits: Edits | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Transcript:
        """Transcribes a recording of any length.

        Args:
            audio: 16 kHz samples (`jaxasr.load_audio`), or a file.
            edits: `{site: edit}` for sites of the encoder and the decoder, applied to every window.
            progress: called with the seconds transcribed so far and the duration in seconds.
            options: fields of `jaxasr.Options`: language, task, timestamps, word_timestamps,
                temperature and others.

        Returns:
            Text, segments and language, and with `word_timestamps` also words with times.

        Raises:
            ValueError: an unknown option or site, a wrong value, or audio that cannot be read.

        Example:
            ```python
            transcript = asr.transcribe(audio, word_timestamps=True)
            transcript.text, transcript.segments[0].words
            ```
        """
        names = [field.name for field in dataclasses.fields(Options)]
        if unknown := sorted(set(options) - set(names)):
            raise ValueError(
                f"transcribe: unknown option {unknown}. Expected one of: {', '.join(names)}."
            )
        if options.get("word_timestamps") and not self.checkpoint.alignment_heads:
            warnings.warn(
                f"{self.checkpoint.name} names no alignment heads, so word times come from all "
                "heads of the upper half of the decoder. Choose heads once with "
                "asr.with_alignment_heads(asr.choose_heads(files)), and keep them with "
                "jaxasr.save.",
                stacklevel=2,
            )
        return transcribe(
            self.model,
            self.tokenizer,
            read_samples(audio),
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
        rules: LogitFilter | None = None,
        mesh: Mesh | None = None,
    ) -> GeneratedText:
        """Generates the text of each row of `memory` greedily.

        Args:
            memory: encoded audio of B recordings, from `asr.model.encode(mel)`.
            prompt: ids before the text, [T0] for all rows or [B, T0]. None:
                `asr.tokenizer.prompt()`.
            max_new_tokens: most tokens to generate per row.
            edits: `{site: edit}` for decoder sites.
            rules: constraints on the logits. None: the rules of openai/whisper, with those for
                timestamps unless the prompt contains <|notimestamps|>.
            mesh: devices that divide the rows, as in `jaxasr.generate`.

        Returns:
            Ids, text, mean log-probability and no-speech probability of each row.

        Raises:
            ValueError: as in `jaxasr.generate`.

        Example:
            ```python
            memory, _ = asr.model.encode(jaxasr.log_mel(audio, asr.config.n_mels)[None])
            text = asr.generate(memory).text[0]
            ```
        """
        return generate_text(
            self, memory, prompt, max_new_tokens=max_new_tokens, edits=edits, rules=rules, mesh=mesh
        )

    def align(
        self, audio: Audio, text: str, *, language: str | None = None, heads: Heads | None = None
    ) -> tuple[Word, ...]:
        """Returns when each word of a given text is spoken in a recording of any length.

        Args:
            audio: 16 kHz samples (`jaxasr.load_audio`), or a file.
            text: the spoken text. A word that is not spoken also gets times, but a low probability.
            language: language of the text, a code or an English name. None: detect the language
                (multilingual checkpoints).
            heads: `(layer, head)` pairs of cross-attention heads. None: the heads of the
                checkpoint, or heads that `choose_heads` chooses for this recording if the
                checkpoint names none.

        Returns:
            Words in order, with `start` and `end` in seconds and with the mean probability of
            their tokens.

        Raises:
            ValueError: no words, more text than fits, an unknown language, or unreadable audio.

        Example:
            ```python
            words = asr.align(audio, "The captain read the old letter aloud.")
            words[0].start, words[0].end
            ```
        """
        windows = place_text(
            self.model, self.tokenizer, read_samples(audio), text, language=language
        )
        heads = heads or self.checkpoint.alignment_heads
        heads = heads or choose_heads(self.model, self.tokenizer, windows)
        return tuple(align_windows(self.model, self.tokenizer, windows, heads=heads))

    def choose_heads(
        self, audios: Sequence[Audio], *, language: str | None = None, n: int | None = None
    ) -> Heads:
        """Chooses cross-attention heads for word times, for a checkpoint that names none.

        The choice needs no labels. The model transcribes the recordings, and each head is scored by
        how well it follows the speech while the decoder reads the transcript (see
        `jaxasr.alignment.choose_heads`). Ten recordings or more give a stable choice.

        Args:
            audios: recordings of speech of any length: 16 kHz samples, or files.
            language: a code or an English name. None: detect the language (multilingual
                checkpoints).
            n: number of heads; None: the number of heads per decoder layer.

        Returns:
            The `(layer, head)` pair of each chosen head.

        Raises:
            ValueError: no recording with speech, or `n` out of range.

        Example:
            ```python
            asr = asr.with_alignment_heads(asr.choose_heads([audio]))
            jaxasr.save(asr, "folder")
            ```
        """
        samples = [read_samples(audio) for audio in audios]
        windows = [
            window
            for recording in samples
            for window in speech_windows(self.model, self.tokenizer, recording, language=language)
        ]
        return choose_heads(self.model, self.tokenizer, windows, n=n)

    def with_alignment_heads(self, heads: Heads) -> "Recogniser":
        """Returns the same recogniser with other alignment heads.

        `jaxasr.save` writes the heads to `generation_config.json`.

        Args:
            heads: `(layer, head)` pairs of cross-attention heads.

        Raises:
            ValueError: a layer or head that the decoder does not have.

        Example:
            ```python
            asr = asr.with_alignment_heads([(2, 0), (3, 5)])
            ```
        """
        heads = tuple((int(layer), int(head)) for layer, head in check_heads(self.config, heads))
        return dataclasses.replace(self, checkpoint=self.checkpoint.replace(alignment_heads=heads))
