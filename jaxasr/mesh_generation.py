"""Generates on the devices of a mesh, each of which decodes some of the rows."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from jaxtyping import Array, Float

from jaxasr import compiled
from jaxasr.cache import EncodedAudio
from jaxasr.decoding import Generation, Request, Settings
from jaxasr.inputs import check_taps
from jaxasr.meshes import (
    DATA,
    axes_of_memory,
    axis_size,
    place_parameters,
    resolve_mesh,
    size_per_device,
    specs_of,
)
from jaxasr.model import SpeechModel
from jaxasr.sampling import generate_greedily_or_sample


def generate_on_mesh(
    model: SpeechModel,
    memory: EncodedAudio,
    prompt: Any,
    settings: Settings,
    mesh: Mesh,
    temperature: float | Float[Array, ""],
    key: Array | None,
    recordings: int | None,
) -> Generation:
    """Generates as `jaxasr.generate` does, with the rows divided along "data".

    Samples of a row depend on `recordings`, but not on the number of devices.

    Returns:
        A `Generation` of NumPy arrays.
    """
    resolved = resolve_mesh(mesh)
    assert resolved is not None  # because `mesh` is one
    mesh, n_rows, n_devices = resolved, len(prompt), axis_size(resolved, DATA)
    per_device = size_per_device(n_rows, n_devices, n_rows) if recordings is None else recordings
    _check_edits(model, settings, np.shape(prompt)[1], per_device, n_rows)
    model = place_parameters(model, mesh)
    request = Request.from_arguments(model, memory, prompt, settings)
    specs = jax.tree.map(lambda _: P(), request).replace(
        prompt=P(DATA), positions=P(DATA), memory=specs_of(axes_of_memory(memory))
    )
    key = jax.random.key(0) if key is None else key

    def dispatch(start: int) -> Generation:
        # Copies of the last row pad the last chunk.
        rows = np.minimum(np.arange(start, start + per_device * n_devices), n_rows - 1)
        chunk = dataclasses.replace(
            request,
            prompt=request.prompt[rows],
            positions=request.positions[rows],
            memory=memory.rows(rows),
        )
        # One key per group of rows, so that no two devices draw the same samples.
        groups = start // per_device + np.arange(n_devices)
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(groups)
        return compiled.call_on_mesh(
            mesh,
            _generate_rows,
            model,
            chunk,
            jnp.float32(temperature),
            keys,
            specs=(P(), specs, P(), P(DATA)),
            out_specs=P(DATA),
        )

    parts, pending = [], None
    for start in range(0, n_rows, per_device * n_devices):
        # The next rows are dispatched before the last ones are read.
        dispatched = dispatch(start)
        parts += [] if pending is None else [jax.device_get(pending)]
        pending = dispatched
    parts.append(jax.device_get(pending))
    joined = jax.tree.map(lambda *x: np.concatenate(x)[:n_rows], *parts)
    return joined.check_finite()


def _generate_rows(
    model: SpeechModel, request: Request, temperature: Float[Array, ""], keys: Array
) -> Generation:
    return generate_greedily_or_sample(model, request, temperature, keys[0], None, axis_name=None)


def _check_edits(
    model: SpeechModel, settings: Settings, n_prompt: int, per_device: int, n_rows: int
) -> None:
    """Raises ValueError if an edit does not fit the rows of one device."""
    if per_device < 1:
        raise ValueError(f"recordings: expected 1 or more, got {per_device}.")
    n_tokens = n_prompt + settings.max_new_tokens
    try:
        check_taps(model.config, "decoder", settings.edits, None, per_device, n_tokens)
    except ValueError as error:
        raise ValueError(
            f"edits: do not fit a mesh, where each device decodes {per_device} of {n_rows} rows: "
            f"{error}"
        ) from error
