"""A batch of recordings through the model: samples in, pooled activations out, nothing longer kept than is asked for."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import jaxasr
from experiments.store import pools
from jaxasr import compiled
from jaxasr.audio import log_mel, n_frames, pad_or_trim
from jaxasr.cache import Memory
from jaxasr.config import FRAMES_PER_S
from jaxasr.model import Whisper, full_precision
from jaxasr.rules import Rules, rules_for
from jaxasr.sites import stack_of
from jaxasr.taps import Readout

_FRAME_BUCKET, _TOKEN_BUCKET = (
    5 * FRAMES_PER_S,
    32,
)  # widths are multiples of these, so that few programs are compiled


@dataclasses.dataclass(frozen=True)
class Job:
    """What to read. `text` is None (encoder only), "greedy" (the model's own transcript) or "transcript" (the corpus's)."""

    sites: tuple[str, ...]
    pools: tuple[str, ...]
    frames: bool
    text: str | None
    language: str
    max_new_tokens: int

    def of(self, stack: str) -> tuple[str, ...]:
        return tuple(site for site in self.sites if stack_of(site) == stack)


Heard = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Passes:
    """`run` gives of a batch `{site: [L, B, P, D]}` (no L where there is none), `{site/frames: [L, B, T, D]}`, `mel` [B, M], and the
    true lengths by stack."""

    asr: Any
    job: Job

    @functools.cached_property
    def rules(self) -> Rules:
        return rules_for(self.asr.tokenizer)

    def run(
        self, audios: Sequence[np.ndarray], transcripts: Sequence[str]
    ) -> tuple[Heard, dict[str, list[int]]]:
        frames = [n_frames(len(audio)) for audio in audios]
        sound = np.stack([pad_or_trim(np.asarray(audio, np.float32)) for audio in audios])
        memory, acts = self._hear(sound, frames)
        lengths = {"encoder": frames}
        if self.job.text is not None:
            said, lengths["decoder"] = self._say(memory, transcripts)
            acts |= said
        return jax.device_get(acts), lengths

    def missing(self, lengths: dict[str, list[int]], row: int) -> str:
        """Why a row lacks a position that is to be read; "" when it has them all."""
        for stack in {stack_of(site) for site in self.job.sites}:
            for pool in self.job.pools:
                if not pools.has(pool, lengths[stack][row]):
                    return f"position {pool} lies outside of its {lengths[stack][row]} {'frames' if stack == 'encoder' else 'tokens'}"
        return ""

    def _hear(
        self, sound: Float[np.ndarray, "B n"], frames: list[int]
    ) -> tuple[Memory | None, dict[str, Array]]:
        whole = self.asr.config.n_audio_ctx
        spans = pools.spans(self.job.pools, [0] * len(frames), frames, frames, whole)
        readout = pools.readout(
            spans, self.job.of("encoder"), self._width(frames, _FRAME_BUCKET, whole)
        )
        speech = pools.spans(("speech",), [0] * len(frames), frames, frames, whole)
        keep = self.job.text is not None
        return compiled.call(
            _hear, self.asr.model, jnp.asarray(sound), jnp.asarray(speech), readout, memory=keep
        )

    def _width(self, lengths: Sequence[int], bucket: int, most: int) -> int:
        return min(most, -(-max(lengths) // bucket) * bucket) if self.job.frames else 0

    def _say(
        self, memory: Memory, transcripts: Sequence[str]
    ) -> tuple[dict[str, Array], list[int]]:
        prompt, end = self._prompt(), self.asr.tokenizer.special.eot
        texts = (
            self._written(memory, prompt)
            if self.job.text == "greedy"
            else [self.encode(text) for text in transcripts]
        )
        room = self.asr.config.n_text_ctx - len(prompt) - 1
        rows = [[*prompt, *ids[:room], end] for ids in texts]
        lengths = [len(row) for row in rows]
        spans = pools.spans(
            self.job.pools, [len(prompt)] * len(rows), [n - 1 for n in lengths], lengths, None
        )
        width = min(self.asr.config.n_text_ctx, -(-max(lengths) // _TOKEN_BUCKET) * _TOKEN_BUCKET)
        tokens = np.array([row + [end] * (width - len(row)) for row in rows], np.int32)
        positions = np.where(
            np.arange(width) < np.array(lengths)[:, None], np.arange(width), -1
        ).astype(np.int32)
        readout = pools.readout(spans, self.job.of("decoder"), width if self.job.frames else 0)
        return compiled.call(
            _say, self.asr.model, jnp.asarray(tokens), jnp.asarray(positions), memory, readout
        ), lengths

    def _prompt(self) -> list[int]:
        return self.asr.tokenizer.prompt(self.job.language)

    def encode(self, text: str) -> list[int]:
        """A transcript as the model would write it."""
        return self.asr.tokenizer.encode(f" {text.strip()}")

    def _written(self, memory: Memory, prompt: list[int]) -> list[list[int]]:
        batch = memory.xa.shape[0]
        n = min(self.job.max_new_tokens, self.asr.config.n_text_ctx - len(prompt) - 1)
        eot = self.asr.tokenizer.special.eot
        prompts = jnp.tile(jnp.asarray(prompt), (batch, 1))
        out = jaxasr.generate(
            self.asr.model, memory, prompts, max_new_tokens=n, rules=self.rules, eot=eot
        )
        tokens, lengths = jax.device_get((out.tokens, out.lengths))
        return [row[:n].tolist() for row, n in zip(tokens, lengths)]


def _hear(
    model: Whisper,
    sound: Float[Array, "B n"],
    speech: Int[Array, "B 1 2"],
    readout: Readout,
    *,
    memory: bool,
) -> tuple[Memory | None, dict[str, Array]]:
    """Features and encoder in one program; what only the decoder would need is left out."""
    mel = jax.vmap(lambda audio: log_mel(audio, model.config.n_mels))(sound)
    with full_precision(model):
        xa, acts = model.encoder(mel.astype(model.config.dtype), {}, readout)
        acts["mel"] = pools.means(jnp.swapaxes(mel, 1, 2), 2 * speech)[:, 0]
        return (model.decoder.memory(xa) if memory else None), acts


def _say(
    model: Whisper,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    memory: Memory,
    readout: Readout,
) -> dict[str, Array]:
    with full_precision(model):
        x, _, tap, acts = model.decoder.residual(tokens, positions, memory, {}, readout)
        model.decoder.head(x, tap)  # the logits are computed only when a readout keeps them
        return acts | readout(tap.acts)
