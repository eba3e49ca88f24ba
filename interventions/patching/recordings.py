"""Holds recordings with the unedited activations that their cells share.

All arrays of several recordings are computed together. On a mesh every device holds the recordings
of its place along the axis "data".
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.edits.values import Mix, Patch
from interventions.patching.resumed_decoder import UneditedTrace
from interventions.patching.resumed_encoder import Residuals
from interventions.scoring import StackedMetric
from jaxasr import pytrees
from jaxasr.cache import EncodedAudio
from jaxasr.meshes import axes_of_memory
from jaxasr.taps import Edit


@pytrees.dataclass
class Recordings:
    """R recordings, with everything that their cells share.

    Attributes:
        tokens: int32 [R, T].
        memory: the encoded audio, stacked; None if cells encode it.
        audio_kv: unstacked keys and values of the audio, per layer; None if layers are scanned.
        mel: [R, M, F] log-mel spectrograms, if encoder cells are whole passes.
        lengths: [R], mel frames of each recording before its padding, if cells encode; None: no
            padding, or the model has no lengths.
        trace: unedited activations that decoder cells resume from, if they resume.
        residuals: unedited residuals that encoder cells resume from, if they resume.
        values: patched-in activations, [L, R, ...] or [R, ...]; None if the edit needs none.
        metric: the metric of every recording.
        recording_axis_of_values: the axis of `values` along which the recordings lie.
    """

    tokens: Int[Array, "R T"]
    memory: EncodedAudio | None
    audio_kv: tuple[tuple[Array, Array], ...] | None
    mel: Float[Array, "R M F"] | None
    lengths: Int[Array, "R"] | None
    trace: UneditedTrace | None
    residuals: Residuals | None
    values: Array | None
    metric: StackedMetric
    recording_axis_of_values: int = pytrees.field(pytree_node=False, default=0)

    def axes(self) -> "Recordings":
        """Returns the axis of recordings of every array, as a tree of the same structure."""
        axes: dict[str, Any] = {
            "tokens": 0,
            "memory": None if self.memory is None else axes_of_memory(self.memory),
            "audio_kv": jax.tree.map(lambda _: 0, self.audio_kv),
            "mel": jax.tree.map(lambda _: 0, self.mel),
            "lengths": jax.tree.map(lambda _: 0, self.lengths),
            "trace": jax.tree.map(lambda _: 1, self.trace),
            "residuals": jax.tree.map(lambda _: 1, self.residuals),
            "values": jax.tree.map(lambda _: self.recording_axis_of_values, self.values),
            "metric": jax.tree.map(lambda _: 0, self.metric),
        }
        return Recordings(**axes, recording_axis_of_values=self.recording_axis_of_values)

    def edit(self, template: Edit) -> Edit:
        """Returns the edit with the patched-in activations of these recordings."""
        if self.values is None:
            return template
        assert isinstance(template, Patch | Mix)
        return dataclasses.replace(template, value=self.values)

    def map(self, compute: Callable[["Recordings"], Array]) -> Array:
        """Computes each recording with a batch axis of size 1, and stacks the results."""
        if len(self.tokens) == 1:  # without `vmap`, as fast as a program for one recording
            return compute(self)[None]
        axes = self.axes()

        def compute_recording(recording: "Recordings") -> Array:
            return compute(jax.tree.map(jnp.expand_dims, recording, axes))

        return jax.vmap(compute_recording, in_axes=(axes,))(self)
