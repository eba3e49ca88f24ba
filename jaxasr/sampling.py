"""Runs greedy decoding and sampling in one compiled loop."""

from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxasr import compiled
from jaxasr.cache import MaskedPast, Past
from jaxasr.decoding import Generation, Request
from jaxasr.model import SpeechModel, full_precision
from jaxasr.session import DecodingSession
from jaxasr.taps import is_traced


def sample(
    model: SpeechModel,
    request: Request,
    *,
    temperature: float | Float[Array, ""] = 0.0,
    key: Array | None = None,
    leader: Int[Array, "B"] | None = None,
    axis_name: Hashable | None = None,
) -> Generation:
    """Generates the likeliest token at each step, or a random sample if `temperature` > 0.

    See `jaxasr.generate` for the arguments.
    """
    temperature = jnp.float32(temperature)
    key = jax.random.key(0) if key is None else key
    leader = None if leader is None else check_leader(leader, request.prompt.shape[0])
    generation = compiled.call(
        generate_greedily_or_sample, model, request, temperature, key, leader, axis_name=axis_name
    )
    return generation.check_finite()


def check_leader(leader: Any, batch: int) -> Int[Array, "B"]:
    """Returns `leader` as int32.

    Raises:
        ValueError: `leader` does not have B entries, or names a row that follows another row.
    """
    if jnp.shape(leader) != (batch,):
        raise ValueError(
            f"leader: expected one leader for each of {batch} rows, "
            f"got shape {list(jnp.shape(leader))}."
        )
    leader = jnp.asarray(leader, jnp.int32)
    if not is_traced(leader):
        rows = np.asarray(leader)
        if rows.min() < 0 or rows.max() >= batch or (rows[rows] != rows).any():
            raise ValueError(
                f"leader: expected rows from 0 to {batch - 1} that lead themselves, "
                f"got {rows.tolist()}."
            )
    return leader


def generate_greedily_or_sample(
    model: SpeechModel,
    request: Request,
    temperature: Float[Array, ""],
    key: Array,
    leader: Int[Array, "B"] | None,
    *,
    axis_name: Hashable | None,
) -> Generation:
    """Runs the loop. In the loop, a row has `n` tokens so far, the prompt included."""
    n_new, eot, rules = request.n_new, request.eot, request.rules
    batch, n_prompt = request.prompt.shape
    tokens = jnp.pad(request.prompt, ((0, 0), (0, n_new)), constant_values=eot)

    def choose(logits: Array, tokens: Array, n: Array) -> tuple[Array, Array]:
        logits = logits if rules is None else rules(logits, tokens, n, n_prompt)
        token = _choose_token(logits, temperature, jax.random.fold_in(key, n))
        token = token if leader is None else token[leader]
        logprobs = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], -1)
        return request.unify_ends(token), logprobs[:, 0]

    def has_next(state: tuple) -> Array:
        n, _, _, done, *_ = state
        is_open = (~done).any().astype(jnp.int32)
        # `pmax` over the mapped axis gives all members the same condition. With a condition per
        # member, `vmap` would copy the whole carry, caches included, at every step.
        is_open = is_open if axis_name is None else jax.lax.pmax(is_open, axis_name)
        return (n < n_prompt + n_new) & (is_open > 0)

    def step(state: tuple) -> tuple:
        n, tokens, logprobs, done, cache, logits = state
        token, logprob = choose(logits, tokens, n)
        # A row that has ended continues with the batch and appends end-of-text.
        token, logprob = jnp.where(done, eot, token), jnp.where(done, 0.0, logprob)
        tokens = jax.lax.dynamic_update_slice(tokens, token[:, None], (0, n))
        logprobs = jax.lax.dynamic_update_slice(logprobs, logprob[:, None], (0, n - n_prompt))
        positions = request.positions[:, -1:] + 1 + n - n_prompt
        logits, cache, _ = decoder.advance(token[:, None], positions, cache, n)
        return n + 1, tokens, logprobs, done | (token == eot), cache, logits

    with full_precision(model):
        decoder = DecodingSession.from_request(model, request)
        # `MaskedPast` is faster under `vmap`.
        past_class = Past if axis_name is None else MaskedPast
        cache = decoder.empty_cache(batch, n_prompt + n_new, past_class)
        logits, cache, no_speech_prob = decoder.advance(
            request.prompt, request.positions, cache, jnp.int32(0), request.no_speech
        )
        logprobs, done = jnp.zeros((batch, n_new), logits.dtype), jnp.zeros(batch, bool)
        state = jnp.int32(n_prompt), tokens, logprobs, done, cache, logits
        _, tokens, logprobs, *_ = jax.lax.while_loop(has_next, step, state)
    return Generation.from_tokens(tokens[:, n_prompt:], logprobs, no_speech_prob, eot)


def _choose_token(
    logits: Float[Array, "B V"], temperature: Float[Array, ""], key: Array
) -> Int[Array, "B"]:
    def draw() -> Array:
        # Under `vmap` both branches of `cond` run, so this one must not divide by 0.
        scaled = logits / jnp.maximum(temperature, 1e-6)
        return jax.random.categorical(key, scaled).astype(jnp.int32)

    return jax.lax.cond(temperature > 0, draw, lambda: first_largest(logits))


def first_largest(x: Float[Array, "B V"]) -> Int[Array, "B"]:
    """Returns `argmax(x, -1)`, with the same choice among ties and NaN."""
    # On a CPU, XLA vectorises `max` and `min`, but not argmax. For 64 rows of logits, the two
    # together are seven times as fast.
    ids = jnp.arange(x.shape[-1], dtype=jnp.int32)
    return jnp.where((x == x.max(-1, keepdims=True)) | jnp.isnan(x), ids, x.shape[-1]).min(-1)
