"""Generates text from each encoder layer with the unmodified decoder (encoder lens)."""

import textwrap

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from interventions.forward import memory_of_stream
from interventions.run import encode_mel
from jaxasr import compiled, pytrees
from jaxasr.generate import Generation, generate
from jaxasr.inputs import check_audio_tokens, check_positions, check_token_ids
from jaxasr.model import SpeechModel, full_precision
from jaxasr.recogniser import Recogniser
from jaxasr.rules import Rules, rules_for
from jaxasr.taps import Edits, merge, select
from jaxasr.tokenizer import Tokenizer


@pytrees.dataclass(repr=False)
class EncoderLens:
    """The texts that the decoder generates from every encoder layer.

    Attributes:
        tokens: int [L, B, N], the generated tokens, without the prompt.
        lengths: int [L, B], the number of tokens before end-of-text.
        logprobs: float [L, B, N], the log-probability of each token in nats.
        text: `text[l][b]`, the decoded text.
        layers: the index of the encoder layer of each entry of L. -1 is the input of the first
            layer.

    Example:
        ```python
        lens = iv.encoder_lens(asr, mel[None], max_new_tokens=8, stem=True)
        lens.layers  # (-1, 0, 1, 2, 3)
        ```
    """

    tokens: Int[Array, "L B N"]
    lengths: Int[Array, "L B"]
    logprobs: Float[Array, "L B N"]
    text: list[list[str]] = pytrees.field(pytree_node=False)
    layers: tuple[int, ...] = pytrees.field(pytree_node=False)

    def __repr__(self) -> str:
        texts = [
            f"{layer} {textwrap.shorten(rows[0], 40, placeholder=' …')!r}"
            for layer, rows in zip(self.layers, self.text)
            if rows  # without rows there is no text to show
        ]
        n_rows = len(self.text[0]) if self.text else 0
        return f"EncoderLens(rows {n_rows}; first row by layer: {', '.join(texts)})"


def encoder_lens(
    asr: Recogniser,
    mel: Float[Array, "B M F"],
    *,
    prompt: list[int] | Int[Array, "B T0"] | None = None,
    positions: Int[Array, "B T0"] | None = None,
    lengths: Int[Array, "B"] | None = None,
    max_new_tokens: int = 224,
    rules: Rules | None = None,
    edits: Edits | None = None,
    stem: bool = False,
    layers_per_batch: int = 8,
) -> EncoderLens:
    """Generates text from every encoder layer with the unmodified decoder.

    Applies the encoder's final norm to the residual stream after each layer. The decoder attends to
    the result. So the last layer gives the same text as the unmodified model. In an audio language
    model, the residual stream is also pooled and projected, in the order of its family. One
    compiled program generates from all layers.

    Args:
        asr: the recogniser.
        mel: float [B, M, F], log-mel features of B recordings from `jaxasr.log_mel`.
        prompt: token ids that precede the first generated token, of all rows or per row. Default:
            `asr.tokenizer.prompt()`. An audio language model requires a prompt with the audio
            tokens of each row, as `asr.inputs` makes it.
        positions: int [B, T0], the position of each token of the prompt. Needed only for prompts
            that are padded on the left.
        lengths: int [B], mel frames of each recording before its padding, for an audio language
            model. Default: no recording has padding.
        max_new_tokens: most tokens to generate per text.
        rules: decoding rules. The default excludes control tokens only, so that a layer can
            generate an empty text. An audio language model has no rules by default.
        edits: edits of encoder sites.
        stem: whether to generate also from the input of the first layer. Its text is then the
            first entry of L. Hugging Face counts this input as layer 0.
        layers_per_batch: number of layers that generate together. Fewer layers take less device
            memory.

    Returns:
        An `EncoderLens` of L layers.

    Raises:
        ValueError: `mel` has the wrong shape, an audio language model has no prompt, or
            `jaxasr.generate` rejects another argument.

    Example:
        ```python
        import interventions
        import jaxasr

        asr = jaxasr.load("tiny.en")
        audio = jaxasr.load_audio("experiments/assets/demo.flac")
        mel = jaxasr.log_mel(audio, asr.config.n_mels)[None]
        lens = interventions.encoder_lens(asr, mel, max_new_tokens=16)
        lens.text[-1][0]  # the text of the last layer
        ```

    References:
        Langedijk et al., "DecoderLens" (arXiv:2310.03686); applied to Whisper in "Beyond
        Transcription" (arXiv:2508.15882), section 4.6. The final norm on inner layers follows
        Diffusion Lens (arXiv:2403.05846).
    """
    model, tokenizer = asr.model, asr.tokenizer
    # `Config.eos` lists the ends of text of an audio language model.
    eot = tokenizer.special.eot if isinstance(tokenizer, Tokenizer) else None
    if isinstance(tokenizer, Tokenizer):
        prompt = tokenizer.prompt() if prompt is None else prompt
        rules = rules_for(tokenizer, suppress=(), suppress_blank=False) if rules is None else rules
    if prompt is None:
        raise ValueError("prompt: expected a prompt with audio tokens, got None. Use asr.inputs.")
    sites = ("encoder.resid_post", *(("encoder.embed",) if stem else ()))
    memory, acts = encode_mel(model, mel, lengths, edits, merge(*map(select, sites)))
    resid = acts["encoder.resid_post"]
    if stem:  # `encoder.embed` is the sum of convolutions and positions, before the first layer
        resid = jnp.concatenate([acts["encoder.embed"][None], resid])
    ids = np.asarray(prompt, np.int32)
    tokens = np.broadcast_to(ids, (resid.shape[1], ids.shape[-1]))
    check_token_ids(model.config, tokens)
    places = check_positions(model.config, tokens, positions)
    check_audio_tokens(model.config, tokens, places, memory)
    generation = compiled.call(
        _generate_layers,
        model,
        resid,
        None if lengths is None else jnp.asarray(lengths),
        (tokens, places),
        rules,
        max_new_tokens=max_new_tokens,
        layers_per_batch=min(layers_per_batch, len(resid)),
        eot=eot,
    )
    layers = tuple(range(-1 if stem else 0, asr.config.n_audio_layer))
    return EncoderLens(
        generation.tokens,
        generation.lengths,
        generation.logprobs,
        _decode_texts(asr, generation),
        layers,
    )


def _generate_layers(
    model: SpeechModel,
    resid: Float[Array, "L B S D"],
    lengths: Int[Array, "B"] | None,
    prompt: tuple[Int[Array, "B T0"], Int[Array, "B T0"]],
    rules: Rules | None,
    *,
    max_new_tokens: int,
    layers_per_batch: int,
    eot: int | None,
) -> Generation:
    tokens, positions = prompt

    def generate_layer(x: Float[Array, "B S D"]) -> Generation:
        with full_precision(model):
            memory = memory_of_stream(model, x, lengths)
        return generate(
            model,
            memory,
            tokens,
            max_new_tokens=max_new_tokens,
            rules=rules,
            positions=positions,
            eot=eot,
        )

    # `map` with a batch size limits the memories that exist at the same time.
    return jax.lax.map(generate_layer, resid, batch_size=layers_per_batch)


def _decode_texts(asr: Recogniser, generation: Generation) -> list[list[str]]:
    """Decodes tokens [L, B, N] to `texts[l][b]`, without surrounding spaces."""
    tokens, lengths = jax.device_get((generation.tokens, generation.lengths))
    return [
        [asr.tokenizer.decode(row[:length]).strip() for row, length in zip(rows, row_lengths)]
        for rows, row_lengths in zip(tokens, lengths)
    ]
