"""Runs beam search in one compiled loop.

Source: openai/whisper `decoding.py`, BeamSearchDecoder and MaximumLikelihoodRanker. For each row,
the loop keeps only the best ended text and the number of ended texts, which decide the result.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxasr import compiled, pytrees
from jaxasr.cache import Cache, EncodedAudio
from jaxasr.decoding import Generation, LogitFilter, Request, Settings
from jaxasr.inputs import Tokens
from jaxasr.model import SpeechModel, full_precision
from jaxasr.session import DecodingSession
from jaxasr.taps import Edits

_BEAM_AXIS = -4  # axis K of the beams in a layer's keys and values [..., B, K, H, S, Dh]


def beam_search(
    model: SpeechModel,
    memory: EncodedAudio,
    prompt: Tokens,
    *,
    beam_size: int,
    max_new_tokens: int,
    edits: Edits | None = None,
    rules: LogitFilter | None = None,
    length_penalty: float | None = None,
    patience: float = 1.0,
    positions: Tokens | None = None,
    eot: int | None = None,
    no_speech: tuple[int, int] | None = None,
    unroll: bool | None = None,
) -> Generation:
    """Searches for the best text of each row by extending its `beam_size` likeliest prefixes.

    The beams of a row share its memory, and rows do not influence each other. An edit receives the
    activations of one beam at a time, in the shapes of greedy decoding. A text that the rules
    forbid is never a candidate, even if fewer than `beam_size` candidates remain.

    Args:
        model: the model.
        memory: encoded audio of B rows.
        prompt: ids [B, T0].
        beam_size: number K of prefixes to extend per row.
        max_new_tokens: most tokens to generate per row.
        edits: `{site: edit}` for decoder sites.
        rules: constraints on the logits; see `jaxasr.generate`.
        length_penalty: exponent p in the score log-probability / ((5 + n) / 6) ** p of a text with
            n new tokens, without the end-of-text. None: log-probability / max(n, 1).
        patience: the search of a row ends once `round(patience * beam_size)` texts have ended.
        positions: absolute positions [B, T0]. None: 0 to T0 - 1.
        eot: id of the end-of-text; see `jaxasr.generate`.
        no_speech: `(column, id)`, to return the probability of `id` after that prompt column.
        unroll: loop over layers instead of scanning them. None: loop over at most 12 layers.

    Returns:
        The text with the highest score in each row.

    Raises:
        ValueError: as in `jaxasr.generate`, or `beam_size` or `patience` is out of range.

    Example:
        ```python
        prompt = np.array([asr.tokenizer.prompt()])
        out = jaxasr.beam.beam_search(
            asr.model, memory, prompt, beam_size=5, max_new_tokens=100, patience=2.0
        )
        ```
    """
    max_ended = round(beam_size * patience)
    if not 0 < beam_size < model.config.n_vocab or max_ended < 1:
        raise ValueError(
            f"beam_size, patience: expected 1 to {model.config.n_vocab - 1} beams, and "
            f"round(beam_size * patience) of at least 1, got beam_size={beam_size}, {patience=}."
        )
    settings = Settings(max_new_tokens, edits, rules, positions, eot, no_speech, unroll)
    request = Request.from_arguments(model, memory, prompt, settings)
    penalty = None if length_penalty is None else jnp.float32(length_penalty)
    arguments = model, request, jnp.int32(max_ended), penalty
    return compiled.call(_search, *arguments, n_beams=beam_size).check_finite()


@pytrees.dataclass
class Texts:
    """Holds N texts per row. A text is the prompt and the tokens generated after it.

    Attributes:
        tokens: int32 [B, N, W], W = T0 + T.
        logprobs: float32 [B, N, T], log-probability of each generated token.
        total: float32 [B, N], sum of `logprobs`; -inf marks a text that cannot be chosen.
    """

    tokens: Int[Array, "B N W"]
    logprobs: Float[Array, "B N T"]
    total: Float[Array, "B N"]

    def __getitem__(self, index: Int[Array, "B M"]) -> "Texts":
        """Returns M texts of each row, by index."""
        return jax.tree.map(lambda x: _gather(x, index), self)


def _search(
    model: SpeechModel,
    request: Request,
    max_ended: Int[Array, ""],
    penalty: Float[Array, ""] | None,
    *,
    n_beams: int,
) -> Generation:
    """Runs the search. In the loop, a beam has `n` tokens so far, the prompt included."""
    n_new, eot, rules = request.n_new, request.eot, request.rules
    batch, n_prompt = request.prompt.shape

    def has_next(state: tuple) -> Array:
        n, _, _, _, n_ended, *_ = state
        return (n < n_prompt + n_new) & (n_ended < max_ended).any()

    def step(state: tuple) -> tuple:
        n, beams, best, score, n_ended, cache, logits = state
        logprobs = _compute_logprobs(rules, logits, beams.tokens, n, n_prompt)
        candidates, parents = _extend_beams(beams, logprobs, n, n_prompt)
        ended = request.unify_ends(candidates.tokens[:, :, n]) == eot
        is_possible = candidates.total > -jnp.inf
        to_extend, is_final, n_ended = _choose_candidates(
            ended, is_possible, n_ended, max_ended, n_beams, is_last=n + 1 == n_prompt + n_new
        )
        lengths = n - n_prompt + ~ended  # a new end-of-text does not count
        best, score = _update_best(best, score, candidates, is_final, lengths, penalty)
        beams = candidates[to_extend]
        cache = _reorder(cache, jnp.take_along_axis(parents, to_extend, 1))
        positions = request.positions[:, -1:] + 1 + n - n_prompt
        logits, cache = _advance(decoder, beams.tokens[:, :, n], positions, cache, n)
        return n + 1, beams, best, score, n_ended, cache, logits

    with full_precision(model):
        decoder = DecodingSession.from_request(model, request)
        cache = decoder.empty_cache(batch, n_prompt + n_new)
        logits, cache, no_speech_prob = decoder.advance(
            request.prompt, request.positions, cache, jnp.int32(0), request.no_speech
        )
        empty = _make_empty_texts(request.prompt, n_new, eot, logits.dtype)
        beams, cache, logits = _replicate(empty, cache, logits, n_beams)
        # A row for which no text is ever final keeps these NaN, and `check_finite` reports them.
        best = dataclasses.replace(empty, logprobs=jnp.full_like(empty.logprobs, jnp.nan))
        score, n_ended = jnp.full(batch, -jnp.inf), jnp.zeros(batch, jnp.int32)
        state = jnp.int32(n_prompt), beams, best, score, n_ended, cache, logits
        _, _, best, *_ = jax.lax.while_loop(has_next, step, state)
    tokens = request.unify_ends(best.tokens[:, 0, n_prompt:])
    return Generation.from_tokens(tokens, best.logprobs[:, 0], no_speech_prob, eot)


def _make_empty_texts(prompt: Int[Array, "B T0"], n_new: int, eot: int, dtype: Any) -> Texts:
    """Returns one text per row, without new tokens."""
    batch = len(prompt)
    tokens = jnp.pad(prompt, ((0, 0), (0, n_new)), constant_values=eot)[:, None]
    return Texts(tokens, jnp.zeros((batch, 1, n_new), dtype), jnp.zeros((batch, 1), dtype))


def _replicate(
    texts: Texts, cache: Cache, logits: Float[Array, "B V"], n_beams: int
) -> tuple[Texts, Cache, Float[Array, "B K V"]]:
    """Copies text, cache and logits to every beam, and disables all beams but the first."""
    # Equal beams would find the same texts, so only the first one may be extended at first.
    texts = jax.tree.map(lambda x: jnp.repeat(x, n_beams, 1), texts)
    texts = dataclasses.replace(texts, total=texts.total.at[:, 1:].set(-jnp.inf))

    def repeat(x: Array) -> Array:
        return jnp.repeat(jnp.expand_dims(x, _BEAM_AXIS), n_beams, _BEAM_AXIS)

    cache = dataclasses.replace(cache, past=jax.tree.map(repeat, cache.past))
    return texts, cache, jnp.repeat(logits[:, None], n_beams, 1)


def _compute_logprobs(
    rules: LogitFilter | None,
    logits: Float[Array, "B K V"],
    tokens: Int[Array, "B K T"],
    n: Int[Array, ""],
    n_prompt: int,
) -> Float[Array, "B K V"]:
    """Returns the log-probabilities of the next token of each beam, under the rules."""
    if rules is None:
        return jax.nn.log_softmax(logits)
    # Rules expect logits [B, V], so they are applied to one beam of every row at a time.
    constrain = jax.vmap(lambda x, ids: rules(x, ids, n, n_prompt), in_axes=1, out_axes=1)
    return jax.nn.log_softmax(constrain(logits, tokens))


def _extend_beams(
    beams: Texts, logprobs: Float[Array, "B K V"], n: Int[Array, ""], n_prompt: int
) -> tuple[Texts, Int[Array, "B N"]]:
    """Returns the N = 2 K likeliest one-token extensions, best first, and the beam of each."""
    # Each of the K beams has one extension that ends, so at least K of the 2 K do not end.
    n_beams = beams.total.shape[1]
    # Each beam contributes at most K + 1 extensions: K that do not end and the one that does.
    logprobs, tokens = jax.lax.top_k(logprobs, n_beams + 1)
    is_possible = beams.total[..., None] > -jnp.inf
    totals = jnp.where(is_possible, beams.total[..., None] + logprobs, -jnp.inf)
    logprobs, tokens, totals = (x.reshape(len(x), -1) for x in (logprobs, tokens, totals))
    totals, best = jax.lax.top_k(totals, 2 * n_beams)
    parents = best // (n_beams + 1)  # `best` indexes K beams of K + 1 extensions each
    pick = functools.partial(jnp.take_along_axis, indices=best, axis=1)
    texts = beams[parents]
    tokens = texts.tokens.at[:, :, n].set(pick(tokens))
    logprobs = texts.logprobs.at[:, :, n - n_prompt].set(pick(logprobs))
    return Texts(tokens, logprobs, totals), parents


def _choose_candidates(
    ended: Bool[Array, "B N"],
    is_possible: Bool[Array, "B N"],
    n_ended: Int[Array, "B"],
    max_ended: Int[Array, ""],
    n_beams: int,
    is_last: Bool[Array, ""],
) -> tuple[Int[Array, "B K"], Bool[Array, "B N"], Int[Array, "B"]]:
    """Chooses the candidates to extend, and those that are final texts.

    A candidate is open if it has not ended. A candidate that ends is final if fewer than K likelier
    candidates are open and fewer than `max_ended` texts have ended. If the search stops with fewer
    than K ended texts, the likeliest open candidates become final, too.

    Returns:
        Indices [B, K] of the candidates to extend; bool [B, N], True for each final candidate; and
        the number [B] of texts that have ended so far.
    """
    n_open = jnp.cumsum(~ended, 1)  # open candidates up to and including this one
    # A stable sort puts open candidates (False) first and keeps their order of likelihood.
    to_extend = jnp.argsort(ended, axis=1, stable=True)[:, :n_beams]
    accepted = ended & is_possible & (n_open < n_beams)
    n_ended_before = n_ended[:, None]
    accepted &= n_ended_before + jnp.cumsum(accepted, 1) <= max_ended
    n_ended += accepted.sum(1, dtype=jnp.int32)
    is_over = ((n_ended >= max_ended) | is_last)[:, None]
    is_cut_off = is_over & ~ended & (n_open <= n_beams - n_ended[:, None])
    return to_extend, (accepted | is_cut_off) & (n_ended_before < max_ended), n_ended


def _update_best(
    best: Texts,
    score: Float[Array, "B"],
    candidates: Texts,
    is_final: Bool[Array, "B N"],
    lengths: Int[Array, "B N"],
    penalty: Float[Array, ""] | None,
) -> tuple[Texts, Float[Array, "B"]]:
    """Returns the best final text so far, and its score."""
    divisor = jnp.maximum(lengths, 1) if penalty is None else ((5 + lengths) / 6) ** penalty
    scores = jnp.where(is_final, candidates.total / divisor, -jnp.inf)
    winner = scores.argmax(1, keepdims=True)
    new_score = jnp.take_along_axis(scores, winner, 1)[:, 0]
    # True also for a NaN score, which `check_finite` must find in the result.
    is_better = ~(new_score <= score)

    def choose(new: Array, old: Array) -> Array:
        # Gives the condition [B] axes of size 1, so that it selects whole rows of [B, ...].
        return jnp.where(is_better.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    return jax.tree.map(choose, candidates[winner], best), choose(new_score, score)


def _reorder(cache: Cache, parents: Int[Array, "B K"]) -> Cache:
    """Gives each beam the cache of the beam that it extends, whose index is in `parents`."""
    reorder = functools.partial(_gather, index=parents)
    reorder_layers = reorder if isinstance(cache.past, tuple) else jax.vmap(reorder)
    return dataclasses.replace(cache, past=jax.tree.map(reorder_layers, cache.past))


def _gather(x: Shaped[Array, "B N *rest"], index: Int[Array, "B M"]) -> Shaped[Array, "B M *rest"]:
    """Returns `x[b, index[b]]` for each row b."""
    # Copies whole rows, which on a CPU is several times faster than `take_along_axis`.
    return jax.vmap(lambda row, i: row[i])(x, index)


def _advance(
    decoder: DecodingSession,
    tokens: Int[Array, "B K"],
    positions: Int[Array, "B 1"],
    cache: Cache,
    n: Int[Array, ""],
) -> tuple[Float[Array, "B K V"], Cache]:
    """Decodes one token of each beam. `vmap` does not map the memory, so the beams share it."""

    def advance(tokens: Array, past: Any) -> tuple[Array, Any]:
        logits, updated, _ = decoder.advance(
            tokens[:, None], positions, dataclasses.replace(cache, past=past), n
        )
        return logits, updated.past

    over_beams = jax.vmap(advance, in_axes=(1, _BEAM_AXIS), out_axes=(1, _BEAM_AXIS))
    logits, past = over_beams(tokens, cache.past)
    return logits, dataclasses.replace(cache.prepared(n, positions), past=past)
