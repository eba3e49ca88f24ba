"""Encodes recordings and generates texts with an audio language model, for a store."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

import jaxasr
from experiments.store import pools, programs
from experiments.store.passes import TOKEN_BUCKET, ForwardPasses, Lengths, round_up
from jaxasr import compiled
from jaxasr.audio import pad_or_trim
from jaxasr.cache import EncodedAudio, Prefix
from jaxasr.decoding import Generation
from jaxasr.language.inputs import least_samples, pad_left
from jaxasr.meshes import DATA, axes_of_memory, specs_of


class LanguagePasses(ForwardPasses):
    """The passes of an audio language model.

    Its prompt requests a transcription, and holds as many audio tokens as the recording has.
    """

    @property
    def end(self) -> int:
        config = self.asr.config
        return config.eos[0] if config.eos else self.asr.tokenizer.end

    @property
    def sample_limits(self) -> tuple[int, int]:
        return least_samples(self.asr.config), self.asr.config.n_samples

    def lengths(self, frames: Sequence[int]) -> Lengths:
        lengths = {"encoder": list(frames), "audio": self._audio_tokens(frames)}
        if self.job.text is None:
            return lengths
        return lengths | {"first_audio_token": [first for first, _ in self.audio_spans(frames)]}

    def encode(
        self, audios: Sequence[np.ndarray], frames: Sequence[int], width: int
    ) -> tuple[Prefix | None, dict[str, Array]]:
        config, starts, per_token = self.asr.config, [0] * len(frames), self._frames_per_token
        samples = [pad_or_trim(np.asarray(audio, np.float32), config.n_samples) for audio in audios]
        readouts = []
        for clock, ends, window, kept in (
            ("encoder", frames, config.n_audio_ctx, width),
            ("audio", self._audio_tokens(frames), config.n_audio_tokens, -(-width // per_token)),
        ):
            sites = [s for s in self.job.sites_of("encoder") if pools.clock_of(config, s) == clock]
            spans = pools.spans(self.job.pools, starts, ends, ends, window)
            readouts.append(pools.readout(spans, sites, kept))
        speech = pools.spans(("speech",), starts, frames, frames, None)
        axes = self.axes_of_acts("encoder", width > 0) | {"mel": 0}
        has_memory = self.job.text is not None
        memory_axes = Prefix(0, 0) if has_memory else None  # pyright: ignore
        return compiled.call_on_mesh(
            self.mesh,
            programs.encode_padded_and_pool,
            self.model,
            np.stack(samples),
            np.asarray(frames, np.int32),
            np.asarray(self._read_tokens(frames), np.int32),
            speech,
            jaxasr.merge(*readouts),
            specs=(P(), P(DATA), P(DATA), P(DATA), P(DATA), P(DATA)),
            out_specs=specs_of((memory_axes, axes)),
            memory=has_memory,
        )

    def prompts(self, frames: Sequence[int]) -> list[list[int]]:
        tokenizer, language = self.asr.tokenizer, self.job.language
        return [tokenizer.transcription(n, language) for n in self._read_tokens(frames)]

    def audio_spans(self, frames: Sequence[int]) -> list[tuple[int, int]]:
        # The first audio token has the same place in all prompts.
        [prompt] = self.prompts(frames[:1])
        first = prompt.index(self.asr.config.audio_token)
        return [(first, first + n) for n in self._audio_tokens(frames)]

    def generate(
        self, memory: EncodedAudio, prompts: Sequence[list[int]], batch: int
    ) -> list[list[int]]:
        texts: list[list[int]] = [[]] * len(prompts)
        batches = [range(i, i + batch) for i in range(0, len(prompts), batch)]
        widths = [
            round_up(max(len(prompts[i]) for i in rows), TOKEN_BUCKET, self.asr.config.n_text_ctx)
            for rows in batches
        ]
        # A batch is computed with its own width only, because the width changes the rounding.
        for width in dict.fromkeys(widths):
            out = self._generate_padded(memory, prompts, width)
            for rows in (rows for rows, w in zip(batches, widths) if w == width):
                for i in rows:
                    texts[i] = out.tokens[i, : out.lengths[i]].tolist()
        return texts

    def _generate_padded(
        self, memory: EncodedAudio, prompts: Sequence[list[int]], width: int
    ) -> Generation:
        """Generates after prompts that are padded on the left, or cut, to `width` tokens."""
        config, tokenizer = self.asr.config, self.asr.tokenizer
        # The added row has `width` tokens, so that all rows are padded to at least this width.
        tokens, positions = pad_left([*prompts, [tokenizer.pad] * width], tokenizer.pad)
        out = compiled.call_on_mesh(
            self.mesh,
            programs.generate_after_prompts,
            self.model,
            memory,
            tokens[:-1, -width:],
            positions[:-1, -width:],
            specs=(P(), specs_of(axes_of_memory(memory)), P(DATA), P(DATA)),
            out_specs=P(DATA),
            max_new_tokens=min(self.job.max_new_tokens, config.n_text_ctx - width),
            eot=None if config.eos else tokenizer.end,
        )
        return jax.device_get(out).check_finite()

    def _audio_tokens(self, frames: Sequence[int]) -> list[int]:
        """Returns the audio tokens of each recording, without those of the padding."""
        family, per_token = self.asr.config.audio_language, self._frames_per_token
        if family.masks_frames:  # an audio token needs all its frames
            return [n // per_token for n in frames]
        return [-(-n // per_token) for n in frames]

    def _read_tokens(self, frames: Sequence[int]) -> list[int]:
        """Returns the audio tokens of each row that the language model reads."""
        config = self.asr.config
        if config.audio_language.masks_frames:
            return self._audio_tokens(frames)
        return [config.n_audio_tokens] * len(frames)  # those of the padding, too

    @property
    def _frames_per_token(self) -> int:
        return self.asr.config.audio_language.frames_per_token
