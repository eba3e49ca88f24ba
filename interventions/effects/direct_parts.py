"""Computes the direct contributions of all components to a logit, in one compiled pass."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from interventions.forward import positions_of
from interventions.run import Run
from jaxasr.attention import Attention
from jaxasr.cache import Memory, Prefix
from jaxasr.decoder import Decoder
from jaxasr.language.attention import GroupedAttention
from jaxasr.language.blocks import RmsNorm
from jaxasr.language.decoder import LanguageDecoder
from jaxasr.model import SpeechModel, full_precision
from jaxasr.taps import merge, reduce, select


def split_logit(
    model: SpeechModel, run: Run, tokens: list[Array], *, column: int, window: int
) -> dict[str, Array]:
    """Returns every variable of the Dataset. The first axis of each is the batch.

    Args:
        model: the model.
        run: an encoded run.
        tokens: ids [B] of the answer and, if there is one, of the foil.
        column: the token after which the logit is read.
        window: frames or audio tokens per entry of `frames`.
    """
    split = _split_whisper if model.config.audio_language is None else _split_language_model
    with full_precision(model):
        values = split(model, run, tokens, column)
    values["frames"] = jnp.moveaxis(_sum_windows(values["frames"], window), 1, 0)
    return values


def _split_whisper(
    model: SpeechModel, run: Run, tokens: list[Array], column: int
) -> dict[str, Array]:
    readout = merge(
        select("decoder.attn.z", "decoder.cross_attn.z", "decoder.mlp_out"),
        reduce("pattern", "decoder.cross_attn.pattern", lambda pattern: pattern[:, :, column]),
    )
    decoder, positions, memory = model.decoder, positions_of(run), run.memory
    assert isinstance(memory, Memory)
    assert not isinstance(memory.v, tuple)  # a run's memory is stacked
    x, _, _, acts = decoder.residual(run.tokens, positions, memory, {}, readout)
    logit, direction, norm_bias = _final_norm(decoder, x[:, column], tokens)
    dtype = direction.dtype
    embed = decoder.token_embedding[...][run.tokens[:, column]].astype(dtype)
    positional = decoder.positional_embedding[...][positions[:, column]].astype(dtype)
    blocks = decoder.blocks
    attn_z, cross_z = (acts[f"decoder.{name}.z"][:, :, column] for name in ("attn", "cross_attn"))
    heads = [
        _head_contributions(blocks.attn, attn_z, direction),
        _head_contributions(blocks.cross_attn, cross_z, direction),
    ]
    frames = _frame_contributions(blocks.cross_attn, acts["pattern"], memory.v, direction)
    attn_bias, cross_bias, mlp_bias = (
        _weights(linear.bias, dtype) @ direction.T
        for linear in (blocks.attn.out, blocks.cross_attn.out, blocks.mlp.fc2)
    )
    mlp_out = acts["decoder.mlp_out"][:, :, column].astype(dtype)
    mlp = jnp.einsum("lbd,bd->lb", mlp_out, direction) - mlp_bias
    # [L, B] per part and [L, B, H] per attention. `moveaxis` puts the batch first.
    parts = [heads[0].sum(-1), attn_bias, heads[1].sum(-1), cross_bias, mlp, mlp_bias]
    return {
        "logit": logit,
        "embed": (embed * direction).sum(-1),
        "positional": (positional * direction).sum(-1),
        "norm_bias": norm_bias,
        "parts": jnp.moveaxis(jnp.stack(parts), 2, 0),
        "heads": jnp.moveaxis(jnp.stack(heads), 2, 0),
        "frames": frames,
    }


def _split_language_model(
    model: SpeechModel, run: Run, tokens: list[Array], column: int
) -> dict[str, Array]:
    readout = merge(
        select("decoder.attn.z", "decoder.attn.v", "decoder.mlp_out"),
        reduce("pattern", "decoder.attn.pattern", lambda pattern: pattern[:, :, column]),
    )
    decoder, positions, memory = model.decoder, positions_of(run), run.memory
    assert isinstance(decoder, LanguageDecoder)
    assert isinstance(memory, Prefix)
    x, _, tap, acts = decoder.residual(run.tokens, positions, memory, {}, readout)
    logit, direction, _ = _final_norm(decoder, x[:, column], tokens)
    dtype, attn = direction.dtype, decoder.blocks.attn
    embed = tap.acts["decoder.embed"][:, column].astype(dtype)
    heads = _head_contributions(attn, acts["decoder.attn.z"][:, :, column], direction)
    # Several query heads read one head of values.
    v = jnp.repeat(acts["decoder.attn.v"], attn.n_head // attn.n_kv_head, axis=3)
    v = jnp.swapaxes(v, 2, 3)  # [L, B, H, S, Dh], as in a memory
    keys = _frame_contributions(attn, acts["pattern"], v, direction)
    frames, is_audio = _keys_of_audio(decoder.frames(run.tokens, positions, memory), memory)
    frames = jnp.where(is_audio, jnp.take_along_axis(keys, frames[None, :, None], -1), 0)
    mlp_out = acts["decoder.mlp_out"][:, :, column].astype(dtype)
    mlp = jnp.einsum("lbd,bd->lb", mlp_out, direction)
    return {
        "logit": logit,
        "embed": (embed * direction).sum(-1),
        "parts": jnp.moveaxis(jnp.stack([heads.sum(-1), mlp]), 2, 0),
        "heads": jnp.moveaxis(heads[None], 2, 0),
        "frames": frames,
        "text": jnp.moveaxis(keys.sum(-1) - frames.sum(-1), 1, 0),
    }


def _keys_of_audio(
    frames: Int[Array, "B T"], memory: Prefix
) -> tuple[Int[Array, "B A"], Bool[Array, "B 1 A"]]:
    """Returns the index of the key of each audio token, and whether a row has this token."""
    ranks = jnp.arange(memory.xa.shape[1])
    keys = jnp.argmax(frames[:, None, :] == ranks[:, None], axis=-1)
    return keys, (ranks < memory.lengths[:, None])[:, None]


def _final_norm(
    decoder: Decoder, x: Float[Array, "B D"], tokens: list[Int[Array, "B"]]
) -> tuple[Float[Array, "B"], Float[Array, "B D"], Float[Array, "B"]]:
    """Applies the final norm to `x` and unembeds it.

    Returns:
        The logit, the direction, and the contribution of the norm's bias. The contribution of a
        vector of the residual stream is its dot product with the direction.
    """
    dtype = jnp.promote_types(decoder.dtype, jnp.float32)
    vectors = [decoder.unembedding[token].astype(dtype) for token in tokens]
    u = vectors[0] if len(vectors) == 1 else vectors[0] - vectors[1]
    logit = (decoder.ln(x).astype(dtype) * u).sum(-1)
    wide = x.astype(dtype)
    is_centred = not isinstance(decoder.ln, RmsNorm)
    power = jnp.var(wide, -1, keepdims=True) if is_centred else jnp.square(wide).mean(-1)[:, None]
    rstd = jax.lax.rsqrt(power + decoder.ln.epsilon)
    direction = u * _weights(decoder.ln.scale, dtype) * rstd
    if not is_centred:  # an RMSNorm has no bias
        return logit, direction, jnp.zeros_like(logit)
    # (c - mean c)·d equals c·(d - mean d), so the mean is subtracted once, from the direction.
    direction = direction - direction.mean(-1, keepdims=True)
    return logit, direction, u @ _weights(decoder.ln.bias, dtype)


def _weights(parameter: nnx.Param | None, dtype: jnp.dtype) -> Array:
    assert parameter is not None  # the callers read only parameters that their family has
    return parameter[...].astype(dtype)


def _head_directions(
    attn: Attention | GroupedAttention, direction: Float[Array, "B D"]
) -> Float[Array, "L B H Dh"]:
    """Returns W_O·direction of every head."""
    kernel = _weights(attn.out.kernel, direction.dtype)
    kernel = kernel.reshape(kernel.shape[0], attn.n_head, -1, kernel.shape[-1])
    return jnp.einsum("lhed,bd->lbhe", kernel, direction)


def _head_contributions(
    attn: Attention | GroupedAttention, z: Float[Array, "L B H Dh"], direction: Float[Array, "B D"]
) -> Float[Array, "L B H"]:
    return (z.astype(direction.dtype) * _head_directions(attn, direction)).sum(-1)


def _frame_contributions(
    attn: Attention | GroupedAttention,
    pattern: Float[Array, "L B H S"],
    v: Float[Array, "L B H S Dh"],
    direction: Float[Array, "B D"],
) -> Float[Array, "L B H S"]:
    v = v.astype(direction.dtype)
    values = jnp.einsum("lbhse,lbhe->lbhs", v, _head_directions(attn, direction))
    return pattern.astype(direction.dtype) * values


def _sum_windows(frames: Float[Array, "L B H S"], window: int) -> Float[Array, "L B H W"]:
    # `-n % window` zeros fill the last window.
    padded = jnp.pad(frames, [(0, 0)] * 3 + [(0, -frames.shape[-1] % window)])
    return padded.reshape(*frames.shape[:3], -1, window).sum(-1)
