"""Splits a logit into the direct contributions of components, heads and audio frames.

The final norm is linear if its reciprocal standard deviation rstd is fixed at its value in the run.
The logit is then Σ_c (c - mean c)·rstd·γ·u + β·u. Here c runs over all vectors that are added to
the residual stream, γ and β are the norm's scale and bias, and u is the unembedding of the answer
minus that of the foil. The terms of this sum are the contributions.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import nnx
from jax.sharding import Mesh, PartitionSpec as P
from jaxtyping import Array, Float, Int

from interventions.effects import row_bytes
from interventions.forward import positions_of
from interventions.metrics import LogitDiff
from interventions.patching import row_chunks
from interventions.patching.axes import axes_of_run
from interventions.patching.row_chunks import RowChunks, Rows, encode_rows, select_rows
from interventions.run import Run
from interventions.scored_tokens import check_tokens
from interventions.scoring import scored_position
from jaxasr import compiled
from jaxasr.attention import Attention
from jaxasr.config import FRAMES_PER_S
from jaxasr.decoder import Decoder
from jaxasr.inputs import check_mel
from jaxasr.meshes import DATA, place_parameters, resolve_mesh, specs_of
from jaxasr.model import Whisper, full_precision
from jaxasr.taps import merge, reduce, select

# The labels of "part": the output of each sublayer without its bias, and this bias.
PARTS = ("attn_out", "attn_bias", "cross_attn_out", "cross_attn_bias", "mlp_out", "mlp_bias")
# The dimensions of each variable of the result.
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
    mesh: Mesh | None = None,
    recordings: int | None = None,
) -> xr.Dataset:
    """Splits a logit, or a difference of two, into the direct contributions of all components.

    Args:
        model: the recogniser's model.
        run: audio and tokens, B examples of T tokens.
        answer: the token whose logit is split, as one id or one per example.
        foil: the token whose logit is subtracted from that of `answer`. Default: none.
        position: the token after which the logit is read. Negative values count from the end.
        window_s: seconds of audio per entry of `frames`. Default: one frame of 20 ms.
        mesh: devices that divide the rows, as in `sweep`.
        recordings: rows that a device computes together, as in `sweep`.

    Returns:
        A Dataset with the variables below. Their first dimension is "example" if B > 1.

        - `logit`: the logit, or the difference of two, that the model computes.
        - `embed`: the contribution of the token's embedding.
        - `positional`: the contribution of the positional embedding.
        - `norm_bias`: the contribution of the final norm's bias.
        - `parts` [part, layer]: the contributions of `attn_out`, `cross_attn_out` and `mlp_out`
          without their output biases. The biases are separate parts, such as `attn_bias`.
        - `heads` [attention, layer, head]: the contribution of z·W_O for every head. The sum over
          heads is `attn_out` or `cross_attn_out`.
        - `frames` [layer, head, time]: the contribution of pattern·v·W_O for every window of audio,
          labelled by its start in seconds. The sum over time is the `heads` of cross-attention.
          A head's value bias is distributed over frames by its pattern.

        `total_logit` sums the contributions.

    Raises:
        ValueError: `position` is outside the run's tokens, a token is outside the vocabulary, or
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
        Elhage et al., "A mathematical framework for transformer circuits" (2021), which calls this
        the direct path.
    """
    tokens = {"answer": answer} | ({} if foil is None else {"foil": foil})
    for name, token in tokens.items():
        check_tokens(token, model.config.n_vocab, run.batch, name)
    ids = [np.broadcast_to(np.asarray(token), (run.batch,)) for token in tokens.values()]
    window = 1 if window_s is None else round(window_s * FRAMES_PER_S)
    if window < 1:
        raise ValueError(
            f"window_s: expected at least one frame of {1 / FRAMES_PER_S} s, got {window_s}."
        )
    # `scored_position` reads only the position of a metric, so the token ids are zeros.
    metric = LogitDiff(jnp.zeros(2, jnp.int32), position)
    column = scored_position(metric, jnp.shape(run.tokens)[1])
    if run.mel is not None:
        check_mel(model.config, run.mel)
    mesh, n_bytes = resolve_mesh(mesh), row_bytes.direct_logits(model.config, column + 1)
    chunks = RowChunks.of(run.batch, row_chunks.rows_that_fit(n_bytes), mesh, recordings)
    model = place_parameters(model, mesh)

    def split_rows(rows: Rows) -> dict[str, Array]:
        encoded, _ = encode_rows(model, select_rows(run, rows), mesh)
        return compiled.call_on_mesh(
            mesh,
            _split_logit,
            model,
            encoded,
            [token[rows] for token in ids],
            specs=(P(), specs_of(axes_of_run(encoded)), P(DATA)),
            out_specs=P(DATA),
            column=column,
            window=window,
        )

    split = chunks.map(split_rows)
    return _to_dataset(split, window)


def total_logit(split: xr.Dataset) -> xr.DataArray:
    """Sums all contributions in float64. The sum equals the logit up to rounding.

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
    split = split.astype(np.float64)
    return split.embed + split.positional + split.norm_bias + split.parts.sum(("part", "layer"))


def _split_logit(
    model: Whisper, run: Run, tokens: list[Array], *, column: int, window: int
) -> dict[str, Array]:
    """Returns every variable of the Dataset. The first axis of each is the batch."""
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
        dtype = direction.dtype
        embed = decoder.token_embedding[...][run.tokens[:, column]].astype(dtype)
        positional = decoder.positional_embedding[...][positions[:, column]].astype(dtype)
        blocks = decoder.blocks
        attn_z, cross_z = (
            acts[f"decoder.{name}.z"][:, :, column] for name in ("attn", "cross_attn")
        )
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
        "frames": jnp.moveaxis(_sum_windows(frames, window), 1, 0),
    }


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
    rstd = jax.lax.rsqrt(jnp.var(x.astype(dtype), -1, keepdims=True) + decoder.ln.epsilon)
    direction = u * _weights(decoder.ln.scale, dtype) * rstd
    # (c - mean c)·d equals c·(d - mean d), so the mean is subtracted once, from the direction.
    direction = direction - direction.mean(-1, keepdims=True)
    return logit, direction, u @ _weights(decoder.ln.bias, dtype)


def _weights(parameter: nnx.Param | None, dtype: jnp.dtype) -> Array:
    assert parameter is not None  # Whisper's norms and output projections have scale and bias
    return parameter[...].astype(dtype)


def _head_directions(attn: Attention, direction: Float[Array, "B D"]) -> Float[Array, "L B H Dh"]:
    """Returns W_O·direction of every head."""
    kernel = _weights(attn.out.kernel, direction.dtype)
    kernel = kernel.reshape(kernel.shape[0], attn.n_head, -1, kernel.shape[-1])
    return jnp.einsum("lhed,bd->lbhe", kernel, direction)


def _head_contributions(
    attn: Attention, z: Float[Array, "L B H Dh"], direction: Float[Array, "B D"]
) -> Float[Array, "L B H"]:
    return (z.astype(direction.dtype) * _head_directions(attn, direction)).sum(-1)


def _frame_contributions(
    attn: Attention,
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


def _to_dataset(values: Mapping[str, np.ndarray], window: int) -> xr.Dataset:
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
