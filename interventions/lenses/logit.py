"""The logit lens: what the decoder would say if it stopped at each layer (nostalgebraist 2020)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from interventions.run import Run
from jaxasr import compiled, pytrees
from jaxasr.model import Whisper, full_precision
from jaxasr.rules import Rules
from jaxasr.taps import Edits, select
from jaxasr.token_ids import check_ids


@pytrees.dataclass
class LogitLens:
    """What every decoder layer would predict after every token.

    ids, logprobs: [L, B, T, K], the top-k tokens of each layer and their natural-log probabilities.
    final: [B, T], the token that the model itself ends on (its own top-1, or what the caller named).
    logprob, rank: [L, B, T], of the final token at each layer; rank 0 is the top.
    saturation: [B, T], the earliest layer whose top-1 is the final token and stays so in all later layers; L where the last layer's is not.
    """

    ids: Int[Array, "L B T K"]
    logprobs: Float[Array, "L B T K"]
    final: Int[Array, "B T"]
    logprob: Float[Array, "L B T"]
    rank: Int[Array, "L B T"]
    saturation: Int[Array, "B T"]


def logit_lens(
    model: Whisper,
    run: Run,
    top_k: int = 5,
    *,
    final: Int[Array, "B T"] | None = None,
    edits: Edits | None = None,
    rules: Rules | None = None,
    prompt_len: int | None = None,
) -> LogitLens:
    """Reads every layer's residual stream through the decoder's final norm and unembedding.

    `final` [B, T] names the tokens whose rank is followed; the default is the model's own top-1 after each token. The sites read
    are `decoder.resid_post`, which the final norm has not touched: no layer is normed twice.

    `rules` are those of `jaxasr.generate`: with them every layer chooses among the tokens that may follow the ones before, so the
    last layer's top-1 is the token that `generate` writes. They need `prompt_len`, the number of tokens in the prompt; for tokens
    that were generated under rules, give these rules and the generated tokens as `final`.

    Raises ValueError for a `top_k` or a `final` outside the vocabulary, a `final` of another shape than `run.tokens`, and for
    `rules` without `prompt_len`.
    Source: nostalgebraist 2020; saturation as in "Beyond Transcription" (arXiv 2508.15882), section 4.7 and Fig. 2a.
    """
    if not 1 <= top_k <= model.config.n_vocab:
        raise ValueError(f"top_k: expected 1 to {model.config.n_vocab}, got {top_k}.")
    if rules is not None and prompt_len is None:
        raise ValueError(
            "prompt_len: expected the number of tokens in the prompt, which rules depend on, got None."
        )
    if final is not None:
        check_ids(final, model.config.n_vocab, "final")
    logits, acts = run.decode(model, edits, select("decoder.resid_post"))
    tokens = jnp.asarray(run.tokens)
    if final is None:
        final = jnp.argmax(
            logits if rules is None else rules.along(logits, tokens, prompt_len or 0), -1
        )
    final = jnp.asarray(final)
    if final.shape != tokens.shape:
        raise ValueError(
            f"final: expected the shape of run.tokens {list(tokens.shape)}, got {list(final.shape)}."
        )
    shared = acts["decoder.resid_post"], final, tokens, np.int32(prompt_len or 0)
    return compiled.call(_read, model, *shared, rules, top_k=top_k)


def _read(
    model: Whisper,
    resid: Float[Array, "L B T D"],
    final: Int[Array, "B T"],
    tokens: Int[Array, "B T"],
    prompt_len: Int[Array, ""],
    taps: Rules | None,
    *,
    top_k: int,
) -> LogitLens:
    def layer(x: Float[Array, "B T D"]) -> tuple[Array, ...]:
        logits = model.decoder.unembed(model.decoder.ln(x))
        logprobs = jax.nn.log_softmax(
            logits if taps is None else taps.along(logits, tokens, prompt_len)
        )
        top, ids = jax.lax.top_k(logprobs, top_k)
        of_final = jnp.take_along_axis(logprobs, final[..., None], -1)
        return ids, top, of_final[..., 0], (logprobs > of_final).sum(-1)

    with full_precision(model):
        ids, top, logprob, rank = jax.lax.map(
            layer, resid
        )  # a layer at a time: logits of all layers are large
    return LogitLens(ids, top, final, logprob, rank, saturation_layer(rank == 0))


def saturation_layer(hit: Float[Array, "L *rest"]) -> Int[Array, "*rest"]:
    """The earliest layer from which `hit` holds to the last one; the number of layers where the last one misses."""
    stays = jnp.flip(jnp.cumprod(jnp.flip(hit.astype(jnp.int32), 0), 0), 0)
    return hit.shape[0] - stays.sum(0)
