"""What a transcription is: text, its segments in time, and its words when they were asked for."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Word:
    """A word with the punctuation around it.

    Attributes:
        text: as written, with the space before it.
        start: seconds from the beginning of the recording.
        end: seconds.
        probability: mean over its tokens, under the model without rules.
        tokens: ids.
    """

    text: str
    start: float
    end: float
    probability: float
    tokens: tuple[int, ...]

    def shifted(self, seconds: float) -> "Word":
        return dataclasses.replace(
            self, start=round(self.start + seconds, 2), end=round(self.end + seconds, 2)
        )


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of speech between two timestamps, or a whole window when there are none.

    Attributes:
        start: seconds from the beginning of the recording.
        end: seconds.
        text: as written, with the space before it.
        tokens: ids, timestamps included.
        seek: seconds at which the window begins that the segment was heard in.
        avg_logprob: mean log-probability of the window's tokens and end (natural log).
        no_speech_prob: the window's probability of <|nospeech|>.
        compression_ratio: of the window's text; above 2.4 it repeats itself.
        temperature: at which the window was written; 0 is greedy.
        words: empty unless word times were asked for.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    seek: float
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float
    words: tuple[Word, ...] = ()


@dataclasses.dataclass(frozen=True)
class Silence:
    """A window that gave no segment.

    Attributes:
        start: seconds from the beginning of the recording.
        end: seconds.
        left_out: True where the window counts as silence by its no-speech probability and its mean log-probability
            (`Options.no_speech_threshold`, `Options.logprob_threshold`); False where the model generated no text.
        text: what was generated, and is left out.
        avg_logprob: as in `Segment`.
        no_speech_prob: as in `Segment`.
    """

    start: float
    end: float
    left_out: bool
    text: str
    avg_logprob: float
    no_speech_prob: float


@dataclasses.dataclass(frozen=True)
class Transcript:
    """A recording in words. `language` is a code; `language_prob` is None where it was given and not detected; `duration` in seconds.

    `silences` are the windows without a segment, with the reason.
    """

    text: str
    segments: tuple[Segment, ...]
    language: str
    language_prob: float | None
    duration: float
    silences: tuple[Silence, ...] = ()

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(id_ for segment in self.segments for id_ in segment.tokens)

    @property
    def words(self) -> tuple[Word, ...]:
        return tuple(word for segment in self.segments for word in segment.words)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, for JSON."""
        return dataclasses.asdict(self)
