"""Prepares the recordings of a patching experiment: sources, features, texts and word times."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jaxasr
from experiments.analyses.patch_question import PatchQuestion
from interventions import corruptions
from jaxasr import Memory, Recogniser
from jaxasr.alignment.words import align
from jaxasr.audio import n_frames

Samples = Float[np.ndarray, "n"]  # samples of a recording at 16 kHz
ACTIVATION_SOURCES = ("zero", "mean")  # sources that are not recordings


def make_sources(audio: Sequence[Samples], question: PatchQuestion) -> list[Samples] | None:
    """Makes for each target the recording that its patches are taken from.

    Args:
        audio: samples of the targets at 16 kHz.
        question: the experiment. Only its `source` and `seed` are used.

    Returns:
        One recording per target, or None if the source is not a recording.

    Raises:
        ValueError: the source does not fit a target, such as a mask after the target's end.

    Example:
        ```python
        question = PatchQuestion("encoder.resid_post", ("layer",), "snr:0", "logprob")
        [noisy] = make_sources([audio], question)
        ```
    """
    if question.source in ACTIVATION_SOURCES or question.resamples:
        return None
    corrupt = corruptions.parse_source(question.source, question.seed).make_recording
    return None if corrupt is None else [corrupt(sound) for sound in audio]


def stack_mels(asr: Recogniser, audio: Sequence[Samples]) -> Float[Array, "B M F"]:
    """Computes the log-mel features of each recording for one window of the model."""
    config = asr.config
    return jnp.stack(
        [
            jaxasr.log_mel(sound[: config.n_samples], config.n_mels, config.n_mel_frames)
            for sound in audio
        ]
    )


def count_longest_frames(asr: Recogniser, audio: Sequence[Samples]) -> int:
    """Returns the number of encoder frames of the longest recording, without padding."""
    return min(max(n_frames(len(sound)) for sound in audio), asr.config.n_audio_ctx)


def generate_ids(asr: Recogniser, memory: Memory, question: PatchQuestion) -> list[list[int]]:
    """Generates the token ids of each recording, greedily and without timestamps."""
    prompt = asr.tokenizer.prompt(question.language)
    generated = asr.generate(memory, prompt, max_new_tokens=question.new_tokens)
    return [list(ids) for ids in generated.ids]


def word_times(
    asr: Recogniser, sound: Samples, question: PatchQuestion
) -> tuple[tuple[str, float, float], ...]:
    """Aligns the words of one recording, if "time" is a dimension of the grid.

    Returns:
        For each word its text, its start and its end in seconds. () if "time" is not a dimension.
    """
    if "time" not in question.dims:
        return ()
    memory = asr.model.encode(stack_mels(asr, [sound]))[0]
    [words] = align(
        asr.model,
        asr.tokenizer,
        memory,
        generate_ids(asr, memory, question),
        [n_frames(len(sound))],
        heads=asr.alignment_heads,
        language=question.language,
    )
    return tuple((word.text, word.start, word.end) for word in words)
