"""Transcribes at most 30 s of a recording, and applies the logit lens and the encoder lens."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import interventions
import jaxasr
from experiments.analyses.lens_tables import encoder_rows, find_signs, logit_table, token_times
from experiments.pages.lens_page import LensPage
from experiments.progress import Progress
from experiments.runtime import describe_weights
from interventions.storage.provenance import provenance
from jaxasr import GeneratedText, Memory, Recogniser, Tokenizer
from jaxasr.alignment.words import align
from jaxasr.audio import n_frames
from jaxasr.config import HOP, N_SAMPLES, SAMPLE_RATE
from jaxasr.languages import language_code
from jaxasr.rules import Rules, rules_for
from jaxasr.transcribe import detect_language
from jaxasr.transcript import Word

MAX_NEW_TOKENS = 224  # Whisper's default: half of the decoder's context of 448 tokens
# Texts are padded to a multiple of this number of tokens, so that they share compiled programs.
BUCKET_TOKENS = 32

Samples = Float[np.ndarray, "n"]  # samples of a recording at 16 kHz


@dataclasses.dataclass(frozen=True)
class Transcription:
    """At most 30 s of a recording with its text.

    Attributes:
        audio: samples at 16 kHz.
        mel: log-mel features.
        language: code of the text's language.
        prompt: token ids before the text.
        rules: the tokens that could be generated after each token.
        max_new_tokens: most tokens that could be generated.
        generated: the generated text. It has one row.
        words: words of the text with their times.
        run: teacher-forced run over prompt and text.
        next_tokens: the token after each token of `run`, which the last layer should predict.
    """

    audio: Samples
    mel: Float[Array, "M F"]
    language: str
    prompt: list[int]
    rules: Rules
    max_new_tokens: int
    generated: GeneratedText
    words: tuple[Word, ...]
    run: interventions.Run
    next_tokens: Int[Array, "1 T"]

    @property
    def ids(self) -> list[int]:
        """Token ids of the text, without prompt and end."""
        return list(self.generated.ids[0])

    @property
    def text(self) -> str:
        """The generated text."""
        return self.generated.text[0]


def cut_window(audio: Samples, start: float = 0.0) -> Samples:
    """Cuts at most 30 s out of a recording.

    Args:
        audio: samples at 16 kHz.
        start: where the part begins, in seconds.

    Raises:
        ValueError: the recording ends before `start`.

    Example:
        >>> len(cut_window(np.zeros(32_000), start=1.5))
        8000
    """
    first = round(start * SAMPLE_RATE)
    if first >= len(audio):
        length = len(audio) / SAMPLE_RATE
        raise ValueError(
            f"--start: expected less than the recording's {length:.2f} s, got {start:g} s."
        )
    return audio[first : first + N_SAMPLES]


def read_window(path: Path, start: float = 0.0) -> tuple[Samples, str, float]:
    """Reads at most 30 s of a file, beginning at `start` seconds.

    Returns:
        The samples at 16 kHz.
        The name of the recording, followed by `start` if the samples are only a part of it.
        The length of the whole recording in seconds.

    Raises:
        ValueError: the recording ends before `start`, or the file is not a recording.

    Example:
        ```python
        samples, name, seconds = read_window(Path("speech.flac"), start=30)
        ```
    """
    whole = jaxasr.load_audio(path)
    samples = cut_window(whole, start)
    source = path.name if len(samples) == len(whole) else f"{path.name} from {start:g} s"
    return samples, source, len(whole) / SAMPLE_RATE


def lens_page(
    asr: Recogniser,
    audio: Samples,
    source: str,
    steps: Progress,
    *,
    model: str,
    language: str | None = None,
    top_k: int = 5,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> LensPage:
    """Transcribes a recording and applies both lenses to it.

    The text and both lenses follow the same rules. The last row of each lens is therefore the text.

    Args:
        asr: the recogniser.
        audio: at most 30 s of samples at 16 kHz.
        source: name of the recording.
        steps: measures and shows the time of each step.
        model: name of the model, to show on the page.
        language: code or English name. None: the model detects it.
        top_k: tokens kept per layer and position.
        max_new_tokens: most tokens of the text.

    Example:
        ```python
        page = lens_page(asr, audio, "speech.flac", Progress(), model="tiny.en")
        ```
    """
    transcription = transcribe_window(asr, audio, steps, language, max_new_tokens)
    return make_lens_page(asr, transcription, source, steps, model=model, top_k=top_k)


def transcribe_window(
    asr: Recogniser,
    audio: Samples,
    steps: Progress,
    language: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Transcription:
    """Generates the text of a recording greedily, without timestamps, and aligns its words.

    Args:
        asr: the recogniser.
        audio: samples at 16 kHz. Those beyond the model's window are not used.
        steps: measures and shows the time of each step.
        language: code or English name. None: the model detects it.
        max_new_tokens: most tokens of the text.

    Example:
        ```python
        transcription = transcribe_window(asr, audio, Progress())
        ```
    """
    audio = audio[: asr.config.n_samples]  # the window of some models is shorter than 30 s
    with steps("encode"):
        mel = jaxasr.log_mel(audio, asr.config.n_mels, asr.config.n_mel_frames)
        memory, _ = asr.model.encode(mel[None])
        language = language_code(language) if language else _detect_language(asr, memory)
    prompt, rules = asr.tokenizer.prompt(language), page_rules(asr.tokenizer)
    with steps("generate"):
        generated = asr.generate(memory, prompt, max_new_tokens=max_new_tokens, rules=rules)
    with steps("align"):
        [words] = align(
            asr.model,
            asr.tokenizer,
            memory,
            generated.ids,
            [n_frames(len(audio))],
            heads=asr.alignment_heads,
            language=language,
        )
    run, next_tokens = make_run(memory, prompt, generated.ids[0], asr)
    return Transcription(
        audio=audio,
        mel=mel,
        language=language,
        prompt=prompt,
        rules=rules,
        max_new_tokens=max_new_tokens,
        generated=generated,
        words=tuple(words),
        run=run,
        next_tokens=next_tokens,
    )


def make_lens_page(
    asr: Recogniser,
    transcription: Transcription,
    source: str,
    steps: Progress,
    *,
    model: str,
    top_k: int = 5,
) -> LensPage:
    """Applies both lenses to a transcribed recording. `lens_page` explains the arguments."""
    tokenizer, n_prompt = asr.tokenizer, len(transcription.prompt)
    with steps("logit lens"):
        lens = interventions.logit_lens(
            asr.model,
            transcription.run,
            top_k,
            final=transcription.next_tokens,
            rules=transcription.rules,
            prompt_len=n_prompt,
        )
        times = token_times(transcription.words)
        table = logit_table(tokenizer, lens, transcription.ids, n_prompt - 1, times)
    with steps("encoder lens"):
        encoder_lens = interventions.encoder_lens(
            asr,
            transcription.mel[None],
            prompt=transcription.prompt,
            rules=transcription.rules,
            max_new_tokens=transcription.max_new_tokens,
        )
    settings = {"prompt": transcription.prompt, "top_k": top_k, "language": transcription.language}
    return LensPage(
        model=model,
        source=source,
        text=transcription.text,
        language=transcription.language,
        audio=transcription.audio,
        # Without the frames of padding. -(-n // HOP) rounds n / HOP up.
        mel=np.asarray(transcription.mel)[:, : -(-len(transcription.audio) // HOP)],
        logit=table,
        encoder=encoder_rows(encoder_lens, transcription.text),
        words=transcription.words,
        signs=find_signs(transcription.generated, tokenizer, transcription.audio),
        provenance=provenance(model=describe_weights(asr), data=source, config=settings),
    )


def page_rules(tokenizer: Tokenizer) -> Rules:
    """Returns the rules of `transcribe`, except that a text may be empty.

    An encoder layer may contain no words. Under the rules of `transcribe`, the decoder would
    generate some.

    Example:
        ```python
        rules = page_rules(asr.tokenizer)
        ```
    """
    return rules_for(tokenizer, suppress_blank=False)


def _detect_language(asr: Recogniser, memory: Memory) -> str:
    if not asr.tokenizer.is_multilingual:
        return "en"
    return next(iter(detect_language(asr.model, asr.tokenizer, memory)[0]))


def make_run(
    memory: Memory, prompt: Sequence[int], ids: Sequence[int], asr: Recogniser
) -> tuple[interventions.Run, Int[Array, "1 T"]]:
    """Makes a teacher-forced run over prompt and text, padded to a multiple of 32 tokens.

    Args:
        memory: one encoded recording.
        prompt: ids before the text.
        ids: ids of the text.
        asr: the recogniser.

    Returns:
        The run.
        The token after each token of the run. After the last one comes the end of the text.

    Example:
        ```python
        run, next_tokens = make_run(memory, asr.tokenizer.prompt(), ids, asr)
        ```
    """
    n, end = len(prompt) + len(ids), asr.tokenizer.special.eot
    width = min(-(-n // BUCKET_TOKENS) * BUCKET_TOKENS, asr.config.n_text_ctx)
    tokens = jnp.asarray([[*prompt, *ids, *[end] * (width - n)]])
    positions = jnp.where(jnp.arange(width) < n, jnp.arange(width), -1)  # -1 marks padding
    run = interventions.Run(memory=memory, tokens=tokens, positions=positions[None])
    return run, jnp.roll(tokens, -1, axis=1).at[:, -1].set(end)
