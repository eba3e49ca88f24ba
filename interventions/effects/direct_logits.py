"""Direct logit attribution: which component, head and audio frame wrote a logit (Elhage et al. 2021, the direct path).

The final norm is linear once its scale is held at the value it has in this run: logit = Σ_c (c - mean c)·rstd·γ·u + β·u, with u the
unembedding of the answer (less that of the foil) and c every vector written to the residual stream. So the parts sum to the logit.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

from interventions.forward import positions_of
from interventions.metrics import LogitDiff
from interventions.run import Run
from interventions.scored_tokens import check_tokens
from interventions.scoring import scored_position
from jaxasr import compiled
from jaxasr.config import FRAMES_PER_S
from jaxasr.model import Whisper, full_precision
from jaxasr.taps import merge, reduce, select

PARTS = ("attn_out", "attn_bias", "cross_attn_out", "cross_attn_bias", "mlp_out", "mlp_bias")
_DIMS = {
    "logit": (),
    "embed": (),
    "positional": (),
    "norm_bias": (),
    "parts": ("part", "layer"),
    "heads": ("attention", "layer", "head"),
    "frames": ("layer", "head", "time"),
}


def direct_logit_attribution(
    model: Whisper,
    run: Run,
    answer: int | Int[Array, "B"],
    foil: int | Int[Array, "B"] | None = None,
    position: int = -1,
    *,
    window_s: float | None = None,
) -> xr.Dataset:
    """Splits logit(answer) after `position`, or logit(answer) - logit(foil), by what wrote it.

    window_s: seconds of audio that `frames` sums together; None keeps single frames of 20 ms.

    Returns:
        A Dataset, with a first dimension "example" when the run has several:
        logit: what the model gives. embed, positional, norm_bias: of the token, its position, the final norm's bias.
        parts [part, layer]: `attn_out`, `cross_attn_out`, `mlp_out` without their output biases, and those biases.
        heads [attention, layer, head]: `z·W_O` of every head; over heads they sum to `attn_out` and `cross_attn_out`.
        frames [layer, head, time]: pattern·v·W_O of every frame (time: the window's start, seconds); over time they sum to the
        cross-attention's heads. A head's value bias is in its frames, as its pattern weighs them.
        embed + positional + norm_bias + Σ parts is the logit: see `total_logit`.

    Raises ValueError for a position that the tokens do not have, a token outside the vocabulary, a window below a frame.
    """
    given = {
        name: token for name, token in (("answer", answer), ("foil", foil)) if token is not None
    }
    for name, token in given.items():
        check_tokens(token, model.config.n_vocab, run.batch, name)
    tokens = [jnp.broadcast_to(jnp.asarray(token), (run.batch,)) for token in given.values()]
    window = 1 if window_s is None else round(window_s * FRAMES_PER_S)
    if window < 1:
        raise ValueError(
            f"window_s: expected at least one frame of {1 / FRAMES_PER_S} s, got {window_s}."
        )
    column = scored_position(LogitDiff(jnp.zeros(2, jnp.int32), position), jnp.shape(run.tokens)[1])
    split = compiled.call(_direct, model, run.encode(model), tokens, column=column, window=window)
    return _labelled(split, window)


def total_logit(split: xr.Dataset) -> xr.DataArray:
    """The sum of all parts, in float64: the logit again."""
    wide = split.astype(np.float64)
    return wide.embed + wide.positional + wide.norm_bias + wide.parts.sum(("part", "layer"))


def _direct(
    model: Whisper, run: Run, tokens: list[Array], *, column: int, window: int
) -> dict[str, Array]:
    seen = merge(
        select("decoder.attn.z", "decoder.cross_attn.z", "decoder.mlp_out"),
        reduce("pattern", "decoder.cross_attn.pattern", lambda pattern: pattern[:, :, column]),
    )
    decoder, positions = model.decoder, positions_of(run)
    with full_precision(model):
        x, _, _, acts = decoder.residual(run.tokens, positions, run.memory, {}, seen)
        u = _unembedding(decoder, tokens)
        logit, toward, norm_bias = _final(decoder, x[:, column], u)
        token, place = (
            table[...][index].astype(toward.dtype)
            for table, index in (
                (decoder.token_embedding, run.tokens[:, column]),
                (decoder.positional_embedding, positions[:, column]),
            )
        )
        blocks = decoder.blocks
        heads = [
            _by_head(getattr(blocks, name), acts[f"decoder.{name}.z"][:, :, column], toward)
            for name in ("attn", "cross_attn")
        ]
        frames = _by_frame(blocks.cross_attn, acts["pattern"], run.memory.v, toward)
        biases = [
            layer.bias[...].astype(toward.dtype) @ toward.T
            for layer in (blocks.attn.out, blocks.cross_attn.out, blocks.mlp.fc2)
        ]
        mlp = (
            jnp.einsum(
                "lbd,bd->lb", acts["decoder.mlp_out"][:, :, column].astype(toward.dtype), toward
            )
            - biases[2]
        )
    parts = [heads[0].sum(-1), biases[0], heads[1].sum(-1), biases[1], mlp, biases[2]]
    pad = -frames.shape[-1] % window
    return {
        "logit": logit,
        "embed": (token * toward).sum(-1),
        "positional": (place * toward).sum(-1),
        "norm_bias": norm_bias,
        "parts": jnp.moveaxis(jnp.stack(parts), 2, 0),
        "heads": jnp.moveaxis(jnp.stack(heads), 2, 0),
        "frames": jnp.moveaxis(
            jnp.pad(frames, [(0, 0)] * 3 + [(0, pad)])
            .reshape(*frames.shape[:3], -1, window)
            .sum(-1),
            1,
            0,
        ),
    }


def _unembedding(decoder: Any, tokens: list[Int[Array, "B"]]) -> Float[Array, "B D"]:
    rows = [
        decoder.unembedding[token].astype(jnp.promote_types(decoder.dtype, jnp.float32))
        for token in tokens
    ]
    return rows[0] if len(rows) == 1 else rows[0] - rows[1]


def _final(
    decoder: Any, x: Float[Array, "B D"], u: Float[Array, "B D"]
) -> tuple[Array, Float[Array, "B D"], Array]:
    """The logit; the direction in the residual stream that it reads, norm folded in; what the norm's bias adds."""
    logit = (decoder.ln(x).astype(u.dtype) * u).sum(-1)
    x = x.astype(u.dtype)
    rstd = jax.lax.rsqrt(jnp.var(x, -1, keepdims=True) + decoder.ln.epsilon)
    toward = u * decoder.ln.scale[...].astype(u.dtype) * rstd
    return logit, toward - toward.mean(-1, keepdims=True), u @ decoder.ln.bias[...].astype(u.dtype)


def _read_by(attn: Any, toward: Float[Array, "B D"]) -> Float[Array, "L B H Dh"]:
    """W_O·direction of every head."""
    kernel = attn.out.kernel[...].astype(toward.dtype)
    return jnp.einsum(
        "lhed,bd->lbhe", kernel.reshape(kernel.shape[0], attn.n_head, -1, kernel.shape[-1]), toward
    )


def _by_head(
    attn: Any, z: Float[Array, "L B H Dh"], toward: Float[Array, "B D"]
) -> Float[Array, "L B H"]:
    return (z.astype(toward.dtype) * _read_by(attn, toward)).sum(-1)


def _by_frame(
    attn: Any,
    pattern: Float[Array, "L B H S"],
    v: Float[Array, "L B H S Dh"],
    toward: Float[Array, "B D"],
) -> Float[Array, "L B H S"]:
    return pattern.astype(toward.dtype) * jnp.einsum(
        "lbhse,lbhe->lbhs", v.astype(toward.dtype), _read_by(attn, toward)
    )


def _labelled(split: Mapping[str, Array], window: int) -> xr.Dataset:
    values = {name: np.asarray(value) for name, value in split.items()}
    several = len(values["logit"]) > 1
    _, n_layer, n_head, n_windows = values["frames"].shape
    coords = {
        "part": list(PARTS),
        "attention": ["attn", "cross_attn"],
        "layer": np.arange(n_layer),
        "head": np.arange(n_head),
        "time": np.arange(n_windows) * window / FRAMES_PER_S,
    } | ({"example": np.arange(len(values["logit"]))} if several else {})
    variables = {
        name: (("example", *_DIMS[name]), value) if several else (_DIMS[name], value[0])
        for name, value in values.items()
    }
    return xr.Dataset(variables, coords, {"window_s": window / FRAMES_PER_S})
