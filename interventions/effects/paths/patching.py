"""Measures the effect of one component on another along single edges (path patching)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.sharding import Mesh, PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from interventions import forward
from interventions.effects.paths.components import (
    Node,
    Receiver,
    as_group,
    check_components,
    layer_order,
)
from interventions.effects.paths.path_batches import bytes_of_row, path_batches
from interventions.effects.paths.stream_edits import path_edits
from interventions.effects.paths.target_audio import (
    TargetAudio,
    change_of_embeddings,
    join_memories,
    memory_of,
)
from interventions.metrics import Metric
from interventions.patching.axes import axes_of_run
from interventions.patching.row_chunks import (
    RowChunks,
    Rows,
    encode_rows,
    rows_that_fit,
    select_rows,
)
from interventions.run import Run
from interventions.run_checks import check_run
from interventions.scoring import StackedMetric, check_metric, scored_position, unembed_scored
from jaxasr import compiled, sites
from jaxasr.cache import EncodedAudio
from jaxasr.meshes import CELLS, DATA, axis_size, place_parameters, resolve_mesh, specs_of
from jaxasr.model import SpeechModel, full_precision
from jaxasr.taps import NOTHING, Edits


def path_patch(
    model: SpeechModel,
    target: Run,
    source: Run,
    *,
    senders: Sequence[Node],
    receivers: Sequence[Receiver],
    metric: Metric,
    positions: Sequence[int] | None = None,
    mesh: Mesh | None = None,
    recordings: int | None = None,
) -> xr.DataArray:
    """Computes the metric after patching each path from a sender to a receiver.

    Every component reads the residual stream. On a patched path, the receiver reads a copy of the
    stream that has the sender's output of `source`. All other components read the target's stream,
    to which the receiver adds its changed output. With `paths.all_receivers` as one receiver,
    the result equals patching the sender itself.

    Args:
        model: the recogniser's model.
        target: the run that is patched, B examples.
        source: a run of as many tokens as `target`, from which the sender's output is taken.
        senders: heads (`z`), attentions, MLPs or embeddings, at the sites in `paths.SENDERS`.
        receivers: queries, keys or values of a head, MLPs or the logits, at the sites in
            `paths.RECEIVERS`. A sequence of nodes is one receiver whose nodes are patched together.
            In Whisper, encoder senders reach the decoder only through `decoder.cross_attn.k` and
            `decoder.cross_attn.v`. In an audio language model they change the embeddings of audio
            tokens, which all receivers of the decoder read. There `decoder.mlp.pre` is the gate of
            an MLP, and `decoder.mlp.up` its other input.
        metric: as in `sweep`.
        positions: positions at which the sender is patched: tokens in the decoder, frames of 20 ms
            in the encoder. Default: all.
        mesh: devices that divide the rows and the paths, as in `sweep`.
        recordings: rows that a device computes together, as in `sweep`.

    Returns:
        A DataArray [sender, receiver] of metrics; its first dimension is "example" if B > 1. The
        unpatched metric is the coordinate `baseline`. If a receiver precedes its sender, the metric
        is the baseline.

    Raises:
        ValueError: a sender or receiver is not a component of the model, the runs differ in length,
            or a token of the metric is outside the vocabulary.

    Example:
        ```python
        import jax.numpy as jnp

        import interventions as iv
        import jaxasr
        from interventions.corruptions import noise

        asr = jaxasr.load("tiny.en")
        audio = jaxasr.load_audio("experiments/assets/demo.flac")
        text = asr.tokenizer.encode(" The captain read the old")
        tokens = jnp.array([[*asr.tokenizer.prompt(), *text]])
        mels = [jaxasr.log_mel(x, asr.config.n_mels)[None] for x in (audio, noise(audio, 0.0))]
        clean, noisy = (iv.Run(mel=mel, tokens=tokens).encode(asr.model) for mel in mels)
        senders = [iv.Node("decoder.cross_attn.z", 1, head) for head in range(2)]
        receivers = [iv.Node("decoder.mlp.pre", 3), iv.Node("decoder.logits")]
        metric = iv.logprob(asr.tokenizer.encode(" letter")[0])
        effects = iv.path_patch(
            asr.model, noisy, clean, senders=senders, receivers=receivers, metric=metric
        )
        effects - effects.baseline  # [sender, receiver]
        ```

    References:
        Wang et al., "Interpretability in the wild" (arXiv:2211.00593); Goldowsky-Dill et al.,
        "Localizing model behavior with path patching" (arXiv:2304.05969).
    """
    for name, run in (("target", target), ("source", source)):
        check_run(model.config, run, name)
    if jnp.shape(source.tokens) != jnp.shape(target.tokens):
        raise ValueError(
            f"source: tokens {list(jnp.shape(source.tokens))} do not line up with the target's "
            f"{list(jnp.shape(target.tokens))}. Give both runs the same number of tokens."
        )
    check_components(model.config, senders, receivers)
    check_metric(metric, model.config.n_vocab, target.batch)
    groups = [as_group(receiver) for receiver in receivers]
    mesh = resolve_mesh(mesh)
    batches = path_batches(model.config, senders, groups, axis_size(mesh, CELLS))
    max_rows = rows_that_fit(bytes_of_row(model.config, target, source, batches))
    chunks = RowChunks.of(target.batch, max_rows, mesh, recordings)
    model = place_parameters(model, mesh)
    patched_positions = None if positions is None else np.asarray(positions, np.int32)

    def patch_rows(rows: Rows) -> tuple[Array, list[Array]]:
        runs = [encode_rows(model, select_rows(run, rows), mesh)[0] for run in (target, source)]
        run_specs = [specs_of(axes_of_run(run)) for run in runs]
        stacked = StackedMetric.of(metric, rows)
        baseline = compiled.call_on_mesh(
            mesh,
            _score_unpatched,
            model,
            runs[0],
            stacked,
            specs=(P(), run_specs[0], P(DATA)),
            out_specs=P(DATA),
        )
        patched = [
            compiled.call_on_mesh(
                mesh,
                _patch_paths,
                model,
                *runs,
                batch.layer_heads,
                batch.masks,
                batch.pairs,
                patched_positions,
                stacked,
                specs=(P(), *run_specs, P(), P(), P(CELLS), P(), P(DATA)),
                out_specs=P(DATA, CELLS),
                site=batch.site,
                pairs_per_batch=batch.pairs_per_batch,
            )
            for batch in batches
        ]
        return baseline, patched

    baseline, patched = chunks.map(patch_rows)
    values = np.zeros((target.batch, len(senders), len(groups)))
    for batch, of_batch in zip(batches, patched):
        # The copies that pad the last pairs are cut off.
        cells = of_batch[:, : len(batch.rows) * len(batch.columns)]
        shape = (len(cells), len(batch.rows), len(batch.columns))
        values[np.ix_(range(len(cells)), batch.rows, batch.columns)] = cells.reshape(shape)
    return _to_array(values, baseline, senders, groups, metric)


def _score_unpatched(model: SpeechModel, target: Run, metric: StackedMetric) -> Float[Array, "B"]:
    memory = memory_of(model, target)
    with full_precision(model):
        return forward.decode_and_score(model, target, memory, {}, NOTHING, metric)[0]


def _patch_paths(
    model: SpeechModel,
    target: Run,
    source: Run,
    layer_heads: Int[Array, "n two"],
    masks: dict[str, Bool[Array, "R ..."]],
    pairs: Int[Array, "N two"],
    positions: Int[Array, "P"] | None,
    metric: StackedMetric,
    *,
    site: str,
    pairs_per_batch: int,
) -> Float[Array, "B N"]:
    """Patches N paths from senders of `site` to receivers and scores each.

    Args:
        model: the model.
        target: the run that is patched.
        source: the run from which the senders' outputs are taken.
        layer_heads: layer and head of each sender.
        masks: for each site, the layers and heads of each receiver.
        pairs: index of the sender and of the receiver of each path.
        positions: positions at which the senders are patched, or None for all.
        metric: the metric.
        site: the site of all senders.
        pairs_per_batch: paths that are computed together. It divides N.
    """
    stack = sites.stack_of(site)
    with full_precision(model):
        source_acts, target_acts = (
            forward.activations(model, run, [site])[site] for run in (source, target)
        )
        difference = source_acts - target_acts
        reruns_encoder = any(name.startswith("encoder.") for name in masks)
        audio = TargetAudio.of(model, target, stack, reruns_encoder)

        def score_pair(pair: Int[Array, "two"]) -> Float[Array, "B"]:
            sender, receiver = pair
            mask = {name: group_masks[receiver] for name, group_masks in masks.items()}
            delta, sender_stage = _sender_delta(
                model, site, difference, layer_heads[sender], positions
            )
            if stack == "encoder":
                memory = audio.patched_memory(model, delta, sender_stage, mask)
                delta, sender_stage = change_of_embeddings(model, target, memory), jnp.int32(-1)
            else:
                memory = join_memories(audio.memory, audio.memory)
            order = layer_order(model.config, "decoder")
            edits = path_edits("decoder", order, delta, sender_stage, mask)
            return _score_first_half(model, target, memory, edits, metric)

        return jax.lax.map(score_pair, pairs, batch_size=pairs_per_batch).T


def _sender_delta(
    model: SpeechModel,
    site: str,
    difference: Float[Array, "..."],
    layer_head: Int[Array, "two"],
    positions: Int[Array, "P"] | None,
) -> tuple[Float[Array, "B T D"], Int[Array, ""]]:
    """Returns the change of the sender's output, and the stage at which the sender adds it."""
    layer, head = layer_head
    stack, name = site.split(".", 1)
    delta = difference if name == "embed" else difference[layer]
    if name.endswith(".z"):
        attn = getattr(getattr(model, stack).blocks, name.removesuffix(".z"))
        # Heads share one projection W_O. Each head adds its rows of it to the stream.
        kernel = attn.out.kernel[...][layer].astype(delta.dtype)
        kernel = kernel.reshape(attn.n_head, delta.shape[-1], -1)
        is_sender = (jnp.arange(attn.n_head) == head) | (head < 0)
        delta = jnp.einsum("bthe,hed->btd", jnp.where(is_sender[:, None], delta, 0), kernel)
    if positions is not None:
        is_patched = (jnp.arange(delta.shape[1])[:, None] == positions).any(-1)
        delta = jnp.where(is_patched[:, None], delta, 0)
    if name == "embed":
        return delta, jnp.int32(-1)  # before all layers
    order = layer_order(model.config, stack)
    return delta, order.n_stages * layer + order.stage_of_sender[name]


