"""Cached generation in one compiled loop; edits mean what they mean in a teacher-forced pass."""

from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxasr import compiled
from jaxasr.beam import beam_search
from jaxasr.cache import Masked, Memory, Past
from jaxasr.decoding import DecodingSession, Generation as Generation, Request, Rules, Taps, prepare
from jaxasr.model import Whisper, full_precision
from jaxasr.taps import Edits, is_traced


def generate(
    model: Whisper,
    memory: Memory,
    prompt: Int[Array, "B T0"],
    *,
    max_new_tokens: int,
    edits: Edits | None = None,
    rules: Rules | None = None,
    temperature: float | Float[Array, ""] = 0.0,
    key: Array | None = None,
    beam_size: int | None = None,
    positions: Int[Array, "B T0"] | None = None,
    eot: int | None = None,
    no_speech: tuple[int, int] | None = None,
    unroll: bool | None = None,
    leader: Int[Array, "B"] | None = None,
    axis_name: Hashable | None = None,
) -> Generation:
    """Generates up to `max_new_tokens` after `prompt`: greedily, sampled when `temperature` > 0, or the best of `beam_size` beams.

    Shapes: prompt int [B, T0]; rows of different length are padded on the left, with negative `positions` there.
    `rules(logits, tokens, n_tokens, n_prompt)` changes the logits of the next token; `no_speech = (column, id)` asks for the
    probability of token `id` after that column of the prompt. Edits act at their absolute position, in the prompt and after.
    `unroll` (default: up to 12 layers) loops over layers instead of scanning: slower to compile, but then no step copies a weight.
    Usable under `jit` and `vmap` (a batch of edits shares one memory); compiled once for each structure otherwise. Under a `vmap`
    with an axis name, `axis_name=` that name runs one loop until the last member ends; without, every step copies every cache.

    `leader` int [B]: row b is fed the token that row `leader[b]` chose (itself: an ordinary row). Its `tokens` and `lengths` are
    those of that row, its `logprobs` what it would have given these tokens itself. So a second recording accompanies the first,
    token by token, and an edit that reads across rows patches from it while the text is still being written.

    Patience and length penalty of a beam search: see `jaxasr.beam.beam_search`.

    Raises ValueError when prompt and new tokens exceed the decoder's context, for unknown ids, for edits that cannot fire,
    for a beam search that is to sample or to follow, for a row that follows one which follows another; and, outside of `jit`
    and `vmap`, where the logits were not finite, under an edit or in float16.
    """
    shared = {
        "max_new_tokens": max_new_tokens,
        "edits": edits,
        "rules": rules,
        "eot": eot,
        "no_speech": no_speech,
        "unroll": unroll,
    }
    if beam_size is not None:
        if leader is not None or axis_name is not None:
            raise ValueError(
                "follow, together: not defined for a beam search; leave out beam_size."
            )
        if is_traced(temperature) or float(temperature) != 0:
            raise ValueError(
                f"temperature: beam search does not sample; expected 0 with beam_size={beam_size}, got {temperature}."
            )
        return beam_search(
            model, memory, prompt, beam_size=beam_size, positions=positions, **shared
        )
    request, taps, options = prepare(model, memory, prompt, positions, **shared)
    key = jax.random.key(0) if key is None else key
    leader = None if leader is None else _leaders(leader, request.prompt.shape[0])
    found = compiled.call(
        _generate,
        model,
        request,
        jnp.float32(temperature),
        key,
        leader,
        taps,
        axis_name=axis_name,
        **options,
    )
    return found.check_finite()


def _leaders(leader: Any, batch: int) -> Array:
    if jnp.shape(leader) != (batch,):
        raise ValueError(
            f"leader: expected one row for each of {batch} rows, got shape {list(jnp.shape(leader))}."
        )
    leader = jnp.asarray(leader, jnp.int32)
    if not is_traced(leader):
        rows = np.asarray(leader)
        if rows.min() < 0 or rows.max() >= batch or (rows[rows] != rows).any():
            raise ValueError(
                f"leader: expected rows of 0 to {batch - 1} that follow themselves, got {rows.tolist()}."
            )
    return leader


def _generate(
    model: Whisper,
    request: Request,
    temperature: Float[Array, ""],
    key: Array,
    leader: Int[Array, "B"] | None,
    taps: Taps,
    *,
    n_new: int,
    eot: int,
    no_speech: tuple[int, int] | None,
    unroll: bool,
    axis_name: Hashable | None,
) -> Generation:
    edits, rules = taps
    batch, n_prompt = request.prompt.shape
    tokens = jnp.pad(request.prompt, ((0, 0), (0, n_new)), constant_values=eot)

    def pick(logits: Array, tokens: Array, n: Array) -> tuple[Array, Array]:
        logits = logits if rules is None else rules(logits, tokens, n, n_prompt)
        token = _choose(logits, temperature, jax.random.fold_in(key, n))
        token = token if leader is None else token[leader]
        return token, jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], -1)[:, 0]

    def going(state: tuple) -> Array:
        n, _, _, done, *_ = state
        writing = (~done).any().astype(jnp.int32)
        # The largest of a vmapped axis is no longer mapped over it, and neither is the loop.
        return (n < n_prompt + n_new) & (
            (writing if axis_name is None else jax.lax.pmax(writing, axis_name)) > 0
        )

    def step(state: tuple) -> tuple:
        n, tokens, logprobs, done, cache, logits = state
        token, logprob = pick(logits, tokens, n)
        token, logprob = jnp.where(done, eot, token), jnp.where(done, 0.0, logprob)
        tokens = jax.lax.dynamic_update_slice(tokens, token[:, None], (0, n))
        logprobs = jax.lax.dynamic_update_slice(logprobs, logprob[:, None], (0, n - n_prompt))
        positions = request.positions[:, -1:] + 1 + n - n_prompt
        logits, cache, _ = decoder.advance(token[:, None], positions, cache, n)
        return n + 1, tokens, logprobs, done | (token == eot), cache, logits

    with full_precision(model):
        decoder = DecodingSession.of(model, request, edits)
        cache = decoder.empty_cache(batch, n_prompt + n_new, Past if axis_name is None else Masked)
        logits, cache, quiet = decoder.advance(
            request.prompt, request.positions, cache, jnp.int32(0), no_speech
        )
        state = (
            jnp.int32(n_prompt),
            tokens,
            jnp.zeros((batch, n_new), logits.dtype),
            jnp.zeros(batch, bool),
            cache,
            logits,
        )
        _, tokens, logprobs, *_ = jax.lax.while_loop(going, step, state)
    return Generation.of(tokens[:, n_prompt:], logprobs, quiet, eot)


def _choose(
    logits: Float[Array, "B V"], temperature: Float[Array, ""], key: Array
) -> Int[Array, "B"]:
    def sample() -> Array:
        return jax.random.categorical(key, logits / jnp.maximum(temperature, 1e-6)).astype(
            jnp.int32
        )

    return jax.lax.cond(temperature > 0, sample, lambda: first_largest(logits))


def first_largest(x: Float[Array, "B V"]) -> Int[Array, "B"]:
    """`argmax`, ties and NaN included, as two reductions that a CPU vectorises: seven times as fast for 64 rows of a vocabulary."""
    ids = jnp.arange(x.shape[-1], dtype=jnp.int32)
    return jnp.where((x == x.max(-1, keepdims=True)) | jnp.isnan(x), ids, x.shape[-1]).min(-1)
