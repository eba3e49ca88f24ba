"""What every way of generating shares: the request, its checks, the decoder step by step, the result."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxasr import pytrees, sites
from jaxasr.cache import Cache, Memory, Past
from jaxasr.config import Config
from jaxasr.model import Whisper
from jaxasr.stack import MAX_UNROLLED_LAYERS, unstack, unstack_once
from jaxasr.taps import NOTHING, Edits, Tap, check_taps, is_traced
from jaxasr.token_ids import check_ids

Rules = Callable[[Float[Array, "B V"], Int[Array, "B T"], Int[Array, ""], int], Float[Array, "B V"]]
Taps = tuple[Edits, Rules | None]


@pytrees.dataclass
class Generation:
    """What was generated after the prompt; under `vmap` with its axes in front.

    tokens: int32 [B, T] with T = max_new_tokens, filled up with end-of-text.
    lengths: int32 [B], tokens before the end-of-text.
    logprobs: float32 [B, T], natural-log probability of each token under the rules (temperature 1), the end-of-text included; 0 after it.
    no_speech_prob: float32 [B], NaN when not asked for.
    """

    tokens: Int[Array, "*axes B T"]
    lengths: Int[Array, "*axes B"]
    logprobs: Float[Array, "*axes B T"]
    no_speech_prob: Float[Array, "*axes B"]

    @classmethod
    def of(
        cls,
        tokens: Int[Array, "B T"],
        logprobs: Float[Array, "B T"],
        no_speech_prob: Float[Array, "B"],
        eot: int,
    ) -> "Generation":
        return cls(tokens, (jnp.cumsum(tokens == eot, -1) == 0).sum(-1), logprobs, no_speech_prob)

    def check_finite(self) -> "Generation":
        """Returns this generation. Raises `ValueError` if a token was chosen among logits that are not finite.

        Under a trace nothing is known yet, and nothing is checked.
        """
        if not is_traced(self.logprobs) and np.isnan(np.asarray(self.logprobs)).any():
            raise ValueError(
                "logits: expected finite numbers, got NaN or infinity while generating. Check the edits, or load the model "
                "with dtype='float32' if it was float16. `model.decode` under the same edits returns the logits themselves."
            )
        return self

    @property
    def avg_logprob(self) -> Float[Array, "*axes B"]:
        """Mean over tokens and the end-of-text, as openai/whisper has it."""
        return self.logprobs.sum(-1) / (self.lengths + 1)


@pytrees.dataclass
class Request:
    """What to go on from. Its numbers never retrace. `blocks` are the decoder's, apart; None where the layers are scanned."""

    prompt: Int[Array, "B T0"]
    positions: Int[Array, "B T0"]
    memory: Memory
    blocks: tuple[Any, ...] | None


def prepare(
    model: Whisper,
    memory: Memory,
    prompt: Any,
    positions: Any,
    *,
    max_new_tokens: int,
    edits: Edits | None,
    rules: Rules | None,
    eot: int | None,
    no_speech: tuple[int, int] | None,
    unroll: bool | None,
) -> tuple[Request, Taps, dict[str, Any]]:
    """The checked arguments of a generation: its arrays, its edits and rules, and what is static."""
    prompt, positions = _check(model, memory, prompt, positions, max_new_tokens)
    eot = end_of_text(model.config) if eot is None else eot
    if eot is None:
        raise ValueError(
            f"eot: a vocabulary of {model.config.n_vocab} is not a released one; pass the id of its end-of-text as eot=."
        )
    check_ids(eot, model.config.n_vocab, "eot")
    if no_speech is not None:
        _check_no_speech(no_speech, prompt.shape[1], model.config.n_vocab)
    specs = functools.partial(
        sites.spec, model.config, batch=prompt.shape[0], n_tokens=prompt.shape[1] + max_new_tokens
    )
    taps = check("decoder", edits, None, lambda site: specs(site=site))[0], rules
    unroll = unrolls(model.config) if unroll is None else unroll
    blocks = unstack_once(model.decoder, model.decoder.blocks) if unroll else None
    return (
        Request(prompt, positions, memory, blocks),
        taps,
        {"n_new": max_new_tokens, "eot": eot, "no_speech": no_speech, "unroll": unroll},
    )


