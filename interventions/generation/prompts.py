"""Checks the prompts of sweeps, and chooses the options of their generation."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from jaxasr.audio import log_mel
from jaxasr.cache import EncodedAudio
from jaxasr.config import Config
from jaxasr.decoding import LogitFilter
from jaxasr.inputs import check_audio_tokens, check_positions
from jaxasr.language.recogniser import PromptedRecogniser
from jaxasr.recogniser import Recogniser
from jaxasr.rules import rules_for

AnyRecogniser = Recogniser | PromptedRecogniser
Samples = Float[np.ndarray, "n_samples"] | Float[Array, "n_samples"]  # one recording at 16 kHz
Ids = Int[Array, "B T0"] | Int[np.ndarray, "B T0"]  # token ids of B prompts, or their positions


def check_prompts(
    config: Config, prompt: Ids, positions: Ids | None, memory: EncodedAudio | None = None
) -> Int[np.ndarray, "B T0"] | None:
    """Returns the positions of prompts, after checking what a compiled program cannot check.

    Args:
        config: dimensions of the model.
        prompt: token ids.
        positions: their positions, or None.
        memory: encoded audio of the same rows. None: not checked.

    Raises:
        ValueError: a row has more or fewer audio tokens than its recording, or another number of
            positions than tokens.
    """
    tokens = np.asarray(prompt)
    checked = np.asarray(check_positions(config, tokens, positions))
    if memory is not None:
        check_audio_tokens(config, tokens, checked, memory)
    return None if positions is None else checked


def generation_options(
    asr: AnyRecogniser, prompt: Ids, max_new_tokens: int, rules: LogitFilter | None
) -> dict[str, Any]:
    """Returns options of `jaxasr.generate`. `rules` None stands for the usual ones of the model."""
    if isinstance(asr, PromptedRecogniser):  # which has no rules, and no token for silence
        end = None if asr.config.eos else asr.tokenizer.end
        return {"max_new_tokens": max_new_tokens, "rules": rules, "eot": end, "no_speech": None}
    special = asr.tokenizer.special
    return {
        "max_new_tokens": max_new_tokens,
        "rules": rules_for(asr.tokenizer) if rules is None else rules,
        "eot": special.eot,
        "no_speech": (np.asarray(prompt)[0].tolist().index(special.sot), special.no_speech),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Prompts:
    """Features and prompts of B recordings.

    Attributes:
        mel: log-mel features [B, M, F] of whole windows.
        tokens: int32 [B, T0], prompts, padded on the left.
        positions: int32 [B, T0], positions of the tokens. None: no prompt has padding.
        lengths: int32 [B], mel frames of each recording before its padding, for an audio language
            model; else None.
    """

    mel: Float[np.ndarray, "B M F"]
    tokens: Int[np.ndarray, "B T0"]
    positions: Int[np.ndarray, "B T0"] | None
    lengths: Int[np.ndarray, "B"] | None


def make_prompts(
    asr: AnyRecogniser, audios: Sequence[Samples], language: str | None, question: str | None
) -> Prompts:
    """Prepares recordings, and prompts that request their transcripts, or answers to a question.

    Args:
        asr: a Whisper or an audio language model.
        audios: 16 kHz samples. An audio language model reads their first window.
        language: language of the recordings.
        question: question to an audio language model. None: it transcribes.

    Raises:
        ValueError: a Whisper gets a question.
    """
    if isinstance(asr, PromptedRecogniser):
        cut = [np.asarray(samples)[: asr.config.n_samples] for samples in audios]
        inputs = asr.pad_prompts(asr.inputs(cut, question, language=language))
        return Prompts(inputs.mel, inputs.tokens, inputs.positions, inputs.lengths)
    if question is not None:
        raise ValueError(
            f"question: expected None, because a Whisper answers no questions, got {question!r}."
        )
    mels = [log_mel(samples, asr.config.n_mels, asr.config.n_mel_frames) for samples in audios]
    prompt = np.asarray(asr.tokenizer.prompt(language), np.int32)
    return Prompts(np.stack(mels), np.tile(prompt, (len(audios), 1)), None, None)
