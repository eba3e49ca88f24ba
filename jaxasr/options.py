"""Defines the options of a transcription."""

import dataclasses
from collections.abc import Sequence

from jaxasr.segments import DecodedWindow


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a transcription. By default each window is decoded once and greedily.

    Attributes:
        language: code or English name. None: detect the language from the first window
            (multilingual checkpoints).
        task: "transcribe", or "translate" into English.
        timestamps: generate timestamps and split the recording at them. False: decode windows of
            30 s in batches.
        word_timestamps: also find word times, see `jaxasr.alignment.words`. The text stays the
            same.
        beam_size: number of beams at temperature 0. None: greedy.
        temperature: sampling temperature; 0 is greedy. A sequence is tried in order until the
            text of the window passes the thresholds of the next two options.
        compression_ratio_threshold: a text with a higher compression ratio is repetitive and fails.
            None: no text fails by its ratio.
        logprob_threshold: a text with a lower mean natural-log probability fails. None: no text
            fails by its probability.
        no_speech_threshold: a window with a higher no-speech probability counts as silence and is
            left out, unless its mean log-probability exceeds `logprob_threshold`. None: no window
            is left out.
        condition_on_previous_text: prompt each window with the text of earlier windows.
        initial_prompt: text or token ids to prompt the first window with.
        suppress: ids of tokens never to generate, see `jaxasr.rules.rules_for`.
        suppress_blank: forbid an end-of-text or a space as the first token of a window.
        max_initial_timestamp: latest first timestamp of a window in seconds. None: no limit.
        max_new_tokens: most tokens to generate per window. After previous text, the context of a
            multilingual model has room for 221 tokens (220 without timestamps).
        padding: what fills the last window after the end of the recording. "audio": zero samples;
            each window is normalised separately, as in `log_mel`. "features": zero features; the
            recording is normalised as a whole, as in openai/whisper and faster-whisper.
        batch_size: windows per batch. Used if windows are decoded without timestamps and without
            previous text.
        seed: random seed of sampling.

    Raises:
        ValueError: an option is out of range; the message gives the name of the option.

    Example:
        >>> Options(temperature=(0, 0.2)).temperatures
        (0.0, 0.2)
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
                f"batch_size, max_new_tokens: expected at least 1, got {self.batch_size} and "
                f"{self.max_new_tokens}."
            )
        if self.beam_size is not None and self.beam_size < 1:
            raise ValueError(f"beam_size: expected at least 1, or None, got {self.beam_size}.")
        if not self.temperatures or min(self.temperatures) < 0:
            raise ValueError(
                "temperature: expected one or more numbers of at least 0, got "
                f"{self.temperature!r}."
            )

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Temperatures in the order in which they are tried."""
        if isinstance(self.temperature, Sequence):
            return tuple(map(float, self.temperature))
        return (float(self.temperature),)

    def failed(self, decoded: DecodedWindow) -> bool:
        """Returns whether a text fails, so that the next temperature is tried.

        A text that is unlikely does not fail if its window has a high no-speech probability. Such a
        window counts as silence.
        """
        unlikely = (
            self.logprob_threshold is not None and decoded.avg_logprob < self.logprob_threshold
        )
        repeats = (
            self.compression_ratio_threshold is not None
            and decoded.compression_ratio > self.compression_ratio_threshold
        )
        return (unlikely or repeats) and not (unlikely and self._exceeds_no_speech(decoded))

    def is_silence(self, decoded: DecodedWindow) -> bool:
        """Returns whether a window counts as silence and is left out."""
        likely = self.logprob_threshold is not None and decoded.avg_logprob > self.logprob_threshold
        return self._exceeds_no_speech(decoded) and not likely

    def _exceeds_no_speech(self, decoded: DecodedWindow) -> bool:
        return (
            self.no_speech_threshold is not None
            and decoded.no_speech_prob > self.no_speech_threshold
        )
