"""Encodes recordings and generates texts with a Whisper, for a store."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from experiments.store import pools, programs
from experiments.store.passes import ForwardPasses, Lengths
from jaxasr import compiled
from jaxasr.audio import pad_or_trim
from jaxasr.cache import EncodedAudio, Memory
from jaxasr.decoding import Generation
from jaxasr.meshes import DATA, axes_of_memory, specs_of
from jaxasr.rules import rules_for


class WhisperPasses(ForwardPasses):
    """The passes of a Whisper, whose decoder reads one prompt for all recordings."""

    @property
    def end(self) -> int:
        return self.asr.tokenizer.special.eot

    def lengths(self, frames: Sequence[int]) -> Lengths:
        return {"encoder": list(frames)}

    def encode(
        self, audios: Sequence[np.ndarray], frames: Sequence[int], width: int
    ) -> tuple[Memory | None, dict[str, Array]]:
        rows = [pad_or_trim(np.asarray(audio, np.float32)) for audio in audios]
        n_context, starts = self.asr.config.n_audio_ctx, [0] * len(frames)
        spans = pools.spans(self.job.pools, starts, frames, frames, n_context)
        readout = pools.readout(spans, self.job.sites_of("encoder"), width)
        speech = pools.spans(("speech",), starts, frames, frames, n_context)
        axes = self.axes_of_acts("encoder", width > 0) | {"mel": 0}
        memory_axes = Memory(0, 1, 1) if self.job.text is not None else None  # pyright: ignore
        return compiled.call_on_mesh(
            self.mesh,
            programs.encode_and_pool,
            self.model,
            np.stack(rows),
            speech,
            readout,
            specs=(P(), P(DATA), P(DATA), P(DATA)),
            out_specs=specs_of((memory_axes, axes)),
            memory=self.job.text is not None,
        )

    def prompts(self, frames: Sequence[int]) -> list[list[int]]:
        return [self.asr.tokenizer.prompt(self.job.language)] * len(frames)

    def generate(
        self, memory: EncodedAudio, prompts: Sequence[list[int]], batch: int
    ) -> list[list[int]]:
        del batch  # all prompts have one length
        tokenizer = self.asr.tokenizer
        out = compiled.call_on_mesh(
            self.mesh,
            programs.generate_rows,
            self.model,
            memory,
            np.asarray(prompts, np.int32),
            rules_for(tokenizer, timestamps=False),
            specs=(P(), specs_of(axes_of_memory(memory)), P(DATA), P()),
            out_specs=P(DATA),
            max_new_tokens=min(
                self.job.max_new_tokens, self.asr.config.n_text_ctx - len(prompts[0]) - 1
            ),
            eot=tokenizer.special.eot,
        )
        out: Generation = jax.device_get(out).check_finite()
        return [row[:n].tolist() for row, n in zip(out.tokens, out.lengths)]
