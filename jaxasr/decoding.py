"""Defines what greedy decoding, sampling and beam search share."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxasr import display, pytrees
from jaxasr.cache import EncodedAudio
from jaxasr.config import Config
from jaxasr.inputs import Tokens, check_audio_tokens, check_positions, check_taps, check_tokens
from jaxasr.model import SpeechModel
from jaxasr.stack import MAX_UNROLLED_LAYERS, unstack_once
from jaxasr.taps import Edits, is_traced
from jaxasr.token_ids import check_ids

LogitFilter = Callable[
    [Float[Array, "B V"], Int[Array, "B T"], Int[Array, ""], int], Float[Array, "B V"]
]
"""A function `(logits, tokens, n_tokens, n_prompt) -> logits`, such as `jaxasr.rules.Rules`.

`logits` are those of the next token. The first `n_tokens` columns of `tokens` are in use, and the
first `n_prompt` columns are the prompt.
"""


@pytrees.dataclass
class Generation:
    """Generated tokens of a batch. Under `vmap` the mapped axes come first.

    Attributes:
        tokens: int32 [B, T], T = max_new_tokens, padded with end-of-text.
        lengths: int32 [B], number of tokens before the end-of-text.
        logprobs: float32 [B, T], natural-log probability of each token and of the end-of-text,
            under the rules and at temperature 1; 0 at padding.
        no_speech_prob: float32 [B], probability that the audio has no speech; NaN without
            the argument `no_speech`.

    Example:
        ```python
        out = jaxasr.generate(asr.model, memory, prompt, max_new_tokens=100)
        text = asr.tokenizer.decode(out.tokens[0, : out.lengths[0]])
        ```
    """

    tokens: Int[Array, "*axes B T"]
    lengths: Int[Array, "*axes B"]
    logprobs: Float[Array, "*axes B T"]
    no_speech_prob: Float[Array, "*axes B"]

    @classmethod
    def from_tokens(
        cls,
        tokens: Int[Array, "B T"],
        logprobs: Float[Array, "B T"],
        no_speech_prob: Float[Array, "B"],
        eot: int,
    ) -> "Generation":
        """Builds a generation from padded tokens and their log-probabilities."""
        return cls(tokens, (jnp.cumsum(tokens == eot, -1) == 0).sum(-1), logprobs, no_speech_prob)

    def check_finite(self) -> "Generation":
        """Returns this generation if its logits were finite. Under a trace, checks nothing.

        Raises:
            ValueError: a token was chosen among logits that are not finite.
        """
        if not is_traced(self.logprobs) and np.isnan(np.asarray(self.logprobs)).any():
            raise ValueError(
                "logits: expected finite numbers, got NaN or infinity while generating. Check the "
                "edits, or load the model with dtype='float32' if it was float16. `model.decode` "
                "with the same edits returns the logits."
            )
        return self

    @property
    def avg_logprob(self) -> Float[Array, "*axes B"]:
        """Mean log-probability over the tokens and the end-of-text, as in openai/whisper."""
        return self.logprobs.sum(-1) / (self.lengths + 1)

    def __repr__(self) -> str:
        if not self._has_numbers():
            return f"Generation(tokens={self.tokens!r})"
        n_max = self.tokens.shape[-1]
        lengths = display.listed(np.ravel(self.lengths).tolist())
        logprobs = display.listed([f"{x:.2f}" for x in np.ravel(self.avg_logprob)])
        return f"Generation({lengths} of {n_max} tokens, mean log-probability {logprobs})"

    def _repr_html_(self) -> str:
        if not self._has_numbers():
            return display.code(repr(self))
        columns = (self.lengths, self.avg_logprob, self.no_speech_prob)
        rows = [
            (row, length, f"{logprob:.2f}", f"{no_speech:.3f}")
            for row, (length, logprob, no_speech) in enumerate(zip(*map(np.ravel, columns)))
        ]
        head = ("row", "tokens", "mean log-probability", "no-speech probability")
        return display.table(head, rows)

    def _has_numbers(self) -> bool:
        # JAX also builds generations that hold tracers, or placeholders instead of arrays.
        arrays = self.tokens, self.lengths, self.logprobs, self.no_speech_prob
        is_array = all(isinstance(array, jax.Array | np.ndarray) for array in arrays)
        return is_array and not is_traced(arrays)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Arguments that greedy decoding, sampling and beam search share; see `jaxasr.generate`."""

    max_new_tokens: int
    edits: Edits | None = None
    rules: LogitFilter | None = None
    positions: Any = None
    eot: int | None = None
    no_speech: tuple[int, int] | None = None
    unroll: bool | None = None


