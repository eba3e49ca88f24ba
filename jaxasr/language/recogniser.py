"""Defines what `jaxasr.load` returns for an audio language model: a model with its tokenizer."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxasr import sites
from jaxasr.cache import Prefix
from jaxasr.generate import generate
from jaxasr.generated_text import GeneratedText, decode_generation
from jaxasr.language.encoder import count_frames
from jaxasr.language.inputs import Inputs, features, pad_left
from jaxasr.language.model import AudioLanguageModel
from jaxasr.language.tokenizer import LanguageTokenizer
from jaxasr.language.windows import check_options, transcribe_windows
from jaxasr.languages import language_code
from jaxasr.loaded_model import Audio, LoadedModel, read_samples
from jaxasr.taps import Edits
from jaxasr.transcribe import Progress
from jaxasr.transcript import Transcript

# Prompts are padded to a multiple of this length, so that few programs are compiled.
_PROMPT_STEP = 32


class PromptedRecogniser(LoadedModel[AudioLanguageModel, LanguageTokenizer]):
    """An audio language model with its tokenizer and checkpoint. A prompt states what it does.

    Attributes:
        model: the model, a pytree.
        tokenizer: converts between text and token ids, and builds prompts.
        checkpoint: source of the weights.

    Example:
        ```python
        from jaxasr.language.toy import write_toy

        lm_asr = jaxasr.load(write_toy("toy"))  # random weights; or jaxasr.load("qwen2-audio-7b")
        text = lm_asr.transcribe(audio[:32_000], language="en").text
        answer = lm_asr.ask(audio[:32_000], "How does the speaker feel?")
        ```
    """

    def inputs(
        self,
        audios: Sequence[Audio],
        text: str | None = None,
        *,
        chat: bool = True,
        language: str | None = None,
    ) -> Inputs:
        """Prepares features and prompts of recordings of at most one window (30 s).

        Args:
            audios: recordings: 16 kHz samples, or files.
            text: a question or another text. None: request a transcription.
            chat: ask in a chat, the format of models tuned to follow instructions. False: the text
                directly follows the audio, the format of base models.
            language: code of the language for a transcription. None: the model detects it.

        Returns:
            Features and prompts, for `generate` and `model.encode`.

        Raises:
            ValueError: a recording that is too long, too short or damaged, or a text with the
                audio token.

        Example:
            ```python
            inputs = lm_asr.inputs([audio[:32_000]], "What is this?")
            inputs.tokens.shape
            ```
        """
        mel, lengths = features([read_samples(audio) for audio in audios], self.config)
        language = None if language is None else language_code(language)
        _, n_audio = count_frames(self.config, lengths)
        prompts = [self._prompt(int(n), text, chat, language) for n in n_audio]
        return Inputs(mel, lengths, *pad_left(prompts, self.tokenizer.pad))

    def ask(
        self,
        audio: Audio,
        question: str,
        *,
        chat: bool = True,
        max_new_tokens: int = 256,
        edits: Edits | None = None,
    ) -> str:
        """Answers a question about a recording of at most one window (30 s), greedily.

        Args:
            audio: 16 kHz samples (`jaxasr.load_audio`), or a file.
            question: the question.
            chat: ask in a chat. False: the model continues the question, as base models do.
            max_new_tokens: most tokens of the answer.
            edits: `{site: edit}` for sites of the encoder and the decoder.

        Returns:
            The answer.

        Raises:
            ValueError: as in `inputs`, or an unknown site.

        Example:
            ```python
            answer = lm_asr.ask(audio[:32_000], "How many people speak?")
            ```
        """
        inputs = self.inputs([audio], question, chat=chat)
        return self.generate(inputs, max_new_tokens=max_new_tokens, edits=edits).text[0]

    def transcribe(
        self,
        audio: Audio,
        *,
        edits: Edits | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Transcript:
        """Transcribes a recording of any length, window by window.

        A window has 30 s in released models. Each is transcribed greedily and independently of the
        others, with the plain prompt of the family.

        Args:
            audio: 16 kHz samples (`jaxasr.load_audio`), or a file.
            edits: `{site: edit}` for sites of the encoder and the decoder, applied to every window.
            progress: called with the seconds transcribed so far and the duration in seconds.
            options: `language` (None: the model detects it), `max_new_tokens` per window and
                `batch_size` of `jaxasr.Options`. Its other fields must have their defaults.

        Returns:
            Text, and one segment per window. The language is "und" (undetermined) if it was not
            given and the model does not state it.

        Raises:
            ValueError: an option that is unknown or not supported, an unknown language or site, or
                audio that cannot be read.

        Example:
            ```python
            text = lm_asr.transcribe(audio[:64_000], language="en").text
            ```
        """
        return transcribe_windows(
            self, read_samples(audio), check_options(options), edits=edits, progress=progress
        )

    def generate(
        self,
        inputs: Inputs,
        *,
        memory: Prefix | None = None,
        max_new_tokens: int = 256,
        edits: Edits | None = None,
    ) -> GeneratedText:
        """Generates the text after each prompt greedily.

        Args:
            inputs: features and prompts, from `inputs`.
            memory: encoded audio of the same recordings. None: encode `inputs.mel`.
            max_new_tokens: most tokens to generate per row.
            edits: `{site: edit}` for sites of the encoder and the decoder. Those of the encoder act
                only without `memory`.

        Returns:
            Ids, text and mean log-probability of each row. `no_speech_prob` is NaN, because the
            model has no token for silence.

        Raises:
            ValueError: an unknown site, or encoder edits together with `memory`.

        Example:
            ```python
            inputs = lm_asr.inputs([audio[:32_000]], "What is this?")
            text = lm_asr.generate(inputs, max_new_tokens=20).text[0]
            ```
        """
        sites.check_known(edits or {}, self.sites)
        encoder_edits, decoder_edits = (
            {site: edit for site, edit in (edits or {}).items() if sites.stack_of(site) == stack}
            for stack in ("encoder", "decoder")
        )
        if memory is None:
            memory, _ = self.model.encode(inputs.mel, encoder_edits, lengths=inputs.lengths)
        elif encoder_edits:
            raise ValueError(
                f"edits: {', '.join(encoder_edits)} cannot act, because memory is given. Leave out "
                "memory, or give the edits to asr.model.encode."
            )
        padded = self.pad_prompts(inputs)
        generation = generate(
            self.model,
            memory,
            padded.tokens,
            positions=padded.positions,
            max_new_tokens=max_new_tokens,
            edits=decoder_edits,
            eot=None if self.config.eos else self.tokenizer.end,
        )
        return decode_generation(generation, self.tokenizer.decode)

    def pad_prompts(self, inputs: Inputs) -> Inputs:
        """Pads prompts on the left to a multiple of 32 tokens, so that few programs are compiled.

        `generate` does the same.

        Example:
            ```python
            inputs = lm_asr.pad_prompts(lm_asr.inputs([audio[:32_000]], "What is this?"))
            ```
        """
        padding = -inputs.tokens.shape[1] % _PROMPT_STEP
        tokens = np.pad(inputs.tokens, ((0, 0), (padding, 0)), constant_values=self.tokenizer.pad)
        positions = _pad_positions(inputs.positions, padding)
        return dataclasses.replace(inputs, tokens=tokens, positions=positions)

    def _prompt(
        self, n_audio: int, text: str | None, chat: bool, language: str | None
    ) -> list[int]:
        if text is None:
            return self.tokenizer.transcription(n_audio, language)
        return (self.tokenizer.chat if chat else self.tokenizer.plain)(n_audio, text)


def _pad_positions(positions: Int[np.ndarray, "B T"], padding: int) -> Int[np.ndarray, "B P"]:
    """Returns positions with `padding` more columns of padding on the left."""
    earlier = positions[:, :1] - np.arange(padding, 0, -1, dtype=np.int32)
    return np.concatenate([np.minimum(earlier, -1), positions], axis=1)
