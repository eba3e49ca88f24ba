"""Encodes recordings and generates their texts without an edit, in chunks that fit the memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from jaxtyping import Array, Float, Int

from interventions.generation.decoding_bytes import decoding_bytes
from interventions.generation.prompts import Ids
from interventions.patching.row_chunks import RowChunks, Rows, encode_rows, rows_that_fit
from interventions.patching.workload import encoder_bytes
from interventions.run import Run
from jaxasr import compiled
from jaxasr.cache import EncodedAudio, Memory, Prefix
from jaxasr.decoding import LogitFilter
from jaxasr.generate import Generation, generate
from jaxasr.meshes import DATA, axes_of_memory, place_parameters, specs_of
from jaxasr.model import SpeechModel

Mel = Float[Array, "B M F"] | Float[np.ndarray, "B M F"]
Lengths = Int[Array, "B"] | Int[np.ndarray, "B"]  # mel frames of each recording before its padding


def encode_recordings(
    model: SpeechModel, mel: Mel, mesh: Mesh | None, lengths: Lengths | None = None
) -> EncodedAudio:
    """Encodes recordings. If they need several calls, the memory is in NumPy arrays.

    So a device need not hold the memories of all recordings. `lengths` are those of an
    `interventions.Run`.
    """
    chunks = RowChunks.of(len(mel), rows_that_fit(encoder_bytes(model.config)), mesh)
    model = place_parameters(model, mesh)

    def encode(rows: Rows) -> Any:
        # The encoder reads no tokens.
        tokens = np.zeros((len(mel), 1), np.int32)
        return _encode_rows(model, tokens, mel, lengths, rows, mesh)

    if len(list(chunks)) == 1 and mesh is None:
        return encode(np.arange(len(mel)))
    # `map` joins along the first axis.
    memory = chunks.map(lambda rows: _move_rows(encode(rows), 1, 0))
    return _move_rows(memory, 0, 1)


def _move_rows(memory: EncodedAudio, source: int, destination: int) -> EncodedAudio:
    if isinstance(memory, Prefix):  # which begins with the axis of rows
        return memory
    numpy: Any = np if isinstance(memory.xa, np.ndarray) else jnp
    k, v = (numpy.moveaxis(x, source, destination) for x in (memory.k, memory.v))
    return Memory(memory.xa, k, v)


def _encode_rows(
    model: SpeechModel,
    tokens: Int[np.ndarray, "B T0"],
    mel: Mel,
    lengths: Lengths | None,
    rows: Rows,
    mesh: Mesh | None,
) -> EncodedAudio:
    run = Run(
        tokens=jnp.asarray(tokens[rows]),
        mel=jnp.asarray(mel[rows]),
        lengths=None if lengths is None else jnp.asarray(lengths[rows]),
    )
    return encode_rows(model, run, mesh)[0].encoded_memory


def generate_unedited(
    model: SpeechModel,
    audio: EncodedAudio | Mel,
    prompt: Ids,
    *,
    mesh: Mesh | None,
    recordings: int | None,
    leader: Int[Array, "B"] | None = None,
    positions: Int[np.ndarray, "B T0"] | None = None,
    lengths: Lengths | None = None,
    rules: LogitFilter | None,
    **options: Any,
) -> Generation:
    """Generates the texts of recordings, encoded or not.

    Args:
        model: the model.
        audio: the memory or the log-mel spectrograms of B recordings.
        prompt: token ids before the texts.
        mesh: devices that divide the recordings; None for one device.
        recordings: recordings that a device computes together; None for as many as fit.
        leader: as in `jaxasr.generate`. All recordings are then computed together.
        positions: positions of the prompt, or None.
        lengths: mel frames of recordings that are not encoded, as in `interventions.Run`.
        rules: constraints on the logits.
        options: further options of `jaxasr.generate`.

    Returns:
        A `Generation` of NumPy arrays.
    """
    prompt = np.asarray(prompt, np.int32)
    if leader is not None:
        assert isinstance(audio, Memory | Prefix)
        more = {"leader": leader, "positions": positions, "rules": rules}
        out = generate(model, audio, prompt, **more, **options)
        return jax.tree.map(np.asarray, out)
    n_tokens = prompt.shape[1] + options["max_new_tokens"]
    n_bytes = encoder_bytes(model.config) + decoding_bytes(model.config, n_tokens)
    chunks = RowChunks.of(len(prompt), rows_that_fit(n_bytes), mesh, recordings)
    model = place_parameters(model, mesh)

    def generate_rows(rows: Rows) -> Generation:
        if isinstance(audio, Memory | Prefix):
            memory = audio if len(rows) == len(prompt) else audio.rows(rows)
        else:
            memory = _encode_rows(model, prompt, audio, lengths, rows, mesh)
        return compiled.call_on_mesh(
            mesh,
            _generate,
            model,
            memory,
            prompt[rows],
            None if positions is None else positions[rows],
            rules,
            specs=(
                P(),
                specs_of(axes_of_memory(memory)),
                P(DATA),
                None if positions is None else P(DATA),
                P(),
            ),
            out_specs=P(DATA),
            **options,
        )

    return chunks.map(generate_rows).check_finite()


def _generate(
    model: SpeechModel,
    memory: EncodedAudio,
    prompt: Array,
    positions: Array | None,
    rules: LogitFilter | None,
    **options: Any,
) -> Generation:
    return generate(model, memory, prompt, positions=positions, rules=rules, **options)