@pytrees.dataclass
class Request:
    """The checked inputs of a generation. New values of its arrays run the same program.

    Attributes:
        prompt: int32 [B, T0].
        positions: int32 [B, T0], absolute; negative at padding.
        memory: encoded audio.
        blocks: unstacked decoder layers. None: scan the stacked layers.
        edits: edits of decoder sites.
        rules: constraints on the logits.
        n_new: most tokens to generate.
        eot: id of the end-of-text.
        no_speech: `(column, id)`, to return the probability of token `id` after that column of the
            prompt.
        other_ends: further ids that end a text. A generation records them as `eot`.
    """

    prompt: Int[Array, "B T0"]
    positions: Int[Array, "B T0"]
    memory: EncodedAudio
    blocks: tuple[Any, ...] | None
    edits: Edits
    rules: LogitFilter | None
    n_new: int = pytrees.field(pytree_node=False)
    eot: int = pytrees.field(pytree_node=False)
    no_speech: tuple[int, int] | None = pytrees.field(pytree_node=False)
    other_ends: tuple[int, ...] = pytrees.field(pytree_node=False, default=())

    @classmethod
    def from_arguments(
        cls, model: SpeechModel, memory: EncodedAudio, prompt: Any, settings: Settings
    ) -> "Request":
        """Checks the arguments of a generation.

        Raises:
            ValueError: see `jaxasr.generate`.
        """
        config = model.config
        prompt = check_tokens(config, prompt, memory)
        batch, n_prompt = prompt.shape
        _check_max_new_tokens(settings.max_new_tokens, n_prompt, config.n_text_ctx)
        positions = _check_consecutive(check_positions(config, prompt, settings.positions))
        check_audio_tokens(config, prompt, positions, memory)
        eot, no_speech = _check_eot(settings.eot, config), settings.no_speech
        other_ends = tuple(id_ for id_ in config.eos if id_ != eot and settings.eot is None)
        if no_speech is not None:
            _check_no_speech(no_speech, n_prompt, config.n_vocab)
        n_new = settings.max_new_tokens
        edits, _ = check_taps(config, "decoder", settings.edits, None, batch, n_prompt + n_new)
        unroll = unrolls_layers(config) if settings.unroll is None else settings.unroll
        blocks = unstack_once(model.decoder, model.decoder.blocks) if unroll else None
        # The type checker needs `Array`. Compiled functions receive NumPy arrays as JAX arrays.
        prompt, positions = cast(Array, prompt), cast(Array, positions)
        rules = settings.rules
        return cls(
            prompt, positions, memory, blocks, edits, rules, n_new, eot, no_speech, other_ends
        )

    def unify_ends(self, tokens: Int[Array, "*shape"]) -> Int[Array, "*shape"]:
        """Returns tokens in which every id that ends a text is `eot`."""
        if not self.other_ends:
            return tokens
        return jnp.where(jnp.isin(tokens, jnp.array(self.other_ends)), self.eot, tokens)


def unrolls_layers(config: Config) -> bool:
    """Returns whether a generation loops over decoder layers instead of scanning them.

    The reason is at `jaxasr.stack.MAX_UNROLLED_LAYERS`.
    """
    return config.n_text_layer <= MAX_UNROLLED_LAYERS


def end_of_text(config: Config) -> int | None:
    """Returns the first id that ends a text; None in a vocabulary that is not a released one."""
    if config.eos:
        return config.eos[0]
    # The sizes are those of English-only, multilingual and large-v3 vocabularies.
    return {51_864: 50_256, 51_865: 50_257, 51_866: 50_257}.get(config.n_vocab)


def _check_max_new_tokens(n_new: int, n_prompt: int, context: int) -> None:
    if n_prompt >= context:
        raise ValueError(
            f"prompt: expected at most {context - 1} tokens, so that a new token fits into the "
            f"decoder's context of {context}, got {n_prompt}. Shorten the prompt."
        )
    if n_new < 1 or n_prompt + n_new > context:
        raise ValueError(
            f"max_new_tokens: expected 1 to {context - n_prompt} after a prompt of {n_prompt} "
            f"tokens (context {context}), got {n_new}."
        )


def _check_consecutive(positions: Tokens) -> Tokens:
    if not is_traced(positions) and np.any(np.diff(np.asarray(positions), axis=1) != 1):
        raise ValueError(
            "positions: expected rows that count up by 1. Pad on the left with negative positions."
        )
    return positions


def _check_eot(eot: int | None, config: Config) -> int:
    eot = end_of_text(config) if eot is None else eot
    if eot is None:
        raise ValueError(
            f"eot: a vocabulary of {config.n_vocab} is not a released one; pass the id of its "
            "end-of-text as eot=."
        )
    check_ids(eot, config.n_vocab, "eot")
    return eot


def _check_no_speech(no_speech: tuple[int, int], n_prompt: int, n_vocab: int) -> None:
    column, token = no_speech
    if not 0 <= column < n_prompt:
        raise ValueError(
            f"no_speech: expected a column from 0 to {n_prompt - 1} of the prompt, got {column}."
        )
    check_ids(token, n_vocab, "no_speech")
