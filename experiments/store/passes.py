"""Runs batches of recordings through a model and returns pooled activations."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.store import pools
from jaxasr import compiled
from jaxasr.audio import log_mel, n_frames, pad_or_trim
from jaxasr.cache import Memory
from jaxasr.config import FRAMES_PER_S
from jaxasr.model import Whisper, full_precision
from jaxasr.recogniser import Recogniser
from jaxasr.sites import stack_of
from jaxasr.taps import Readout

# Widths are multiples of these, so that few programs are compiled.
_FRAME_BUCKET, _TOKEN_BUCKET = 5 * FRAMES_PER_S, 32

Activations = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Job:
    """Which activations to read.

    Attributes:
        sites: names of sites.
        pools: names of pools, see `experiments.store.pools.parse`.
        frames: whether to keep every true frame.
        text: None (no decoder sites), "greedy" (the model's own text) or "transcript" (the
            corpus's).
        language: the language of the decoder's prompt.
        max_new_tokens: the most tokens of a greedy text.
    """

    sites: tuple[str, ...]
    pools: tuple[str, ...]
    frames: bool
    text: str | None
    language: str
    max_new_tokens: int

    def of(self, stack: str) -> tuple[str, ...]:
        """The sites of one stack, "encoder" or "decoder"."""
        return tuple(site for site in self.sites if stack_of(site) == stack)


@dataclasses.dataclass(frozen=True)
class Passes:
    """Runs the passes of a job."""

    asr: Recogniser
    job: Job

    def run(
        self, audios: Sequence[np.ndarray], transcripts: Sequence[str]
    ) -> tuple[Activations, dict[str, list[int]]]:
        """Reads the activations of one batch.

        Args:
            audios: 16 kHz samples of each recording, at most 30 s.
            transcripts: the text of each recording, for a job with `text="transcript"`.

        Returns:
            `{site: [L, B, P, D], site/frames: [L, B, T, D], mel: [B, M]}`, without L at sites that
            have no layers; and the true lengths of the rows by stack.
        """
        frames = [n_frames(len(audio)) for audio in audios]
        samples = np.stack([pad_or_trim(np.asarray(audio, np.float32)) for audio in audios])
        memory, acts = self._encode(samples, frames)
        lengths = {"encoder": frames}
        if memory is not None:
            decoder_acts, lengths["decoder"] = self._decode(memory, transcripts)
            acts |= decoder_acts
        return jax.device_get(acts), lengths

    def missing_position(self, lengths: dict[str, list[int]], row: int) -> str:
        """Why a row lacks a position that is to be read; "" if it has all of them."""
        for stack in {stack_of(site) for site in self.job.sites}:
            length = lengths[stack][row]
            unit = "frames" if stack == "encoder" else "tokens"
            for pool in self.job.pools:
                if not pools.has(pool, length):
                    return f"position {pool} lies outside of its {length} {unit}"
        return ""

    def tokens(self, text: str) -> list[int]:
        """The token ids of a transcript, as the model would generate them."""
        return self.asr.tokenizer.encode(f" {text.strip()}")

    def _encode(
        self, samples: Float[np.ndarray, "B n"], frames: list[int]
    ) -> tuple[Memory | None, dict[str, Array]]:
        """Memory, if the job needs the decoder, and activations of the encoder."""
        whole, starts = self.asr.config.n_audio_ctx, [0] * len(frames)
        spans = pools.spans(self.job.pools, starts, frames, frames, whole)
        width = self._width(frames, _FRAME_BUCKET, whole)
        readout = pools.readout(spans, self.job.of("encoder"), width)
        speech = pools.spans(("speech",), starts, frames, frames, whole)
        return compiled.call(
            _encode,
            self.asr.model,
            jnp.asarray(samples),
            jnp.asarray(speech),
            readout,
            memory=self.job.text is not None,
        )

    def _decode(
        self, memory: Memory, transcripts: Sequence[str]
    ) -> tuple[dict[str, Array], list[int]]:
        """Activations of the decoder over prompt, text and end of text, and the rows' lengths."""
        tokenizer, n_ctx = self.asr.tokenizer, self.asr.config.n_text_ctx
        prompt, end = tokenizer.prompt(self.job.language), tokenizer.special.eot
        texts = (
            self._generated(memory, prompt)
            if self.job.text == "greedy"
            else [self.tokens(text) for text in transcripts]
        )
        rows = [[*prompt, *ids[: n_ctx - len(prompt) - 1], end] for ids in texts]
        lengths = [len(row) for row in rows]
        starts, ends = [len(prompt)] * len(rows), [n - 1 for n in lengths]
        spans = pools.spans(self.job.pools, starts, ends, lengths, None)
        width = _bucket(max(lengths), _TOKEN_BUCKET, n_ctx)
        tokens = np.array([row + [end] * (width - len(row)) for row in rows], np.int32)
        # Position -1 marks padding.
        columns = np.arange(width)
        positions = np.where(columns < np.array(lengths)[:, None], columns, -1).astype(np.int32)
        readout = pools.readout(spans, self.job.of("decoder"), width if self.job.frames else 0)
        acts = compiled.call(
            _decode, self.asr.model, jnp.asarray(tokens), jnp.asarray(positions), memory, readout
        )
        return acts, lengths

    def _generated(self, memory: Memory, prompt: list[int]) -> list[list[int]]:
        """The model's own text of each row."""
        most = min(self.job.max_new_tokens, self.asr.config.n_text_ctx - len(prompt) - 1)
        return [list(ids) for ids in self.asr.generate(memory, prompt, max_new_tokens=most).ids]

    def _width(self, lengths: Sequence[int], bucket: int, most: int) -> int:
        """How many frames to keep of each row."""
        return _bucket(max(lengths), bucket, most) if self.job.frames else 0


def _bucket(length: int, bucket: int, most: int) -> int:
    """The next multiple of `bucket`, at most `most`."""
    return min(most, -(-length // bucket) * bucket)


def _encode(
    model: Whisper,
    samples: Float[Array, "B n"],
    speech: Int[Array, "B 1 2"],
    readout: Readout,
    *,
    memory: bool,
) -> tuple[Memory | None, dict[str, Array]]:
    """Features and encoder in one program; keys and values for the decoder only on demand."""
    mel = jax.vmap(lambda audio: log_mel(audio, model.config.n_mels))(samples)
    with full_precision(model):
        xa, acts = model.encoder(mel.astype(model.config.dtype), {}, readout)
        acts["mel"] = pools.means(jnp.swapaxes(mel, 1, 2), 2 * speech)[:, 0]
        return (model.decoder.memory(xa) if memory else None), acts


def _decode(
    model: Whisper,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    memory: Memory,
    readout: Readout,
) -> dict[str, Array]:
    with full_precision(model):
        x, _, tap, acts = model.decoder.residual(tokens, positions, memory, {}, readout)
        model.decoder.head(x, tap)  # XLA removes the logits unless a readout keeps them
        return acts | readout(tap.acts)
