"""Generates the text of a recording, and makes a teacher-forced run over prompt and text."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import interventions
import jaxasr
from experiments.analyses.lens import BUCKET_TOKENS, MAX_NEW_TOKENS, make_run
from jaxasr import Config, Recogniser
from jaxasr.language.recogniser import PromptedRecogniser


@dataclasses.dataclass(frozen=True)
class GeneratedRun:
    """A run over a prompt and the text that the model generates after it.

    Attributes:
        run: the run of one recording.
        next_tokens: int [1, T], the token after each token of the run.
        ids: token ids of the text.
        n_prompt: number of tokens before the text.
    """

    run: interventions.Run
    next_tokens: Int[Array, "1 T"] | Int[np.ndarray, "1 T"]
    ids: tuple[int, ...]
    n_prompt: int


def generate_run(
    asr: Recogniser | PromptedRecogniser, audio: Float[np.ndarray, "n"], language: str
) -> GeneratedRun:
    """Transcribes a recording, and makes a run over prompt and text.

    Args:
        asr: a Whisper or an audio language model.
        audio: 16 kHz samples of at most one window. An audio language model with a shorter window
            reads only its first part.
        language: code of the spoken language.

    Example:
        ```python
        generated = generate_run(asr, audio, "en")
        lens = iv.logit_lens(asr.model, generated.run, final=generated.next_tokens)
        ```
    """
    if isinstance(asr, PromptedRecogniser):
        return _generate_after_audio(asr, audio, language)
    memory, _ = asr.model.encode(jaxasr.log_mel(audio, asr.config.n_mels)[None])
    prompt = asr.tokenizer.prompt(language)
    [ids] = asr.generate(memory, prompt).ids
    run, next_tokens = make_run(memory, prompt, list(ids), asr)
    return GeneratedRun(run, next_tokens, tuple(ids), len(prompt))


def _generate_after_audio(
    asr: PromptedRecogniser, audio: Float[np.ndarray, "n"], language: str
) -> GeneratedRun:
    inputs = asr.inputs([audio[: asr.config.n_samples]], language=language)
    n_prompt = inputs.tokens.shape[1]
    room = asr.config.n_text_ctx - n_prompt
    [ids] = asr.generate(inputs, max_new_tokens=min(MAX_NEW_TOKENS, room)).ids
    # A random model may generate audio tokens, which a run would replace by audio.
    ids = list(itertools.takewhile(lambda token: token != asr.config.audio_token, ids))
    end = asr.config.eos[0] if asr.config.eos else asr.tokenizer.end
    tokens, positions = pad_right(asr.config, [*inputs.tokens[0], *ids], end)
    run = interventions.Run(
        tokens, jnp.asarray(inputs.mel), positions=positions, lengths=jnp.asarray(inputs.lengths)
    )
    next_tokens = np.roll(np.asarray(run.tokens), -1, axis=1)
    next_tokens[:, -1] = end
    return GeneratedRun(run, next_tokens, tuple(ids), n_prompt)


def pad_right(config: Config, row: list[int], end: int) -> tuple[Int[Array, "1 T"], ...]:
    """Pads a row of tokens on the right, so that few programs are compiled.

    Args:
        config: dimensions of the model.
        row: prompt and text.
        end: the token of padding.

    Returns:
        Tokens and positions. Padding has the position -1.
    """
    n = len(row)
    width = min(-(-n // BUCKET_TOKENS) * BUCKET_TOKENS, config.n_text_ctx)
    tokens = np.full((1, width), end, np.int32)
    tokens[0, :n] = row
    positions = np.where(np.arange(width) < n, np.arange(width), -1)[None].astype(np.int32)
    return jnp.asarray(tokens), jnp.asarray(positions)