def _score_first_half(
    model: SpeechModel, target: Run, memory: EncodedAudio, edits: Edits, metric: StackedMetric
) -> Float[Array, "B"]:
    """Decodes the doubled batch (see `stream_edits`) and scores its first half, the patched run."""
    tokens = jnp.concatenate([target.tokens] * 2)
    positions = jnp.concatenate([forward.positions_of(target)] * 2)
    x, _, tap, _ = model.decoder.residual(tokens, positions, memory, edits, NOTHING)
    column = scored_position(metric, tokens.shape[1])
    x = tap("ln", model.decoder.ln(x))[: len(x) // 2, column]
    return metric(unembed_scored(model.decoder.unembedding, x, metric))


def _to_array(
    values: Float[np.ndarray, "B n R"],
    baseline: Float[np.ndarray, "B"],
    senders: Sequence[Node],
    groups: list[tuple[Node, ...]],
    metric: Metric,
) -> xr.DataArray:
    labels = {
        "sender": [str(node) for node in senders],
        "receiver": [_group_name(group) for group in groups],
    }
    dims, attrs = ("sender", "receiver"), {"metric": type(metric).__name__}
    if len(values) == 1:
        return xr.DataArray(values[0], labels | {"baseline": baseline[0]}, dims, "paths", attrs)
    coords = labels | {"example": np.arange(len(values)), "baseline": ("example", baseline)}
    return xr.DataArray(values, coords, ("example", *dims), "paths", attrs)


def _group_name(group: tuple[Node, ...]) -> str:
    return str(group[0]) if len(group) == 1 else f"{group[0]} and {len(group) - 1} more"
