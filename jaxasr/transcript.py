"""Defines the results of a transcription."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Word:
    """A word with the punctuation around it.

    Attributes:
        text: the word as generated, with the space before it.
        start: seconds from the beginning of the recording.
        end: seconds from the beginning of the recording.
        probability: mean probability of the word's tokens, without generation rules.
        tokens: token ids.
    """

    text: str
    start: float
    end: float
    probability: float
    tokens: tuple[int, ...]

    def shifted(self, seconds: float) -> "Word":
        """Returns the same word with times that are `seconds` later.

        Example:
            >>> Word(" yes", 0.2, 0.5, 0.9, (2_093,)).shifted(30).start
            30.2
        """
        return dataclasses.replace(
            self, start=round(self.start + seconds, 2), end=round(self.end + seconds, 2)
        )


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of speech between two timestamps, or a whole window without timestamps.

    Attributes:
        start: seconds from the beginning of the recording.
        end: seconds from the beginning of the recording.
        text: text as generated, with the space before it.
        tokens: token ids, timestamps included.
        seek: start of the decoded window, in seconds from the beginning of the recording.
        avg_logprob: mean natural-log probability of the window's tokens and end-of-text.
        no_speech_prob: probability of <|nospeech|> in the window.
        compression_ratio: size of the window's text in bytes, divided by its size after compression
            with zlib. A text with a ratio above 2.4 is repetitive.
        temperature: sampling temperature of the window; 0 is greedy.
        words: words with times, empty unless `word_timestamps` was set.
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
    """A window without a segment.

    Attributes:
        start: seconds from the beginning of the recording.
        end: seconds from the beginning of the recording.
        left_out: True if `Options.no_speech_threshold` left out the window as silence. False if the
            model generated no text.
        text: the generated text, which is not part of the transcript.
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
    """The transcription of one recording.

    Attributes:
        text: text of all segments, stripped.
        segments: segments in order of time.
        language: language code.
        language_prob: probability of the detected language; None if the language was given.
        duration: length of the recording in seconds.
        silences: windows without a segment, with the reason.
    """

    text: str
    segments: tuple[Segment, ...]
    language: str
    language_prob: float | None
    duration: float
    silences: tuple[Silence, ...] = ()

    @property
    def tokens(self) -> tuple[int, ...]:
        """Token ids of all segments, timestamps included."""
        return tuple(id_ for segment in self.segments for id_ in segment.tokens)

    @property
    def words(self) -> tuple[Word, ...]:
        """Words of all segments, empty unless `word_timestamps` was set."""
        return tuple(word for segment in self.segments for word in segment.words)

    def to_dict(self) -> dict[str, Any]:
        """Returns the transcript as nested dictionaries and tuples, ready for `json.dumps`.

        Example:
            >>> Transcript("Hi.", (), "en", None, 1.0).to_dict()["language"]
            'en'
        """
        return dataclasses.asdict(self)
