"""Beam search in one compiled loop.

Source: openai/whisper `decoding.py`, BeamSearchDecoder and MaximumLikelihoodRanker. Of what has ended only the best and
the number are kept, for that is all the ranking asks.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxasr import compiled, pytrees
from jaxasr.cache import Cache, Memory
from jaxasr.decoding import DecodingSession, Generation, Request, Rules, Taps, prepare
from jaxasr.model import Whisper, full_precision
from jaxasr.taps import Edits

_BEAMS = -4  # their axis in a layer's keys and values, [..., B, K, H, S, Dh]


def beam_search(
    model: Whisper,
    memory: Memory,
    prompt: Int[Array, "B T0"],
    *,
    beam_size: int,
    max_new_tokens: int,
    edits: Edits | None = None,
    rules: Rules | None = None,
    length_penalty: float | None = None,
    patience: float = 1.0,
    positions: Int[Array, "B T0"] | None = None,
    eot: int | None = None,
    no_speech: tuple[int, int] | None = None,
    unroll: bool | None = None,
) -> Generation:
    """The best text found for each row of `prompt` by following the `beam_size` likeliest ones; see `generate` for what they share.

    The search of a row ends when `round(patience * beam_size)` texts have. The best has the highest log-probability divided
    by its length without end-of-text (at least 1), or by ((5 + length) / 6) ** length_penalty. The beams of a row share its
    memory; edits see one beam at a time, with the shapes of a greedy pass. Rows do not influence each other. What has no
    probability, under the rules, is no candidate, even where fewer than `beam_size` are left.

    Raises ValueError as `generate` does, and for a beam size or a patience that leaves nothing to find.
    """
    most = round(beam_size * patience)
    if not 0 < beam_size < model.config.n_vocab or most < 1:
        raise ValueError(
            f"beam_size, patience: expected 1 to {model.config.n_vocab - 1} beams and a patience that lets at least one end, "
            f"got beam_size={beam_size}, patience={patience}."
        )
    request, taps, options = prepare(
        model,
        memory,
        prompt,
        positions,
        max_new_tokens=max_new_tokens,
        edits=edits,
        rules=rules,
        eot=eot,
        no_speech=no_speech,
        unroll=unroll,
    )
    penalty = None if length_penalty is None else jnp.float32(length_penalty)
    found = compiled.call(
        _search, model, request, jnp.int32(most), penalty, taps, n_beams=beam_size, **options
    )
    return found.check_finite()


@pytrees.dataclass
class Texts:
    """Prompt and what was written after it, N texts a row.

    tokens: [B, N, W = T0 + T]. logprobs: [B, N, T], of each new token. total: [B, N], their sum; -inf for what cannot be.
    """

    tokens: Int[Array, "B N W"]
    logprobs: Float[Array, "B N T"]
    total: Float[Array, "B N"]

    def __getitem__(self, index: Int[Array, "B M"]) -> "Texts":
        """M texts of each row, by number."""
        return jax.tree.map(lambda x: _take(x, index), self)


def _search(
    model: Whisper,
    request: Request,
    most: Int[Array, ""],
    penalty: Float[Array, ""] | None,
    taps: Taps,
    *,
    n_beams: int,
    n_new: int,
    eot: int,
    no_speech: tuple[int, int] | None,
    unroll: bool,
) -> Generation:
    edits, rules = taps
    batch, n_prompt = request.prompt.shape

    def going(state: tuple) -> Array:
        n, _, _, _, n_ended, *_ = state
        return (n < n_prompt + n_new) & (n_ended < most).any()

    def step(state: tuple) -> tuple:
        n, beams, best, score, n_ended, cache, logits = state
        found, source = _candidates(
            beams, _logprobs(rules, logits, beams.tokens, n, n_prompt), n, n_prompt
        )
        ended = found.tokens[:, :, n] == eot
        keep, final, n_ended = _sort_out(
            ended, found.total > -jnp.inf, n_ended, most, n_beams, n + 1 == n_prompt + n_new
        )
        best, score = _better(best, score, found, final, n - n_prompt + ~ended, penalty)
        beams, cache = found[keep], _reordered(cache, jnp.take_along_axis(source, keep, 1))
        logits, cache = _advance(
            decoder, beams.tokens[:, :, n], request.positions[:, -1:] + 1 + n - n_prompt, cache, n
        )
        return n + 1, beams, best, score, n_ended, cache, logits

    with full_precision(model):
        decoder = DecodingSession.of(model, request, edits)
        cache = decoder.empty_cache(batch, n_prompt + n_new)
        logits, cache, quiet = decoder.advance(
            request.prompt, request.positions, cache, jnp.int32(0), no_speech
        )
        nothing = _nothing(request.prompt, n_new, eot, logits.dtype)
        beams, cache, logits = _spread(nothing, cache, logits, n_beams)
        none = nothing.replace(
            logprobs=jnp.full_like(nothing.logprobs, jnp.nan)
        )  # until a text is found: NaN finds none
        state = (
            jnp.int32(n_prompt),
            beams,
            none,
            jnp.full(batch, -jnp.inf),
            jnp.zeros(batch, jnp.int32),
            cache,
            logits,
        )
        _, _, best, *_ = jax.lax.while_loop(going, step, state)
    return Generation.of(best.tokens[:, 0, n_prompt:], best.logprobs[:, 0], quiet, eot)


def _nothing(prompt: Int[Array, "B T0"], n_new: int, eot: int, dtype: Any) -> Texts:
    """One empty text a row."""
    tokens = jnp.pad(prompt, ((0, 0), (0, n_new)), constant_values=eot)[:, None]
    return Texts(
        tokens, jnp.zeros((len(prompt), 1, n_new), dtype), jnp.zeros((len(prompt), 1), dtype)
    )


def _spread(
    texts: Texts, cache: Cache, logits: Float[Array, "B V"], n_beams: int
) -> tuple[Texts, Cache, Float[Array, "B K V"]]:
    """All beams begin alike; all but the first with no probability, so that nothing is found twice."""
    texts = jax.tree.map(lambda x: jnp.repeat(x, n_beams, 1), texts)
    past = jax.tree.map(
        lambda x: jnp.repeat(jnp.expand_dims(x, _BEAMS), n_beams, _BEAMS), cache.past
    )
    return (
        texts.replace(total=texts.total.at[:, 1:].set(-jnp.inf)),
        cache.replace(past=past),
        jnp.repeat(logits[:, None], n_beams, 1),
    )


def _logprobs(
    rules: Rules | None,
    logits: Float[Array, "B K V"],
    tokens: Int[Array, "B K T"],
    n: Int[Array, ""],
    n_prompt: int,
) -> Float[Array, "B K V"]:
    if rules is not None:
        logits = jax.vmap(
            lambda logits, tokens: rules(logits, tokens, n, n_prompt), in_axes=1, out_axes=1
        )(logits, tokens)
    return jax.nn.log_softmax(logits)


def _candidates(
    beams: Texts, logprobs: Float[Array, "B K V"], n: Int[Array, ""], n_prompt: int
) -> tuple[Texts, Int[Array, "B N"]]:
    """The N = 2 K likeliest ways to go on, likeliest first, and the beam each comes from.

    A beam ends in one way only: K of them do not end, at least.
    """
    n_beams = beams.total.shape[1]
    logprobs, tokens = jax.lax.top_k(logprobs, n_beams + 1)
    possible = beams.total[..., None] > -jnp.inf
    totals = jnp.where(possible, beams.total[..., None] + logprobs, -jnp.inf)
    logprobs, tokens, totals = (x.reshape(len(x), -1) for x in (logprobs, tokens, totals))
    totals, best = jax.lax.top_k(totals, 2 * n_beams)
    source, take = (
        best // (n_beams + 1),
        functools.partial(jnp.take_along_axis, indices=best, axis=1),
    )
    texts = beams[source]
    tokens = texts.tokens.at[:, :, n].set(take(tokens))
    return Texts(tokens, texts.logprobs.at[:, :, n - n_prompt].set(take(logprobs)), totals), source


def _sort_out(
    ended: Bool[Array, "B N"],
    possible: Bool[Array, "B N"],
    n_ended: Int[Array, "B"],
    most: Int[Array, ""],
    n_beams: int,
    last: Bool[Array, ""],
) -> tuple[Int[Array, "B K"], Bool[Array, "B N"], Int[Array, "B"]]:
    """Numbers of the candidates to go on with, which are final, and how many have ended so far.

    An end counts while it is among the likeliest and there is room for it. When the search is over, the likeliest of those
    that have not ended are final, too, if fewer than K have.
    """
    going = jnp.cumsum(~ended, 1)
    keep = jnp.argsort(ended, axis=1, stable=True)[:, :n_beams]
    ends = ended & possible & (going < n_beams)
    before = n_ended[:, None]
    ends &= before + jnp.cumsum(ends, 1) <= most
    n_ended += ends.sum(1, dtype=jnp.int32)
    over = ((n_ended >= most) | last)[:, None]
    cut_off = over & ~ended & (going <= n_beams - n_ended[:, None])
    return keep, (ends | cut_off) & (before < most), n_ended


def _better(
    best: Texts,
    score: Float[Array, "B"],
    found: Texts,
    final: Bool[Array, "B N"],
    lengths: Int[Array, "B N"],
    penalty: Float[Array, ""] | None,
) -> tuple[Texts, Float[Array, "B"]]:
    """The best text so far and its score."""
    by = jnp.maximum(lengths, 1) if penalty is None else ((5 + lengths) / 6) ** penalty
    scores = jnp.where(final, found.total / by, -jnp.inf)
    first = scores.argmax(1, keepdims=True)
    new = jnp.take_along_axis(scores, first, 1)[:, 0]
    better = ~(new <= score)  # a NaN is to be seen
    pick = lambda new, old: jnp.where(better.reshape(-1, *[1] * (old.ndim - 1)), new, old)  # noqa: E731
    return jax.tree.map(pick, found[first], best), pick(new, score)


def _reordered(cache: Cache, source: Int[Array, "B K"]) -> Cache:
    """The cache as the new beams, each the continuation of one before, look back on it."""

    def reorder(x: Array) -> Array:
        return _take(x, source)

    reorder = (
        reorder if isinstance(cache.past, tuple) else jax.vmap(reorder)
    )  # a leading axis of layers
    return cache.replace(past=jax.tree.map(reorder, cache.past))


def _take(x: Shaped[Array, "B N *rest"], index: Int[Array, "B M"]) -> Shaped[Array, "B M *rest"]:
    # Several times faster on a CPU than `take_along_axis`: whole rows are copied.
    return jax.vmap(lambda row, i: row[i])(x, index)


def _advance(
    decoder: DecodingSession,
    tokens: Int[Array, "B K"],
    positions: Int[Array, "B 1"],
    cache: Cache,
    n: Int[Array, ""],
) -> tuple[Float[Array, "B K V"], Cache]:
    """One token for each beam; the memory, closed over, is shared."""

    def advance(tokens: Array, past: Any) -> tuple[Array, Any]:
        logits, after, _ = decoder.advance(tokens[:, None], positions, cache.replace(past=past), n)
        return logits, after.past

    logits, past = jax.vmap(advance, in_axes=(1, _BEAMS), out_axes=(1, _BEAMS))(tokens, cache.past)
    return logits, cache.at(n, positions).replace(past=past)
