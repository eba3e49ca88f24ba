"""Direct logit attribution: the contribution of each component, head and audio frame to a logit.

The final norm is linear once its scale is held at its value in this run. A logit is then
Σ_c (c - mean c)·rstd·γ·u + β·u, where c runs over every vector added to the residual stream and u
is the unembedding of the answer, minus that of the foil. So the parts sum to the logit.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import nnx
from jaxtyping import Array, Float, Int

from interventions.forward import positions_of
from interventions.metrics import LogitDiff
from interventions.run import Run
from interventions.scored_tokens import check_tokens
from interventions.scoring import scored_position
from jaxasr import compiled
from jaxasr.attention import Attention
from jaxasr.config import FRAMES_PER_S
from jaxasr.decoder import Decoder
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
    """Splits a logit, or a difference of two, into the direct contributions of all components.

    Args:
        model: the recogniser's model.
        run: audio and tokens, B examples of T tokens.
        answer: the token whose logit is split; one id, or one per example.
        foil: a token whose logit is subtracted; default: none.
        position: the token after which the logit is read; negative counts from the end.
        window_s: seconds of audio per entry of `frames`; default: one frame of 20 ms.

    Returns:
        A Dataset with these variables, and a first dimension "example" if there are several:

        - `logit`: the model's own value.
        - `embed`, `positional`, `norm_bias`: of the token, of its position, of the final norm.
        - `parts` [part, layer]: `attn_out`, `cross_attn_out` and `mlp_out` without their output
          biases, and these biases. Use `total_logit` to sum everything.
        - `heads` [attention, layer, head]: z·W_O of every head. Over heads they sum to `attn_out`
          and `cross_attn_out`.
        - `frames` [layer, head, time]: pattern·v·W_O of every window of audio, by its start in
          seconds. Over time they sum to the cross-attention's `heads`. The bias of a head's values
          is distributed over frames by its pattern.

    Raises:
        ValueError: `position` is outside the tokens, a token is outside the vocabulary, or
            `window_s` is shorter than a frame.

    Example:
        ```python
        import jax.numpy as jnp

        import interventions
        import jaxasr

        asr = jaxasr.load("tiny.en")
        audio = jaxasr.load_audio("experiments/assets/demo.flac")
        mel = jaxasr.log_mel(audio, asr.config.n_mels)[None]
        text = asr.tokenizer.encode(" The captain read the old")
        tokens = jnp.array([[*asr.tokenizer.prompt(), *text]])
        letter = asr.tokenizer.encode(" letter")[0]
        run = interventions.Run(mel=mel, tokens=tokens)
        split = interventions.direct_logit_attribution(asr.model, run, letter, window_s=0.5)
        assert abs(interventions.total_logit(split) - split.logit) < 1e-3
        split.frames.sum(("layer", "head"))  # the contribution of each half second of audio
        ```

    References:
        Elhage et al., "A mathematical framework for transformer circuits" (2021), the direct path.
    """
    tokens = {"answer": answer} | ({} if foil is None else {"foil": foil})
    for name, token in tokens.items():
        check_tokens(token, model.config.n_vocab, run.batch, name)
    ids = [jnp.broadcast_to(jnp.asarray(token), (run.batch,)) for token in tokens.values()]
    window = 1 if window_s is None else round(window_s * FRAMES_PER_S)
    if window < 1:
        raise ValueError(
            f"window_s: expected at least one frame of {1 / FRAMES_PER_S} s, got {window_s}."
        )
    column = scored_position(LogitDiff(jnp.zeros(2, jnp.int32), position), jnp.shape(run.tokens)[1])
    split = compiled.call(_split, model, run.encode(model), ids, column=column, window=window)
    return _labelled(split, window)


def total_logit(split: xr.Dataset) -> xr.DataArray:
    """Sums all contributions in float64, which gives the logit again.

    Args:
        split: a result of `direct_logit_attribution`.

    Returns:
        The sum, with a dimension "example" if `split` has one.

    Example:
        ```python
        import numpy as np

        import interventions
        import jaxasr

        asr = jaxasr.load("tiny.en")
        audio = jaxasr.load_audio("experiments/assets/demo.flac")
        mel = jaxasr.log_mel(audio, asr.config.n_mels)[None]
        run = interventions.Run(mel=mel, tokens=np.array([asr.tokenizer.prompt()]))
        the = asr.tokenizer.encode(" The")[0]
        split = interventions.direct_logit_attribution(asr.model, run, the)
        np.testing.assert_allclose(interventions.total_logit(split), split.logit, atol=1e-3)
        ```
    """
    wide = split.astype(np.float64)
    return wide.embed + wide.positional + wide.norm_bias + wide.parts.sum(("part", "layer"))


def _split(
    model: Whisper, run: Run, tokens: list[Array], *, column: int, window: int
) -> dict[str, Array]:
    readout = merge(
        select("decoder.attn.z", "decoder.cross_attn.z", "decoder.mlp_out"),
        reduce("pattern", "decoder.cross_attn.pattern", lambda pattern: pattern[:, :, column]),
    )
    decoder, positions, memory = model.decoder, positions_of(run), run.memory
    assert memory is not None
    assert not isinstance(memory.v, tuple)  # a run's memory is stacked
    with full_precision(model):
        x, _, _, acts = decoder.residual(run.tokens, positions, memory, {}, readout)
        logit, direction, norm_bias = _final_norm(decoder, x[:, column], tokens)
        wide = direction.dtype
        embed = decoder.token_embedding[...][run.tokens[:, column]].astype(wide)
        positional = decoder.positional_embedding[...][positions[:, column]].astype(wide)
        blocks = decoder.blocks
        attn_z, cross_z = (
            acts[f"decoder.{name}.z"][:, :, column] for name in ("attn", "cross_attn")
        )
        heads = [
            _per_head(blocks.attn, attn_z, direction),
            _per_head(blocks.cross_attn, cross_z, direction),
        ]
        frames = _per_frame(blocks.cross_attn, acts["pattern"], memory.v, direction)
        attn_bias, cross_bias, mlp_bias = (
            _read(linear.bias, wide) @ direction.T
            for linear in (blocks.attn.out, blocks.cross_attn.out, blocks.mlp.fc2)
        )
        mlp_out = acts["decoder.mlp_out"][:, :, column].astype(wide)
        mlp = jnp.einsum("lbd,bd->lb", mlp_out, direction) - mlp_bias
    parts = [heads[0].sum(-1), attn_bias, heads[1].sum(-1), cross_bias, mlp, mlp_bias]
    return {
        "logit": logit,
        "embed": (embed * direction).sum(-1),
        "positional": (positional * direction).sum(-1),
        "norm_bias": norm_bias,
        "parts": jnp.moveaxis(jnp.stack(parts), 2, 0),
        "heads": jnp.moveaxis(jnp.stack(heads), 2, 0),
        "frames": jnp.moveaxis(_sum_windows(frames, window), 1, 0),
    }


def _final_norm(
    decoder: Decoder, x: Float[Array, "B D"], tokens: list[Int[Array, "B"]]
) -> tuple[Float[Array, "B"], Float[Array, "B D"], Float[Array, "B"]]:
    """Returns the logit, the direction of the residual stream it reads, and the bias's part."""
    wide = jnp.promote_types(decoder.dtype, jnp.float32)
    vectors = [decoder.unembedding[token].astype(wide) for token in tokens]
    u = vectors[0] if len(vectors) == 1 else vectors[0] - vectors[1]
    logit = (decoder.ln(x).astype(wide) * u).sum(-1)
    rstd = jax.lax.rsqrt(jnp.var(x.astype(wide), -1, keepdims=True) + decoder.ln.epsilon)
    direction = u * _read(decoder.ln.scale, wide) * rstd
    # The norm subtracts the mean of each vector; subtracting it from the direction is the same.
    direction = direction - direction.mean(-1, keepdims=True)
    return logit, direction, u @ _read(decoder.ln.bias, wide)


