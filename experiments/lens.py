"""A recording under both lenses: hears it, writes its text, and looks at every layer of decoder and encoder."""
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import interventions
import jaxasr
from experiments.categories import category
from experiments.page import EncoderRow, LensPage, LogitTable, Signs
from experiments.progress import Steps
from experiments.provenance import provenance
from experiments.runtime import weights
from interventions.transcripts import is_loop, longest_loop, repeated
from jaxasr.align import align
from jaxasr.audio import n_frames
from jaxasr.cache import Memory
from jaxasr.config import HOP, N_SAMPLES, SAMPLE_RATE
from jaxasr.options import Options
from jaxasr.rules import Rules, rules_for
from jaxasr.text import compression_ratio
from jaxasr.tokenizer import Tokenizer
from jaxasr.transcribe import detect_language

MAX_NEW_TOKENS = 224
_BUCKET = 32  # tokens


def window(audio: Float[np.ndarray, "n"], start: float = 0.0) -> Float[np.ndarray, "m"]:
    """The at most 30 s from `start` (seconds) on. Raises ValueError when nothing is left there."""
    first = round(start * SAMPLE_RATE)
    if first >= len(audio):
        raise ValueError(f"--start: expected less than the recording's {len(audio) / SAMPLE_RATE:.2f} s, got {start:g} s.")
    return audio[first : first + N_SAMPLES]


