"""Predicts the next token from the residual stream after each decoder layer (logit lens)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from interventions.run import Run
from jaxasr import compiled, pytrees
from jaxasr.model import SpeechModel, full_precision
from jaxasr.rules import Rules
from jaxasr.taps import Edits, select
from jaxasr.token_ids import check_ids


@pytrees.dataclass(repr=False)
class LogitLens:
    """Predictions of every decoder layer after every token.

    Attributes:
        ids: int [L, B, T, K], the `top_k` likeliest tokens of each layer, likeliest first.
        logprobs: float [L, B, T, K], the log-probabilities of `ids` in nats.
        final: int [B, T], the token that is followed through the layers, after each position. It
            is the last layer's top-1, or the argument `final` of `logit_lens`.
        logprob: float [L, B, T], the log-probability of `final` at each layer in nats.
        rank: int [L, B, T], how many tokens are likelier than `final` at each layer. The top-1 has
            rank 0.
        saturation: int [B, T], the earliest layer from which `final` is the top-1 of every layer up
            to the last. L if `final` is not the top-1 of the last layer.

    Example:
        ```python
        lens = iv.logit_lens(asr.model, run, top_k=3)
        lens.rank[:, 0, -1]  # rank of the final token at the last position, per layer
        ```
    """

    ids: Int[Array, "L B T K"]
    logprobs: Float[Array, "L B T K"]
    final: Int[Array, "B T"]
    logprob: Float[Array, "L B T"]
    rank: Int[Array, "L B T"]
    saturation: Int[Array, "B T"]

    def __repr__(self) -> str:
        names = ("layers", "rows", "tokens", "top_k")
        sizes = [f"{name} {size}" for name, size in zip(names, np.shape(self.ids))]
        return f"LogitLens({', '.join(sizes)})"


def logit_lens(
    model: SpeechModel,
    run: Run,
    top_k: int = 5,
    *,
    final: Int[Array | np.ndarray, "B T"] | None = None,
    edits: Edits | None = None,
    rules: Rules | None = None,
    prompt_len: int | None = None,
) -> LogitLens:
    """Decodes the residual stream of every layer with the final norm and the unembedding.

    Reads the stream at `decoder.resid_post`, before the final norm.

    Args:
        model: the model, such as `asr.model`.
        run: audio and tokens int [B, T].
        top_k: number of tokens to return per layer and position.
        final: int [B, T], the token to follow through the layers, after each position. Default:
            the last layer's top-1.
        edits: edits of any site.
        rules: decoding rules as in `jaxasr.generate`. Every layer then predicts only tokens that
            the rules allow, and the last layer's top-1 is the token that `generate` chooses. To
            follow generated tokens, give them as `final`, and give the rules of their generation.
        prompt_len: number of tokens in the prompt. Required with `rules`.

    Returns:
        A `LogitLens` of L layers.

    Raises:
        ValueError: `top_k` or `final` is outside the vocabulary, `final` has another shape than
            `run.tokens`, or `rules` come without `prompt_len`.

    Example:
        ```python
        import jax.numpy as jnp

        import interventions
        import jaxasr

        asr = jaxasr.load("tiny.en")
        audio = jaxasr.load_audio("experiments/assets/demo.flac")
        mel = jaxasr.log_mel(audio, asr.config.n_mels)[None]
        text = asr.tokenizer.encode(" The captain read")
        tokens = jnp.array([[*asr.tokenizer.prompt(), *text]])
        lens = interventions.logit_lens(asr.model, interventions.Run(mel=mel, tokens=tokens))
        lens.saturation[0]  # the layer from which each next token is the top-1
        ```

    References:
        nostalgebraist, "interpreting GPT: the logit lens" (2020). The saturation layer follows
        "Beyond Transcription" (arXiv:2508.15882), section 4.7.
    """
    if not 1 <= top_k <= model.config.n_vocab:
        raise ValueError(f"top_k: expected 1 to {model.config.n_vocab}, got {top_k}.")
    if rules is not None and prompt_len is None:
        raise ValueError(
            "prompt_len: expected the number of tokens in the prompt, which rules need, got None."
        )
    if final is not None:
        check_ids(final, model.config.n_vocab, "final")
    logits, acts = run.decode(model, edits, select("decoder.resid_post"))
    tokens = jnp.asarray(run.tokens)
    if final is None:
        # `run.decode` applied the last layer's norm and unembedding, so its logits give the top-1.
        allowed_logits = logits if rules is None else rules.along(logits, tokens, prompt_len or 0)
        final = jnp.argmax(allowed_logits, -1)
    final = jnp.asarray(final)
    if final.shape != tokens.shape:
        raise ValueError(
            f"final: expected the shape of run.tokens {list(tokens.shape)}, "
            f"got {list(final.shape)}."
        )
    return compiled.call(
        _decode_layers,
        model,
        acts["decoder.resid_post"],
        final,
        tokens,
        np.int32(prompt_len or 0),
        rules,
        top_k=top_k,
    )


def _decode_layers(
    model: SpeechModel,
    resid: Float[Array, "L B T D"],
    final: Int[Array, "B T"],
    tokens: Int[Array, "B T"],
    prompt_len: Int[Array, ""],
    rules: Rules | None,
    *,
    top_k: int,
) -> LogitLens:
    def decode_layer(x: Float[Array, "B T D"]) -> tuple[Array, ...]:
        logits = model.decoder.unembed(model.decoder.ln(x))
        allowed_logits = logits if rules is None else rules.along(logits, tokens, prompt_len)
        logprobs = jax.nn.log_softmax(allowed_logits)
        top_logprobs, ids = jax.lax.top_k(logprobs, top_k)
        final_logprob = jnp.take_along_axis(logprobs, final[..., None], -1)
        rank = (logprobs > final_logprob).sum(-1)  # tokens of equal probability do not count
        return ids, top_logprobs, final_logprob[..., 0], rank

    with full_precision(model):
        # `map` instead of `vmap`, because the logits of all layers together would be large.
        ids, top_logprobs, logprob, rank = jax.lax.map(decode_layer, resid)
    return LogitLens(ids, top_logprobs, final, logprob, rank, saturation_layer(rank == 0))


def saturation_layer(is_top: Bool[Array, "L *rest"]) -> Int[Array, "*rest"]:
    """Finds the earliest layer from which `is_top` is True up to the last layer.

    Args:
        is_top: bool [L, ...], whether a token is the top-1 of each layer.

    Returns:
        int [...], the layer, or L where `is_top` is False at the last layer.

    Example:
        ```python
        import numpy as np

        from interventions.lenses.logit import saturation_layer

        assert saturation_layer(np.array([True, False, True, True])) == 2
        ```
    """
    # A cumulative product from the last layer back is 1 from the saturation layer on, 0 before it.
    is_saturated = jnp.flip(jnp.cumprod(jnp.flip(is_top.astype(jnp.int32), 0), 0), 0)
    return is_top.shape[0] - is_saturated.sum(0)