def _read(parameter: nnx.Param | None, dtype: jnp.dtype) -> Array:
    assert parameter is not None  # Whisper's norms and output projections have scale and bias
    return parameter[...].astype(dtype)


def _head_directions(attn: Attention, direction: Float[Array, "B D"]) -> Float[Array, "L B H Dh"]:
    """Returns W_O·direction of every head."""
    kernel = _read(attn.out.kernel, direction.dtype)
    kernel = kernel.reshape(kernel.shape[0], attn.n_head, -1, kernel.shape[-1])
    return jnp.einsum("lhed,bd->lbhe", kernel, direction)


def _per_head(
    attn: Attention, z: Float[Array, "L B H Dh"], direction: Float[Array, "B D"]
) -> Float[Array, "L B H"]:
    return (z.astype(direction.dtype) * _head_directions(attn, direction)).sum(-1)


def _per_frame(
    attn: Attention,
    pattern: Float[Array, "L B H S"],
    v: Float[Array, "L B H S Dh"],
    direction: Float[Array, "B D"],
) -> Float[Array, "L B H S"]:
    v = v.astype(direction.dtype)
    values = jnp.einsum("lbhse,lbhe->lbhs", v, _head_directions(attn, direction))
    return pattern.astype(direction.dtype) * values


def _sum_windows(frames: Float[Array, "L B H S"], window: int) -> Float[Array, "L B H W"]:
    padded = jnp.pad(frames, [(0, 0)] * 3 + [(0, -frames.shape[-1] % window)])
    return padded.reshape(*frames.shape[:3], -1, window).sum(-1)


def _labelled(split: Mapping[str, Array], window: int) -> xr.Dataset:
    values = {name: np.asarray(value) for name, value in split.items()}
    n_examples = len(values["logit"])
    _, n_layer, n_head, n_windows = values["frames"].shape
    coords = {
        "part": list(PARTS),
        "attention": ["attn", "cross_attn"],
        "layer": np.arange(n_layer),
        "head": np.arange(n_head),
        "time": np.arange(n_windows) * window / FRAMES_PER_S,
    }
    attrs = {"window_s": window / FRAMES_PER_S}
    if n_examples == 1:
        variables = {name: (_DIMS[name], value[0]) for name, value in values.items()}
        return xr.Dataset(variables, coords, attrs)
    variables = {name: (("example", *_DIMS[name]), value) for name, value in values.items()}
    return xr.Dataset(variables, coords | {"example": np.arange(n_examples)}, attrs)