def unrolls(config: Config) -> bool:
    """Whether a generation loops over the layers instead of scanning them (decision 7)."""
    return config.n_text_layer <= MAX_UNROLLED_LAYERS


def end_of_text(config: Config) -> int | None:
    """The id of <|endoftext|> in the released vocabularies; None for any other."""
    return {51_864: 50_256, 51_865: 50_257, 51_866: 50_257}.get(config.n_vocab)


def _check_no_speech(no_speech: tuple[int, int], n_prompt: int, n_vocab: int) -> None:
    column, token = no_speech
    if not 0 <= column < n_prompt:
        raise ValueError(
            f"no_speech: expected a column from 0 to {n_prompt - 1} of the prompt, got {column}."
        )
    check_ids(token, n_vocab, "no_speech")


def _check(
    model: Whisper, memory: Memory, prompt: Any, positions: Any, max_new_tokens: int
) -> tuple[Array, Array]:
    prompt = model._check_tokens(prompt, memory)
    n_prompt, context = prompt.shape[1], model.config.n_text_ctx
    if max_new_tokens < 1 or n_prompt + max_new_tokens > context:
        raise ValueError(
            f"max_new_tokens: expected 1 to {context - n_prompt} after a prompt of {n_prompt} tokens (context {context}), "
            f"got {max_new_tokens}."
        )
    positions = model._positions(prompt, positions)
    if not is_traced(positions) and np.any(np.diff(np.asarray(positions), axis=1) != 1):
        raise ValueError(
            "positions: each row must count up by one; pad on the left with negative positions."
        )
    return prompt, positions


@dataclasses.dataclass(frozen=True)
class DecodingSession:
    """The decoder of one generation: what stays the same from step to step."""

    model: Whisper
    memory: Memory
    edits: Edits
    blocks: Any

    @classmethod
    def of(cls, model: Whisper, request: Request, edits: Edits) -> "DecodingSession":
        if request.blocks is None:
            return cls(model, request.memory.stacked(), edits, model.decoder.blocks)
        return cls(model, request.memory.unstacked(), edits, request.blocks)

    def empty_cache(self, batch: int, size: int, past: type[Past] = Past) -> Cache:
        c = self.model.config
        cache = Cache.empty(
            c.n_text_layer,
            batch,
            c.n_text_head,
            size,
            c.n_text_state // c.n_text_head,
            c.dtype,
            past,
        )
        return cache.replace(past=unstack(cache.past)) if isinstance(self.blocks, tuple) else cache

    def advance(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        cache: Cache,
        start: Int[Array, ""],
        no_speech: tuple[int, int] | None = None,
    ) -> tuple[Float[Array, "B V"], Cache, Float[Array, "B"]]:
        """Feeds `tokens` into the slots from `start` on: logits after the last one, the cache, and the no-speech probability."""
        cache = cache.at(start, positions)
        x, cache, tap, _ = self.model.decoder.residual(
            tokens, positions, self.memory, self.edits, NOTHING, cache, self.blocks
        )
        logits = self._logits(x, tap, tokens.shape[1] - 1)
        if no_speech is None:
            return logits, cache, jnp.full(tokens.shape[0], jnp.nan)
        column, token = no_speech
        return logits, cache, jax.nn.softmax(self._logits(x, tap, column))[:, token]

    def _logits(self, x: Float[Array, "B T D"], tap: Tap, column: int) -> Float[Array, "B V"]:
        """Only the wanted column is unembedded, at its own position."""
        here = slice(column, column + 1)
        return self.model.decoder.head(
            x[:, here], dataclasses.replace(tap, positions=tap.positions[:, here], acts={})
        )[:, 0]
