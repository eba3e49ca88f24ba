"""Defines `Utterance` and `Corpus`. Every layout of a corpus is read into these two classes."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    import pandas

TIER_OF_KIND = {"phone": "phones", "word": "words"}  # label of a frame: tier with its annotations

_TABLE_FIELDS = (  # fields of an utterance that are columns of `Corpus.to_table`
    "id",
    "path",
    "speaker",
    "transcript",
    "start_s",
    "end_s",
)


@dataclasses.dataclass(frozen=True)
class Span:
    """A labelled part of an utterance.

    Attributes:
        start_s: start, in seconds from the start of the utterance.
        end_s: end, in seconds from the start of the utterance.
        label: a phone or word, for example.

    Example:
        >>> Span(0.25, 0.5, "rice").label
        'rice'
    """

    start_s: float
    end_s: float
    label: str


@dataclasses.dataclass(frozen=True)
class Utterance:
    """A recording, or a part of a recording.

    Unknown values are "" or None.

    Attributes:
        id: name of the utterance, unique in the corpus. Bytes that are not UTF-8 are escaped.
        path: the audio file.
        speaker: name of the speaker.
        transcript: the spoken words.
        start_s: start of the part in seconds. None: the start of the recording.
        end_s: end of the part in seconds. None: the end of the recording.
        labels: values of other labels by name, such as "gender".
        tiers: time-aligned labels by name ("phones", "words").
        read: returns the samples at 16 kHz. None: they are read from `path`.

    Example:
        >>> Utterance("a", Path("a.wav"), speaker="ann", labels={"gender": "F"}).label("gender")
        'F'
    """

    id: str
    path: Path
    speaker: str = ""
    transcript: str = ""
    start_s: float | None = None
    end_s: float | None = None
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    tiers: Mapping[str, tuple[Span, ...]] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )
    read: Callable[[], np.ndarray] | None = dataclasses.field(
        default=None, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        # A frozen dataclass has no other way to change a field.
        object.__setattr__(self, "id", self.id.encode("utf-8", "backslashreplace").decode())

    def samples(self) -> Float[np.ndarray, "n"]:
        """Reads the samples at 16 kHz, mono.

        Raises:
            ValueError: the part is not within the recording.
            Exception: `jaxasr.load_audio` cannot read the file.
        """
        # Imported only here, because the import loads JAX, and labels can be read without JAX.
        from jaxasr.audio import load_audio
        from jaxasr.config import SAMPLE_RATE

        audio = load_audio(self.path) if self.read is None else self.read()
        if self.start_s is None and self.end_s is None:
            return audio
        first, last = round((self.start_s or 0.0) * SAMPLE_RATE), len(audio)
        if self.end_s is not None:
            last = round(self.end_s * SAMPLE_RATE)
        # Manifests round times to two or three decimals, so an end may be up to 5 ms too late.
        if not 0 <= first < last <= len(audio) + SAMPLE_RATE // 200:
            seconds = f"{self.start_s} to {self.end_s} s of {len(audio) / SAMPLE_RATE:.3f} s"
            raise ValueError(
                f"start, end: expected a span within the recording, got {seconds}: {self.id!r}."
            )
        return audio[first:last]

    def label(self, name: str) -> Any:
        """Returns the value of a label, or None if it is unknown.

        Args:
            name: a key of `labels`, "speaker", or "recording" (the file).
        """
        fields = {"speaker": self.speaker, "recording": str(self.path)}
        value = fields.get(name, self.labels.get(name))
        is_nan = isinstance(value, float) and np.isnan(value)
        return None if value == "" or is_nan else value


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Utterances in a fixed order.

    Attributes:
        name: name of the file or folder that was read.
        layout: name of the layout, such as "librispeech".
        utterances: at least one utterance. No two have the same id.

    Raises:
        ValueError: there is no utterance, or two utterances have the same id.

    Example:
        >>> ann = Utterance("a", Path("a.wav"), labels={"gender": "F"})
        >>> Corpus("mine", "memory", (ann,)).labels("gender")
        ['F']
    """

    name: str
    layout: str
    utterances: tuple[Utterance, ...]

    def __post_init__(self) -> None:
        if not self.utterances:
            raise ValueError(
                f"corpus: expected at least one utterance, found none in {self.name!r} read as "
                f"{self.layout}."
            )
        # Stores and caches find an utterance by its id.
        ids: set[str] = set()
        for utterance in self.utterances:
            if utterance.id in ids:
                raise ValueError(
                    "corpus: expected every utterance once, got "
                    f"{utterance.id!r} twice in {self.name!r}."
                )
            ids.add(utterance.id)

    def __len__(self) -> int:
        return len(self.utterances)

    def labels(self, name: str) -> list[Any]:
        """Returns the value of one label for each utterance, with None for unknown values.

        Raises:
            ValueError: no utterance has the label. The message lists the labels.
        """
        values = [utterance.label(name) for utterance in self.utterances]
        if all(value is None for value in values):
            raise ValueError(
                f"label: expected one of {', '.join(self.label_names())}, got {name!r}. No "
                "utterance has this label."
            )
        return values

    def label_names(self) -> list[str]:
        """Lists the labels that at least one utterance has."""
        names = {
            name: None
            for utterance in self.utterances
            for name in utterance.labels
            if utterance.label(name) is not None
        }
        return ["speaker", "recording", *names]

    def where(self, values: Mapping[str, Sequence[str]]) -> "Corpus":
        """Selects utterances by their labels.

        Args:
            values: allowed values of each label, as text.

        Returns:
            A corpus of the utterances that match all labels.

        Raises:
            ValueError: no utterance matches.

        Example:
            ```python
            women = corpus.where({"gender": ["F"]})
            ```
        """
        utterances = tuple(
            utterance
            for utterance in self.utterances
            if all(str(utterance.label(name)) in allowed for name, allowed in values.items())
        )
        if not utterances:
            raise ValueError(
                f"where: no utterance of {self.name!r} has {dict(values)}. "
                f"Labels are: {', '.join(self.label_names())}."
            )
        return dataclasses.replace(self, utterances=utterances)

    def to_table(self) -> "pandas.DataFrame":
        """Returns the labels and fields of the utterances as a table, one row per utterance."""
        import pandas

        return pandas.DataFrame(
            [
                {**utterance.labels, **{name: getattr(utterance, name) for name in _TABLE_FIELDS}}
                for utterance in self.utterances
            ]
        )

    def sha256(self, *, transcripts: bool = False) -> str:
        """Computes a SHA-256 of the ids in order, and of the transcripts if `transcripts` is True.

        The hash does not cover the samples.
        """
        rows = [
            [utterance.id, utterance.transcript] if transcripts else [utterance.id]
            for utterance in self.utterances
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
