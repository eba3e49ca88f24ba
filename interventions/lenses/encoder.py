"""The encoder lens: let the unmodified decoder listen to every layer of the encoder (DecoderLens, Langedijk et al. 2310.03686)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxasr import compiled, pytrees
from jaxasr.generate import Generation, generate
from jaxasr.model import Whisper
from jaxasr.recogniser import Recogniser
from jaxasr.rules import Rules, rules_for
from jaxasr.taps import Edits, merge, select


@pytrees.dataclass
class EncoderLens:
    """What is written from every encoder layer.

    tokens [L, B, N], lengths [L, B], logprobs [L, B, N]: as in `jaxasr.Generation`, with a leading axis of layers.
    text: `text[l][b]`. layers: the encoder layer of each row; -1 is the stem, before any layer.
    """

    tokens: Int[Array, "L B N"]
    lengths: Int[Array, "L B"]
    logprobs: Float[Array, "L B N"]
    text: list[list[str]] = pytrees.field(pytree_node=False)
    layers: tuple[int, ...] = pytrees.field(pytree_node=False)


def encoder_lens(
    asr: Recogniser,
    mel: Float[Array, "B M F"],
    *,
    prompt: list[int] | None = None,
    max_new_tokens: int = 224,
    rules: Rules | None = None,
    edits: Edits | None = None,
    stem: bool = False,
    at_once: int = 8,
) -> EncoderLens:
    """Generates from every encoder layer: its residual stream, through the encoder's final norm, to the unmodified decoder.

    The last layer is normed once, so its text is the model's own. All layers are generated in one compiled call, `at_once` of
    them side by side. `rules` (default, our choice) only keep control tokens out, so that an empty answer can be seen; `stem`
    adds a first row for the stream before any layer (layer 0 in Hugging Face's counting); `edits` are the encoder's.

    Raises ValueError for a wrong `mel` and for what `generate` refuses.
    Source: "Beyond Transcription" (arXiv 2508.15882), section 4.6; the final norm on inner layers after Diffusion Lens (2403.05846).
    """
    prompt = asr.tokenizer.prompt() if prompt is None else prompt
    rules = rules_for(asr.tokenizer, suppress=(), suppress_blank=False) if rules is None else rules
    sites = ("encoder.resid_post", *(("encoder.embed",) if stem else ()))
    _, acts = asr.model.encode(mel, edits, merge(*map(select, sites)))
    resid = acts["encoder.resid_post"]
    if stem:
        resid = jnp.concatenate([acts["encoder.embed"][None], resid])
    tokens = jnp.broadcast_to(jnp.asarray(prompt, jnp.int32), (resid.shape[1], len(prompt)))
    options = dict(
        max_new_tokens=max_new_tokens,
        at_once=min(at_once, len(resid)),
        eot=asr.tokenizer.special.eot,
    )
    out = compiled.call(_generate, asr.model, resid, tokens, rules, **options)
    layers = tuple(range(-1 if stem else 0, asr.config.n_audio_layer))
    return EncoderLens(out.tokens, out.lengths, out.logprobs, texts(asr, out), layers)


def _generate(
    model: Whisper,
    resid: Float[Array, "L B S D"],
    prompt: Int[Array, "B T0"],
    rules: Any,
    *,
    max_new_tokens: int,
    at_once: int,
    eot: int,
) -> Generation:
    def layer(x: Float[Array, "B S D"]) -> Generation:
        memory = model.memory(model.encoder.ln_post(x))
        return generate(model, memory, prompt, max_new_tokens=max_new_tokens, rules=rules, eot=eot)

    return jax.lax.map(layer, resid, batch_size=at_once)


def texts(asr: Recogniser, out: Generation) -> list[list[str]]:
    """The text of every row of a generation with two leading axes."""
    tokens, lengths = jax.device_get((out.tokens, out.lengths))
    return [
        [asr.tokenizer.decode(row[:n]).strip() for row, n in zip(rows, ns)]
        for rows, ns in zip(tokens, lengths)
    ]
