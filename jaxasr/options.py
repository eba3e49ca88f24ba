"""How a recording is transcribed."""

import dataclasses
from collections.abc import Sequence

from jaxasr.segments import Written


@dataclasses.dataclass(frozen=True)
class Options:
    """How to transcribe; the defaults hide nothing from an experiment: one greedy pass, no window knows of another.

    Attributes:
        language: code or English name; None detects it from the first window (multilingual checkpoints).
        task: "transcribe" or "translate" (into English).
        timestamps: let the model write timestamps and cut the recording by them; without, windows are 30 s and go as a batch.
        word_timestamps: find word times as well, see `jaxasr.alignment.words`; they move no window, so the text stays the same.
        beam_size: beams of the search where the temperature is 0; None: greedy.
        temperature: 0 is greedy; of several, a later one is tried when a window fails the two thresholds that follow.
        compression_ratio_threshold: a window above it repeats itself and fails; None: never.
        logprob_threshold: a window whose mean log-probability is below it fails; None: never.
        no_speech_threshold: a window above it, and below `logprob_threshold`, is silence and left out; None: never.
        condition_on_previous_text: what was written so far is the prompt of the next window.
        initial_prompt: text or ids before the first window.
        suppress: ids never to write, see `jaxasr.rules.rules_for`.
        suppress_blank: likewise.
        max_initial_timestamp: likewise, seconds.
        max_new_tokens: a window; after previous text there is room for 221 (220 without timestamps).
        padding: what follows the end of the recording: "audio", zeros in the samples, each window scaled by itself as `log_mel` does;
            or "features", zeros in the features, scaled by the whole recording as openai/whisper and faster-whisper do.
        batch_size: windows at a time, where they go as a batch.
        seed: of sampling.
    """

    language: str | None = None
    task: str = "transcribe"
    timestamps: bool = True
    word_timestamps: bool = False
    beam_size: int | None = None
    temperature: int | float | Sequence[int | float] = 0.0
    compression_ratio_threshold: int | float | None = 2.4
    logprob_threshold: int | float | None = -1.0
    no_speech_threshold: int | float | None = 0.6
    condition_on_previous_text: bool = False
    initial_prompt: str | Sequence[int] | None = None
    suppress: Sequence[int] | None = (-1,)
    suppress_blank: bool = True
    max_initial_timestamp: int | float | None = 1.0
    max_new_tokens: int = 224
    padding: str = "audio"
    batch_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.padding not in ("audio", "features"):
            raise ValueError(f"padding: expected 'audio' or 'features', got {self.padding!r}.")
        if self.batch_size < 1 or self.max_new_tokens < 1:
            raise ValueError(
                f"batch_size, max_new_tokens: expected at least 1, got {self.batch_size} and {self.max_new_tokens}."
            )
        if self.beam_size is not None and self.beam_size < 1:
            raise ValueError(f"beam_size: expected at least 1, or None, got {self.beam_size}.")
        if not self.temperatures or min(self.temperatures) < 0:
            raise ValueError(
                f"temperature: expected one or more numbers of at least 0, got {self.temperature!r}."
            )

    @property
    def temperatures(self) -> tuple[float, ...]:
        return (
            tuple(map(float, self.temperature))
            if isinstance(self.temperature, Sequence)
            else (float(self.temperature),)
        )

    def failed(self, written: Written) -> bool:
        """Whether a higher temperature should be tried; a window of silence is fine as it is."""
        unlikely = (
            self.logprob_threshold is not None and written.avg_logprob < self.logprob_threshold
        )
        repeats = (
            self.compression_ratio_threshold is not None
            and written.compression_ratio > self.compression_ratio_threshold
        )
        silent = (
            self.no_speech_threshold is not None
            and written.no_speech_prob > self.no_speech_threshold
        )
        return (unlikely or repeats) and not (unlikely and silent)

    def is_silence(self, written: Written) -> bool:
        likely = self.logprob_threshold is not None and written.avg_logprob > self.logprob_threshold
        return (
            self.no_speech_threshold is not None
            and written.no_speech_prob > self.no_speech_threshold
            and not likely
        )
