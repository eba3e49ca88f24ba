"""Splits a logit into the direct contributions of components, heads and audio frames.

The final norm is linear if its reciprocal standard deviation rstd is fixed at its value in the run.
The logit is then Σ_c (c - mean c)·rstd·γ·u + β·u. Here c runs over all vectors that are added to
the residual stream, γ and β are the norm's scale and bias, and u is the unembedding of the answer
minus that of the foil. The terms of this sum are the contributions. An RMSNorm subtracts no mean
and has no β.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.sharding import Mesh, PartitionSpec as P
from jaxtyping import Array, Int

from interventions.effects import row_bytes
from interventions.effects.direct_parts import split_logit
from interventions.metrics import LogitDiff
from interventions.patching import row_chunks
from interventions.patching.axes import axes_of_run
from interventions.patching.row_chunks import RowChunks, Rows, encode_rows, select_rows
from interventions.run import Run
from interventions.run_checks import check_run
from interventions.scored_tokens import check_tokens
from interventions.scoring import scored_position
from jaxasr import compiled
from jaxasr.config import FRAMES_PER_S
from jaxasr.meshes import DATA, place_parameters, resolve_mesh, specs_of
from jaxasr.model import SpeechModel

# The labels of "part": the output of each sublayer without its bias, and this bias. A language
# model has no biases and no cross-attention.
PARTS = ("attn_out", "attn_bias", "cross_attn_out", "cross_attn_bias", "mlp_out", "mlp_bias")
LANGUAGE_MODEL_PARTS = ("attn_out", "mlp_out")
# The dimensions of each variable of the result.
_DIMS = {
    "logit": (),
    "embed": (),
    "positional": (),
    "norm_bias": (),
    "parts": ("part", "layer"),
    "heads": ("attention", "layer", "head"),
    "frames": ("layer", "head", "time"),
    "text": ("layer", "head"),
}


def direct_logit_attribution(
    model: SpeechModel,
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
        window_s: seconds of audio per entry of `frames`. Default: one frame of 20 ms, or one audio
            token.
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

        An audio language model has the parts `attn_out` and `mlp_out` only. Its `frames` are those
        of self-attention to audio tokens, and `text` [layer, head] is the rest of `heads`: the
        contribution of all other tokens. It has no `positional` and no `norm_bias`.

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
    family = model.config.audio_language
    n_frames = 1 if family is None else family.frames_per_token  # encoder frames per step
    window = 1 if window_s is None else round(window_s * FRAMES_PER_S / n_frames)
    if window < 1:
        raise ValueError(
            f"window_s: expected at least one frame of {n_frames / FRAMES_PER_S} s, got {window_s}."
        )
    # `scored_position` reads only the position of a metric, so the token ids are zeros.
    metric = LogitDiff(jnp.zeros(2, jnp.int32), position)
    column = scored_position(metric, jnp.shape(run.tokens)[1])
    check_run(model.config, run, "run")
    mesh, n_bytes = resolve_mesh(mesh), row_bytes.direct_logits(model.config, column + 1)
    chunks = RowChunks.of(run.batch, row_chunks.rows_that_fit(n_bytes), mesh, recordings)
    model = place_parameters(model, mesh)

    def split_rows(rows: Rows) -> dict[str, Array]:
        encoded, _ = encode_rows(model, select_rows(run, rows), mesh)
        return compiled.call_on_mesh(
            mesh,
            split_logit,
            model,
            encoded,
            [token[rows] for token in ids],
            specs=(P(), specs_of(axes_of_run(encoded)), P(DATA)),
            out_specs=P(DATA),
            column=column,
            window=window,
        )

    split = chunks.map(split_rows)
    return _to_dataset(split, window * n_frames)


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
    outside = [split[name] for name in ("embed", "positional", "norm_bias") if name in split]
    return sum(outside, start=0) + split.parts.sum(("part", "layer"))


def _to_dataset(values: Mapping[str, np.ndarray], window: int) -> xr.Dataset:
    n_examples = len(values["logit"])
    _, n_layer, n_head, n_windows = values["frames"].shape
    has_cross_attention = "text" not in values
    coords = {
        "part": list(PARTS if has_cross_attention else LANGUAGE_MODEL_PARTS),
        "attention": ["attn", "cross_attn"] if has_cross_attention else ["attn"],
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
