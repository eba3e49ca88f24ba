"""Generates texts of encoded recordings under the rules of a checkpoint."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxasr.cache import Memory
from jaxasr.generate import Generation, generate
from jaxasr.rules import Rules, rules_for
from jaxasr.taps import Edits

if TYPE_CHECKING:
    from jaxasr.recogniser import Recogniser

Prompt = Sequence[int] | Int[np.ndarray, "T0"] | Int[np.ndarray, "B T0"]


@dataclasses.dataclass(frozen=True, eq=False)
class GeneratedText:
    """Generated texts of a batch of recordings.

    Attributes:
        ids: token ids of each row, without the end-of-text.
        text: text of each row, stripped.
        avg_logprob: float [B], mean natural-log probability per token, the end-of-text included.
        no_speech_prob: float [B], probability of <|nospeech|> after <|startoftranscript|>.
        ended: bool [B], whether the end-of-text was generated.
        generation: arrays of the whole batch, padded.
    """

    ids: tuple[tuple[int, ...], ...]
    text: tuple[str, ...]
    avg_logprob: Float[np.ndarray, "B"]
    no_speech_prob: Float[np.ndarray, "B"]
    ended: Bool[np.ndarray, "B"]
    generation: Generation


def generate_text(
    asr: "Recogniser",
    memory: Memory,
    prompt: Prompt | None = None,
    *,
    max_new_tokens: int = 224,
    edits: Edits | None = None,
    rules: Rules | None = None,
) -> GeneratedText:
    """Generates the text of each row of `memory`; see `Recogniser.generate`."""
    special, n_rows = asr.tokenizer.special, memory.xa.shape[0]
    start = np.asarray(asr.tokenizer.prompt() if prompt is None else prompt, np.int32)
    rows = np.broadcast_to(start, (n_rows, start.shape[-1]))
    first = rows[0].tolist()
    if rules is None:
        rules = rules_for(asr.tokenizer, timestamps=special.no_timestamps not in first)
    out = generate(
        asr.model,
        memory,
        rows,
        max_new_tokens=max_new_tokens,
        edits=edits,
        rules=rules,
        eot=special.eot,
        no_speech=(first.index(special.sot), special.no_speech),
    )
    lengths = np.asarray(out.lengths)
    ids = tuple(tuple(row[:n].tolist()) for row, n in zip(np.asarray(out.tokens), lengths))
    return GeneratedText(
        ids,
        tuple(asr.tokenizer.decode(row).strip() for row in ids),
        np.asarray(out.avg_logprob),
        np.asarray(out.no_speech_prob),
        lengths < max_new_tokens,
        out,
    )
