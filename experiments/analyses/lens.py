"""A recording under both lenses: hears it, writes its text, and looks at every layer of decoder and encoder."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import interventions
import jaxasr
from experiments.analyses.text_kinds import category
from experiments.pages.lens_page import EncoderRow, LensPage, LogitTable, Signs
from experiments.progress import Progress
from experiments.runtime import weights
from interventions.generation.transcripts import is_loop, longest_loop, repeated
from interventions.storage.provenance import provenance
from jaxasr.alignment.words import align
from jaxasr.audio import n_frames
from jaxasr.cache import Memory
from jaxasr.config import HOP, N_SAMPLES, SAMPLE_RATE
from jaxasr.languages import language_code
from jaxasr.options import Options
from jaxasr.rules import Rules, rules_for
from jaxasr.text import compression_ratio
from jaxasr.tokenizer import Tokenizer
from jaxasr.transcribe import detect_language
from jaxasr.transcript import Word

MAX_NEW_TOKENS = 224
_BUCKET = 32  # tokens


def window(audio: Float[np.ndarray, "n"], start: float = 0.0) -> Float[np.ndarray, "m"]:
    """The at most 30 s from `start` (seconds) on. Raises ValueError when nothing is left there."""
    first = round(start * SAMPLE_RATE)
    if first >= len(audio):
        raise ValueError(
            f"--start: expected less than the recording's {len(audio) / SAMPLE_RATE:.2f} s, got {start:g} s."
        )
    return audio[first : first + N_SAMPLES]


def read_window(path: Path, start: float = 0.0) -> tuple[Float[np.ndarray, "m"], str, float]:
    """Reads at most 30 s of a recording, from `start` (seconds) on.

    Returns:
        The samples at 16 kHz, a name that says where they start, and the length of the whole recording in seconds.
    """
    whole = jaxasr.load_audio(path)
    samples = window(whole, start)
    source = path.name if len(samples) == len(whole) else f"{path.name} from {start:g} s"
    return samples, source, len(whole) / SAMPLE_RATE


def lens_page(
    asr: Any,
    audio: Float[np.ndarray, "n"],
    source: str,
    steps: Progress,
    *,
    model: str,
    language: str | None = None,
    top_k: int = 5,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> LensPage:
    """Text and both lenses of `audio` (16 kHz mono, at most 30 s), each step timed in `steps`.

    The text is generated greedily, without timestamps. `page_rules` hold for it, for every decoder layer and for every encoder layer,
    so the last row of either lens is the text.
    """
    return page_of(
        asr,
        transcribed(asr, audio, steps, language, max_new_tokens),
        source,
        steps,
        model=model,
        top_k=top_k,
    )


@dataclasses.dataclass(frozen=True)
class Generated:
    """Ids of one text, its mean log-probability a token, and the probability of <|nospeech|>; `ended`: the end was generated."""

    ids: list[int]
    avg_logprob: float
    no_speech_prob: float
    ended: bool


@dataclasses.dataclass(frozen=True)
class Transcribed:
    """A recording of at most 30 s with its text, as a lens page shows it. `run` holds prompt and text, `final` the token after each."""

    audio: Float[np.ndarray, "n"]
    mel: Float[Array, "M F"]
    language: str  # code
    prompt: list[int]
    rules: Rules
    max_new_tokens: int
    generated: Generated
    text: str
    words: tuple[Word, ...]
    run: interventions.Run
    final: Int[Array, "1 T"]


def transcribed(
    asr: Any,
    audio: Float[np.ndarray, "n"],
    steps: Progress,
    language: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Transcribed:
    """Encodes `audio` (16 kHz mono), generates its text under `page_rules`, and finds the times of its words."""
    audio = audio[: asr.config.n_samples]  # some models take shorter windows
    with steps("encode"):
        mel = jaxasr.log_mel(audio, asr.config.n_mels, asr.config.n_mel_frames)
        memory, _ = asr.model.encode(mel[None])
        language = language_code(language) if language else _heard(asr, memory)
    prompt, rules = asr.tokenizer.prompt(language), page_rules(asr.tokenizer)
    with steps("generate"):
        generated = generate(asr, memory, prompt, rules, max_new_tokens)
        text = asr.tokenizer.decode(generated.ids).strip()
    with steps("align"):
        frames = [n_frames(len(audio))]
        heads = asr.alignment_heads
        [words] = align(
            asr.model,
            asr.tokenizer,
            memory,
            [generated.ids],
            frames,
            heads=heads,
            language=language,
        )
    run, final = reading(memory, prompt, generated.ids, asr)
    return Transcribed(
        audio,
        mel,
        language,
        prompt,
        rules,
        max_new_tokens,
        generated,
        text,
        tuple(words),
        run,
        final,
    )


def page_of(
    asr: Any, known: Transcribed, source: str, steps: Progress, *, model: str, top_k: int = 5
) -> LensPage:
    """Both lenses of a recording, each step timed in `steps`."""
    shared = {"prompt": known.prompt, "rules": known.rules, "max_new_tokens": known.max_new_tokens}
    n_prompt, ids = len(known.prompt), known.generated.ids
    with steps("logit lens"):
        found = interventions.logit_lens(
            asr.model, known.run, top_k, final=known.final, rules=known.rules, prompt_len=n_prompt
        )
        table = logit_table(asr.tokenizer, found, ids, n_prompt - 1, token_times(known.words))
    with steps("encoder lens"):
        rows = encoder_rows(interventions.encoder_lens(asr, known.mel[None], **shared), known.text)
    made = provenance(
        model=weights(asr),
        data=source,
        config={"prompt": known.prompt, "top_k": top_k, "language": known.language},
    )
    return LensPage(
        model,
        source,
        known.text,
        known.language,
        known.audio,
        mel=np.asarray(known.mel)[:, : -(-len(known.audio) // HOP)],
        logit=table,
        encoder=rows,
        words=known.words,
        signs=signs_of(known, asr.tokenizer),
        provenance=made,
    )


def page_rules(tokenizer: Tokenizer) -> Rules:
    """The rules of `transcribe`, but an empty text is allowed: an encoder layer that holds no words can show so."""
    return rules_for(tokenizer, suppress_blank=False)


def generate(
    asr: Any, memory: Memory, prompt: list[int], rules: Rules, max_new_tokens: int = MAX_NEW_TOKENS
) -> Generated:
    """Generates the text of one recording, greedily, up to its end or `max_new_tokens`."""
    special = asr.tokenizer.special
    options = {
        "rules": rules,
        "eot": special.eot,
        "no_speech": (prompt.index(special.sot), special.no_speech),
    }
    out = jaxasr.generate(
        asr.model, memory, jnp.asarray([prompt]), max_new_tokens=max_new_tokens, **options
    )
    n = int(out.lengths[0])
    quiet = float(out.no_speech_prob[0])
    return Generated(
        np.asarray(out.tokens)[0, :n].tolist(), float(out.avg_logprob[0]), quiet, n < max_new_tokens
    )


def signs_of(known: Transcribed, tokenizer: Tokenizer) -> Signs:
    """What shows that a text may be no transcript of speech: see `Signs`."""
    generated, usual = known.generated, Options()
    loop = longest_loop(generated.ids)
    unit = tokenizer.decode(repeated(generated.ids, loop)).strip() if loop.k else ""
    silent = (
        generated.no_speech_prob > usual.no_speech_threshold
        and generated.avg_logprob <= usual.logprob_threshold
    )
    numbers = {"no_speech_prob": generated.no_speech_prob, "avg_logprob": generated.avg_logprob}
    numbers |= {
        "compression_ratio": compression_ratio(known.text),
        "peak": float(np.abs(known.audio).max()),
    }
    return Signs(unit, loop.k, **numbers, silent=silent, ended=generated.ended)


def _heard(asr: Any, memory: Memory) -> str:
    return (
        next(iter(detect_language(asr.model, asr.tokenizer, memory)[0]))
        if asr.tokenizer.is_multilingual
        else "en"
    )


def write(asr: Any, memory: Memory, prompt: list[int]) -> list[int]:
    """The ids that the model writes about one recording: greedily, without timestamps, up to the end."""
    special = asr.tokenizer.special
    rules = rules_for(asr.tokenizer)
    out = jaxasr.generate(
        asr.model,
        memory,
        jnp.asarray([prompt]),
        max_new_tokens=MAX_NEW_TOKENS,
        rules=rules,
        eot=special.eot,
    )
    return np.asarray(out.tokens)[0, : int(out.lengths[0])].tolist()


def reading(
    memory: Memory, prompt: list[int], ids: list[int], asr: Any
) -> tuple[interventions.Run, Int[Array, "1 T"]]:
    """Prompt and text read again, and what comes next at every position; padded, so that texts of similar length share a program."""
    n, end = len(prompt) + len(ids), asr.tokenizer.special.eot
    width = min(-(-n // _BUCKET) * _BUCKET, asr.config.n_text_ctx)
    tokens = jnp.asarray([[*prompt, *ids, *[end] * (width - n)]])
    positions = jnp.where(jnp.arange(width) < n, jnp.arange(width), -1)
    run = interventions.Run(memory=memory, tokens=tokens, positions=positions[None])
    return run, jnp.roll(tokens, -1, axis=1).at[:, -1].set(end)


def token_times(words: Sequence[Word]) -> Float[np.ndarray, "T 2"]:
    """Start and end in seconds of the word that each token belongs to."""
    times = [(word.start, word.end) for word in words for _ in word.tokens]
    return np.asarray(times, float).reshape(-1, 2)


def logit_table(
    tokenizer: Tokenizer, lens: Any, ids: Sequence[int], first: int, times: Float[np.ndarray, "T 2"]
) -> LogitTable:
    """The lens of one recording from position `first` on, where the first of `ids` is predicted."""
    here = slice(first, first + len(ids))
    top = np.asarray(lens.ids)[:, 0, here]
    return LogitTable(
        tokens=tuple(tokenizer.token_texts(ids)),
        times=times,
        candidates=_texts(tokenizer, top),
        logprobs=np.asarray(lens.logprobs)[:, 0, here],
        rank=np.asarray(lens.rank)[:, 0, here],
        logprob=np.asarray(lens.logprob)[:, 0, here],
        saturation=np.asarray(lens.saturation)[0, here],
    )


def _texts(
    tokenizer: Tokenizer, ids: Int[np.ndarray, "L T K"]
) -> tuple[tuple[tuple[str, ...], ...], ...]:
    return tuple(
        tuple(tuple(tokenizer.token_texts(candidates)) for candidates in layer) for layer in ids
    )


def encoder_rows(lens: Any, final: str) -> tuple[EncoderRow, ...]:
    """One row a layer of the first recording, compared with the `final` text."""
    rows = []
    for tokens, logprobs, lengths, texts in zip(
        lens.tokens, lens.logprobs, lens.lengths, lens.text
    ):
        n = int(lengths[0])
        mean = float(np.asarray(logprobs)[0].sum() / (n + 1))  # over the tokens and the end
        text, ids = texts[0].strip(), np.asarray(tokens)[0, :n].tolist()
        kind = (
            "loop" if is_loop(ids) else category(text, final, ids)
        )  # the final text may be a loop itself: that is not correct
        rows.append(EncoderRow(text, mean, kind))
    return tuple(rows)
