"""Finds which time of a recording each stored step of a site covers, for labels of frames."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from experiments.store import Store
from jaxasr.config import Config
from jaxasr.sites import spec as site_spec, stack_of


@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of a site that have audio, one after the other for all recordings.

    A step is a frame of the encoder, half of one at `encoder.conv1`, or an audio token.

    Attributes:
        rows: index of each step among the stored steps of these recordings, ascending.
        utterance: index of the recording of each step.
        frames: encoder frames of 20 ms that each step covers. Those of a Voxtral's last audio token
            end with the last frame of the recording.
    """

    rows: Int[np.ndarray, "N"]
    utterance: Int[np.ndarray, "N"]
    frames: Int[np.ndarray, "N F"]

    @property
    def middle(self) -> Int[np.ndarray, "N"]:
        """The frame at, or directly after, the middle of each step."""
        return self.frames[:, self.frames.shape[1] // 2]

    def of(self, utterance: int) -> tuple[Int[np.ndarray, "n"], int]:
        """Returns the indices of the steps of a recording, and the number of its frames."""
        indices = np.flatnonzero(self.utterance == utterance)
        return indices, int(self.frames[indices].max(initial=-1)) + 1


def find_steps(store: Store, site: str, ids: Sequence[str], config: Config) -> Steps:
    """Finds the steps of a site that have audio.

    All steps of the encoder have audio. In the decoder of an audio language model, these are the
    audio tokens. In the decoder of a Whisper, which has no audio tokens, every token is a step.

    Args:
        store: a store with the pool "frames".
        site: one of its sites.
        ids: recordings.
        config: dimensions of the model.

    Example:
        ```python
        steps = find_steps(activations, "encoder.resid_post", activations.ids, asr.config)
        ```
    """
    counts = store.frame_counts(site, ids)
    starts, steps_before = np.cumsum(counts) - counts, np.zeros_like(counts)
    if stack_of(site) == "decoder" and config.audio_language is not None:
        of_ids = store.dataset.sel(utterance=list(ids))
        steps_before, counts = of_ids["first_audio_token"].values, of_ids["n_audio_tokens"].values
    utterance = np.repeat(np.arange(len(ids)), counts)
    step = np.concatenate([np.arange(n) for n in counts])
    per_step = site_spec(config, site, 1, 1).frames_per_step
    frames = step[:, None] * per_step + np.arange(per_step)
    if site == "encoder.conv1":  # has two steps per frame
        frames //= 2
    if per_step > 1:
        n_frames = store.dataset["n_frames"].sel(utterance=list(ids)).values
        frames = np.minimum(frames, n_frames[utterance, None] - 1)
    return Steps((starts + steps_before)[utterance] + step, utterance, frames)


def read_embedding(
    store: Store, site: str, ids: Sequence[str], steps: Steps, keep: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n D"]:
    """Reads the embedding below a stack at some steps of another site, averaged over each step.

    Args:
        store: a store with the pool "frames".
        site: `encoder.embed` or `decoder.embed`.
        ids: recordings of `steps`.
        steps: steps of the other site.
        keep: indices of steps, ascending.
    """
    rows = steps.rows[keep, None]
    if stack_of(site) == "encoder":
        counts = store.frame_counts(site, ids)
        rows = (np.cumsum(counts) - counts)[steps.utterance[keep], None] + steps.frames[keep]
    x = store.frames(site, ids, rows.ravel())[0][0]
    return x.reshape(*rows.shape, -1).mean(1)