def lens_page(
    asr: Any,
    audio: Float[np.ndarray, "n"],
    source: str,
    steps: Steps,
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
    with steps("encode"):
        mel = jaxasr.log_mel(audio, asr.config.n_mels)
        memory, _ = asr.model.encode(mel[None])
        language = language or _heard(asr, memory)
    prompt, rules = asr.tokenizer.prompt(language), page_rules(asr.tokenizer)
    with steps("generate"):
        generated = generate(asr, memory, prompt, rules, max_new_tokens)
        ids, text = generated.ids, asr.tokenizer.decode(generated.ids).strip()
    with steps("align"):
        times = token_times(asr, memory, ids, n_frames(len(audio)), language)
    with steps("logit lens"):
        run, final = reading(memory, prompt, ids, asr)
        found = interventions.logit_lens(asr.model, run, top_k, final=final, rules=rules, prompt_len=len(prompt))
        table = logit_table(asr.tokenizer, found, ids, len(prompt) - 1, times)
    with steps("encoder lens"):
        lens = interventions.encoder_lens(asr, mel[None], prompt=prompt, rules=rules, max_new_tokens=max_new_tokens)
        rows = encoder_rows(lens, text)
    known = provenance(model=weights(asr), data=source, config={"prompt": prompt, "top_k": top_k, "language": language})
    shown, signs = np.asarray(mel)[:, : -(-len(audio) // HOP)], signs_of(generated, text, asr.tokenizer)
    return LensPage(model, source, text, language, audio, shown, table, rows, signs, known)


def page_rules(tokenizer: Tokenizer) -> Rules:
    """The rules of `transcribe`, but an empty text is allowed: an encoder layer that holds no words can show so."""
    return rules_for(tokenizer, suppress_blank=False)


@dataclasses.dataclass(frozen=True)
class Generated:
    """Ids of one text, its mean log-probability a token, and the probability of <|nospeech|>; `ended`: the end was generated."""

    ids: list[int]
    avg_logprob: float
    no_speech_prob: float
    ended: bool


def generate(
    asr: Any, memory: Memory, prompt: list[int], rules: Rules, max_new_tokens: int = MAX_NEW_TOKENS
) -> Generated:
    """Generates the text of one recording, greedily, up to its end or `max_new_tokens`."""
    special = asr.tokenizer.special
    options = {"rules": rules, "eot": special.eot, "no_speech": (prompt.index(special.sot), special.no_speech)}
    out = jaxasr.generate(asr.model, memory, jnp.asarray([prompt]), max_new_tokens=max_new_tokens, **options)
    n = int(out.lengths[0])
    quiet = float(out.no_speech_prob[0])
    return Generated(np.asarray(out.tokens)[0, :n].tolist(), float(out.avg_logprob[0]), quiet, n < max_new_tokens)


def signs_of(generated: Generated, text: str, tokenizer: Tokenizer) -> Signs:
    """What shows that a text may be no transcript of speech: see `Signs`."""
    loop, known = longest_loop(generated.ids), Options()
    unit = tokenizer.decode(repeated(generated.ids, loop)).strip() if loop.k else ""
    silent = generated.no_speech_prob > known.no_speech_threshold and generated.avg_logprob <= known.logprob_threshold
    numbers = {"no_speech_prob": generated.no_speech_prob, "avg_logprob": generated.avg_logprob}
    return Signs(unit, loop.k, compression_ratio(text), **numbers, silent=silent, ended=generated.ended)


def _heard(asr: Any, memory: Memory) -> str:
    return next(iter(detect_language(asr.model, asr.tokenizer, memory)[0])) if asr.tokenizer.is_multilingual else "en"


def write(asr: Any, memory: Memory, prompt: list[int]) -> list[int]:
    """The ids that the model writes about one recording: greedily, without timestamps, up to the end."""
    special = asr.tokenizer.special
    rules = rules_for(asr.tokenizer)
    out = jaxasr.generate(asr.model, memory, jnp.asarray([prompt]), max_new_tokens=MAX_NEW_TOKENS, rules=rules, eot=special.eot)
    return np.asarray(out.tokens)[0, : int(out.lengths[0])].tolist()


def reading(memory: Memory, prompt: list[int], ids: list[int], asr: Any) -> tuple[interventions.Run, Int[Array, "1 T"]]:
    """Prompt and text read again, and what comes next at every position; padded, so that texts of similar length share a program."""
    n, end = len(prompt) + len(ids), asr.tokenizer.special.eot
    width = min(-(-n // _BUCKET) * _BUCKET, asr.config.n_text_ctx)
    tokens = jnp.asarray([[*prompt, *ids, *[end] * (width - n)]])
    positions = jnp.where(jnp.arange(width) < n, jnp.arange(width), -1)
    run = interventions.Run(memory=memory, tokens=tokens, positions=positions[None])
    return run, jnp.roll(tokens, -1, axis=1).at[:, -1].set(end)


def token_times(asr: Any, memory: Memory, ids: Sequence[int], frames: int, language: str) -> Float[np.ndarray, "T 2"]:
    """Start and end in seconds of the word that each token belongs to."""
    [words] = align(asr.model, asr.tokenizer, memory, [ids], [frames], heads=asr.alignment_heads, language=language)
    times = [(word.start, word.end) for word in words for _ in word.tokens]
    return np.asarray(times, float).reshape(-1, 2)


def logit_table(tokenizer: Tokenizer, lens: Any, ids: Sequence[int], first: int, times: Float[np.ndarray, "T 2"]) -> LogitTable:
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


def _texts(tokenizer: Tokenizer, ids: Int[np.ndarray, "L T K"]) -> tuple[tuple[tuple[str, ...], ...], ...]:
    return tuple(tuple(tuple(tokenizer.token_texts(candidates)) for candidates in layer) for layer in ids)


def encoder_rows(lens: Any, final: str) -> tuple[EncoderRow, ...]:
    """One row a layer of the first recording, compared with the `final` text."""
    rows = []
    for tokens, logprobs, lengths, texts in zip(lens.tokens, lens.logprobs, lens.lengths, lens.text):
        n = int(lengths[0])
        mean = float(np.asarray(logprobs)[0].sum() / (n + 1))  # over the tokens and the end
        text, ids = texts[0].strip(), np.asarray(tokens)[0, :n].tolist()
        kind = "loop" if is_loop(ids) else category(text, final, ids)  # the final text may be a loop itself: that is not correct
        rows.append(EncoderRow(text, mean, kind))
    return tuple(rows)
