"""Generates texts from encoded recordings, by default under the rules of openai/whisper."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from jaxasr import display
from jaxasr.cache import Memory
from jaxasr.decoding import LogitFilter
from jaxasr.generate import Generation, generate
from jaxasr.rules import rules_for
from jaxasr.taps import Edits

if TYPE_CHECKING:
    from jaxasr.recogniser import Recogniser

# Token ids before the text, the same for all rows or different for each row.
Prompt = Sequence[int] | Int[np.ndarray, "T0"] | Int[np.ndarray, "B T0"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class GeneratedText:
    """Generated texts of a batch of B recordings.

    Attributes:
        ids: token ids of each row, without the end-of-text.
        text: text of each row, stripped.
        avg_logprob: float [B], mean natural-log probability per token, the end-of-text included.
        no_speech_prob: float [B], probability of <|nospeech|> after <|startoftranscript|>.
        ended: bool [B], whether the end-of-text was generated.
        generation: the same results as arrays of the batch, padded.

    Example:
        ```python
        out = asr.generate(memory)
        out.text[0], out.avg_logprob[0]
        ```
    """

    ids: tuple[tuple[int, ...], ...]
    text: tuple[str, ...]
    avg_logprob: Float[np.ndarray, "B"]
    no_speech_prob: Float[np.ndarray, "B"]
    ended: Bool[np.ndarray, "B"]
    generation: Generation

    def __repr__(self) -> str:
        texts = display.listed([repr(display.shortened(text)) for text in self.text])
        n_tokens = display.listed([len(ids) for ids in self.ids])
        logprobs = display.listed([f"{x:.2f}" for x in self.avg_logprob])
        return f"GeneratedText({texts}; tokens {n_tokens}; mean log-probability {logprobs})"

    def _repr_html_(self) -> str:
        columns = self.text, self.ids, self.avg_logprob, self.no_speech_prob
        rows = [
            (row, text, len(ids), f"{logprob:.2f}", f"{no_speech:.3f}")
            for row, (text, ids, logprob, no_speech) in enumerate(zip(*columns))
        ]
        head = ("row", "text", "tokens", "mean log-probability", "no-speech probability")
        return display.table(head, rows)


def generate_text(
    asr: "Recogniser",
    memory: Memory,
    prompt: Prompt | None = None,
    *,
    max_new_tokens: int = 224,
    edits: Edits | None = None,
    rules: LogitFilter | None = None,
    mesh: Mesh | None = None,
) -> GeneratedText:
    """Generates the text of each row of `memory`; see `Recogniser.generate`."""
    special, n_rows = asr.tokenizer.special, memory.xa.shape[0]
    prompt_ids = np.asarray(asr.tokenizer.prompt() if prompt is None else prompt, np.int32)
    prompts = np.broadcast_to(prompt_ids, (n_rows, prompt_ids.shape[-1]))
    first_prompt = prompts[0].tolist()
    if rules is None:
        rules = rules_for(asr.tokenizer, timestamps=special.no_timestamps not in first_prompt)
    generation = generate(
        asr.model,
        memory,
        prompts,
        max_new_tokens=max_new_tokens,
        edits=edits,
        rules=rules,
        eot=special.eot,
        # Column of <|startoftranscript|>, after which <|nospeech|> is predicted.
        no_speech=(first_prompt.index(special.sot), special.no_speech),
        mesh=mesh,
    )
    return decode_generation(generation, asr.tokenizer.decode)


def decode_generation(
    generation: Generation, decode: Callable[[Iterable[int]], str]
) -> GeneratedText:
    """Returns the texts of a generation.

    Args:
        generation: generated tokens.
        decode: converts ids to a text, such as `asr.tokenizer.decode`.

    Example:
        ```python
        from jaxasr.generated_text import decode_generation

        prompt = np.array([asr.tokenizer.prompt()])
        out = jaxasr.generate(asr.model, memory, prompt, max_new_tokens=20)
        text = decode_generation(out, asr.tokenizer.decode).text[0]
        ```
    """
    lengths, tokens = np.asarray(generation.lengths), np.asarray(generation.tokens)
    ids = tuple(tuple(row[:n].tolist()) for row, n in zip(tokens, lengths))
    return GeneratedText(
        ids=ids,
        text=tuple(decode(row).strip() for row in ids),
        avg_logprob=np.asarray(generation.avg_logprob),
        no_speech_prob=np.asarray(generation.no_speech_prob),
        ended=lengths < tokens.shape[1],
        generation=generation,
    )
