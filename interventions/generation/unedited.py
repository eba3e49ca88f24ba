"""Encodes recordings and generates their texts without an edit, in chunks that fit the memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from jaxtyping import Array, Float, Int

from interventions.generation.cells import Ids
from interventions.generation.decoding_bytes import decoding_bytes
from interventions.patching.row_chunks import RowChunks, Rows, encode_rows, rows_that_fit
from interventions.patching.workload import encoder_bytes
from interventions.run import Run
from jaxasr import compiled
from jaxasr.cache import Memory
from jaxasr.decoding import LogitFilter
from jaxasr.generate import Generation, generate
from jaxasr.meshes import DATA, axes_of_memory, place_parameters, specs_of
from jaxasr.model import Whisper

Mel = Float[Array, "B M F"] | Float[np.ndarray, "B M F"]


def encode_recordings(model: Whisper, mel: Mel, mesh: Mesh | None) -> Memory:
    """Encodes recordings. If they need several calls, the memory is in NumPy arrays.

    So a device need not hold the memories of all recordings.
    """
    chunks = RowChunks.of(len(mel), rows_that_fit(encoder_bytes(model.config)), mesh)
    model = place_parameters(model, mesh)

    def encode(rows: Rows) -> Any:
        # The encoder reads no tokens.
        run = Run(tokens=jnp.zeros((len(rows), 1), jnp.int32), mel=jnp.asarray(mel[rows]))
        return encode_rows(model, run, mesh)[0].encoded_memory

    if len(list(chunks)) == 1 and mesh is None:
        return encode(np.arange(len(mel)))
    # `map` joins along the first axis.
    memory = chunks.map(lambda rows: _move_rows(encode(rows), 1, 0))
    return _move_rows(memory, 0, 1)


def _move_rows(memory: Memory, source: int, destination: int) -> Memory:
    numpy: Any = np if isinstance(memory.xa, np.ndarray) else jnp
    k, v = (numpy.moveaxis(x, source, destination) for x in (memory.k, memory.v))
    return Memory(memory.xa, k, v)


def generate_unedited(
    model: Whisper,
    audio: Memory | Mel,
    prompt: Ids,
    *,
    mesh: Mesh | None,
    recordings: int | None,
    leader: Int[Array, "B"] | None = None,
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
        rules: constraints on the logits.
        options: further options of `jaxasr.generate`.

    Returns:
        A `Generation` of NumPy arrays.
    """
    prompt = np.asarray(prompt, np.int32)
    if leader is not None:
        assert isinstance(audio, Memory)
        out = generate(model, audio, prompt, leader=leader, rules=rules, **options)
        return jax.tree.map(np.asarray, out)
    n_tokens = prompt.shape[1] + options["max_new_tokens"]
    n_bytes = encoder_bytes(model.config) + decoding_bytes(model.config, n_tokens)
    chunks = RowChunks.of(len(prompt), rows_that_fit(n_bytes), mesh, recordings)
    model = place_parameters(model, mesh)

    def generate_rows(rows: Rows) -> Generation:
        if isinstance(audio, Memory):
            memory = audio if len(rows) == len(prompt) else audio.rows(rows)
        else:
            run = Run(tokens=jnp.asarray(prompt[rows]), mel=jnp.asarray(audio[rows]))
            memory = encode_rows(model, run, mesh)[0].encoded_memory
        return compiled.call_on_mesh(
            mesh,
            _generate,
            model,
            memory,
            prompt[rows],
            rules,
            specs=(P(), specs_of(axes_of_memory(memory)), P(DATA), P()),
            out_specs=P(DATA),
            **options,
        )

    return chunks.map(generate_rows).check_finite()


def _generate(
    model: Whisper, memory: Memory, prompt: Array, rules: LogitFilter | None, **options: Any
) -> Generation:
    return generate(model, memory, prompt, rules=rules, **options)
