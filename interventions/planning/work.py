"""Plans the programs that a function calls, from shapes alone."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interventions.planning.devices import PlannedDevice
from interventions.planning.report import ProgramCost, Report, cost_of, least_seconds
from interventions.run import Run
from jaxasr import ahead_of_time
from jaxasr.config import Config
from jaxasr.target_device import planning_for


@dataclasses.dataclass(frozen=True)
class Work:
    """Some work on some devices. A function `run` calls its programs.

    Attributes:
        title: the work, in words.
        config: the model; None if there is none.
        device: the planned device.
        loop_steps: steps of each loop whose number of steps is known only when it runs.
        rereads: whether each of these steps reads all arguments again.
        notes: assumptions.
    """

    title: str
    config: Config | None
    device: PlannedDevice
    loop_steps: float = 1
    rereads: bool = False
    notes: tuple[str, ...] = ()

    def programs(self, run: Callable[..., Any], *arguments: Any) -> list[ahead_of_time.Program]:
        """Finds the programs that `run` calls with arguments of these shapes."""
        with planning_for(self.device.target):
            return ahead_of_time.record(run, *arguments)

    def cost(self, program: ahead_of_time.Program) -> ProgramCost:
        """Counts, and compiles if possible, what a program needs."""
        with planning_for(self.device.target):
            return cost_of(program, self.device, self.loop_steps, self.rereads)

    def report(self, run: Callable[..., Any], *arguments: Any) -> Report:
        """Plans the programs that `run` calls with arguments of these shapes."""
        return self.made_from([self.cost(p) for p in self.programs(run, *arguments)])

    def made_from(self, costs: Sequence[ProgramCost], notes: tuple[str, ...] = ()) -> Report:
        """Returns the plan of these programs."""
        # Probes are computed in float32.
        dtype = "float32" if self.config is None else self.config.dtype
        return Report(
            self.title,
            self.device.name,
            self.device.n_devices,
            self.device.chip.memory_bytes,
            tuple(costs),
            least_seconds(costs, self.device.chip, dtype),
            (*self.notes, *notes),
        )


def mel_shape(config: Config, n: int) -> jax.ShapeDtypeStruct:
    """Returns the shape of n log-mel spectrograms."""
    return jax.ShapeDtypeStruct((n, config.n_mels, config.n_mel_frames), jnp.float32)


def run_shape(config: Config, n: int, n_tokens: int) -> Run:
    """Returns a run of n recordings of 30 s, with a shape in place of their mel.

    The audio of a language model comes first among the tokens. All other tokens are 0.

    Args:
        config: dimensions of the model.
        n: number of recordings.
        n_tokens: tokens of text per recording.

    Raises:
        ValueError: more tokens than the decoder can read.
    """
    is_whisper = config.audio_language is None
    audio = [] if is_whisper else [config.audio_token] * config.n_audio_tokens
    n_most = config.n_text_ctx - len(audio)
    if n_tokens > n_most:
        raise ValueError(
            f"tokens: expected at most {n_most}, the decoder's context"
            f"{'' if is_whisper else ' without the audio'}, got {n_tokens}."
        )
    # Tokens and lengths have values, because a sweep finds the audio among the tokens.
    tokens: Any = np.array([[*audio, *[0] * n_tokens]] * n, np.int32)
    lengths: Any = None if is_whisper else np.full(n, config.n_mel_frames, np.int32)
    mel: Any = mel_shape(config, n)
    return Run(tokens=tokens, mel=mel, lengths=lengths)
