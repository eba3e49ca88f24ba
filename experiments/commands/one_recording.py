"""Opens at most 30 s of one recording, for the commands `demo`, `lens` and `scan`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import runtime
from experiments.commands.options import Device, Dtype
from experiments.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from jaxasr import Recogniser


@dataclasses.dataclass(frozen=True)
class OpenedRecording:
    """A recogniser and the part of a recording that it will process.

    Attributes:
        asr: the recogniser.
        samples: the part, at most 30 s at 16 kHz.
        source: name of the recording. If the part is shorter than the recording, the name includes
            the start of the part in seconds.
        seconds: length of the whole recording.
    """

    asr: "Recogniser"
    samples: "Float[np.ndarray, 'n']"
    source: str
    seconds: float

    def note_unread(self, steps: Progress) -> None:
        """Prints how many seconds were read, if this is not the whole recording."""
        from jaxasr.config import SAMPLE_RATE

        seconds_read = len(self.samples) / SAMPLE_RATE
        if seconds_read < self.seconds:
            steps.note(
                f"Read {seconds_read:g} s of {self.seconds:g} s. --start chooses another part."
            )


def open_recording(
    audio: Path, steps: Progress, *, model: str, start: float, dtype: Dtype, device: Device | None
) -> OpenedRecording:
    """Starts JAX, reads at most 30 s of a recording, and loads the model.

    Args:
        audio: the recording.
        steps: shows progress.
        model: name or path of the model.
        start: second of the recording at which the 30 s begin.
        dtype: number format of weights and activations.
        device: processor to compute on. None: JAX chooses.
    """
    with steps("start JAX"):
        runtime.start(device)
        from experiments.analyses.lens import read_window
    with steps(f"read {audio.name}"):
        samples, source, seconds = read_window(audio, start)
    with steps(f"load {model}"):
        asr = runtime.load_whisper(model, dtype.value)
    return OpenedRecording(asr, samples, source, seconds)
