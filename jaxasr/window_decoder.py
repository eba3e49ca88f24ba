"""Encodes, decodes and aligns windows of one recording under fixed options."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxasr.alignment.released_heads import Heads
from jaxasr.alignment.words import align
from jaxasr.cache import Memory
from jaxasr.decoding import unrolls_layers
from jaxasr.generate import Generation, generate
from jaxasr.model import Whisper
from jaxasr.options import Options
from jaxasr.rules import Rules
from jaxasr.segments import DecodedWindow
from jaxasr.taps import Edits
from jaxasr.text import compression_ratio
from jaxasr.tokenizer import MAX_PREVIOUS, Tokenizer
from jaxasr.transcript import Word

_MAX_TEMPERATURES = 64  # random keys that are reserved for each window, one per temperature


@dataclasses.dataclass(frozen=True)
class WindowDecoder:
    """Decodes windows of one recording. The fields apply to every window.

    Attributes:
        model: the recogniser's model.
        tokenizer: the tokenizer of the model.
        options: options of the transcription.
        rules: constraints on the logits.
        language: language code of the prompt.
        encoder_edits: edits of encoder sites.
        decoder_edits: edits of decoder sites.
        heads: `(layer, head)` pairs of the cross-attention heads that give word times.
    """

    model: Whisper
    tokenizer: Tokenizer
    options: Options
    rules: Rules
    language: str
    encoder_edits: Edits
    decoder_edits: Edits
    heads: Heads

    def encode(self, mels: Sequence[Float[Array | np.ndarray, "M F"]]) -> Memory:
        """Encodes a batch of windows."""
        mel = jnp.stack([jnp.asarray(mel) for mel in mels])
        unstacked = unrolls_layers(self.model.config)
        return self.model.encode(mel, edits=self.encoder_edits, unstacked=unstacked)[0]

    def decode(
        self, memory: Memory, previous: Sequence[Sequence[int]], *, first_window: int
    ) -> list[DecodedWindow]:
        """Decodes each window at the first temperature that passes the thresholds.

        Args:
            memory: encoded audio of B windows.
            previous: token ids of the text before each window.
            first_window: number of the first of these windows in the recording. The random keys
                depend on it.

        Returns:
            One result per window. If every temperature fails, it is the result of the last one.
        """
        results: list[DecodedWindow] = []
        for i, temperature in enumerate(self.options.temperatures):
            seed = jax.random.key(self.options.seed)
            key = jax.random.fold_in(seed, first_window * _MAX_TEMPERATURES + i)
            # Decodes all rows again, so that every temperature runs the same program.
            retries = self._decode_once(memory, previous, temperature, key)
            results = [
                retry if not results or self.options.failed(results[row]) else results[row]
                for row, retry in enumerate(retries)
            ]
            if not any(map(self.options.failed, results)):
                break
        return results

    def _decode_once(
        self,
        memory: Memory,
        previous: Sequence[Sequence[int]],
        temperature: float,
        key: Key[Array, ""],
    ) -> list[DecodedWindow]:
        special = self.tokenizer.special
        prompt = functools.partial(
            self.tokenizer.prompt, self.language, self.options.task, self.options.timestamps
        )
        n_control = len(prompt())
        # Prompts with previous text have the same width, so that one program serves all windows.
        width = n_control + (1 + MAX_PREVIOUS if any(previous) else 0)
        tokens, positions = _pad_left([prompt(ids) for ids in previous], special.eot, width)
        generation = generate(
            self.model,
            memory,
            tokens,
            max_new_tokens=min(self.options.max_new_tokens, self.model.config.n_text_ctx - width),
            edits=self.decoder_edits,
            rules=self.rules,
            temperature=temperature,
            key=key,
            beam_size=None if temperature > 0 else self.options.beam_size,
            positions=positions,
            eot=special.eot,
            no_speech=(width - n_control, special.no_speech),
        )
        return self._to_decoded_windows(generation, temperature)

    def _to_decoded_windows(
        self, generation: Generation, temperature: float
    ) -> list[DecodedWindow]:
        arrays = (
            generation.tokens,
            generation.lengths,
            generation.avg_logprob,
            generation.no_speech_prob,
        )
        tokens, lengths, avg_logprobs, no_speech_probs = jax.device_get(arrays)
        texts = [row[:n].tolist() for row, n in zip(tokens, lengths)]
        ratios = [compression_ratio(self.tokenizer.decode(ids).strip()) for ids in texts]
        return [
            DecodedWindow(tuple(ids), float(avg_logprob), float(no_speech), ratio, temperature)
            for ids, avg_logprob, no_speech, ratio in zip(
                texts, avg_logprobs, no_speech_probs, ratios
            )
        ]

    def align_words(
        self, memory: Memory, texts: Sequence[Sequence[int]], n_mel_frames: Sequence[int]
    ) -> list[list[Word]]:
        """Returns the words of each window with their times, if `word_timestamps` is set."""
        if not self.options.word_timestamps:
            return [[] for _ in texts]
        return align(
            self.model,
            self.tokenizer,
            memory,
            texts,
            # Two mel frames of 10 ms are one encoder frame of 20 ms.
            [max(1, n // 2) for n in n_mel_frames],
            heads=self.heads,
            language=self.language,
            task=self.options.task,
            edits=self.decoder_edits,
        )


def _pad_left(
    prompts: list[list[int]], pad_id: int, width: int
) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
    """Pads prompts on the left. Returns ids, and positions that are negative at padding."""
    tokens = np.array([[pad_id] * (width - len(ids)) + ids for ids in prompts], np.int32)
    positions = np.array([np.arange(width) - (width - len(ids)) for ids in prompts], np.int32)
    return jnp.asarray(tokens), jnp.asarray(positions)
