"""One row of a corpus, and the rows together, whatever layout they were read from."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from interventions.storage.text_files import utf8
from jaxasr.audio import load_audio
from jaxasr.config import SAMPLE_RATE


@dataclasses.dataclass(frozen=True)
class Span:
    """A labelled stretch, seconds from the start of the utterance."""

    start_s: float
    end_s: float
    label: str


@dataclasses.dataclass(frozen=True)
class Utterance:
    """A recording, or the part of one from `start_s` to `end_s` (seconds; None: its own start and end).

    `id` is unique in its corpus; a byte of it that is no UTF-8 becomes an escape. `tiers` are time-aligned labels, by name ("phones",
    "words"). `read` gives the samples of what is not a plain file. "" and None mean: not known.
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
        object.__setattr__(self, "id", utf8(self.id))

    def samples(self) -> Float[np.ndarray, "n"]:
        """16 kHz mono. Raises what `load_audio` raises, and ValueError for a span outside of the recording."""
        audio = load_audio(self.path) if self.read is None else self.read()
        if self.start_s is None and self.end_s is None:
            return audio
        first, last = round((self.start_s or 0.0) * SAMPLE_RATE), len(audio)
        if self.end_s is not None:
            last = round(self.end_s * SAMPLE_RATE)
        # Times are written with two or three digits: half a hundredth of a second past the end is the end.
        if not 0 <= first < last <= len(audio) + SAMPLE_RATE // 200:
            seconds = f"{self.start_s} to {self.end_s} s of {len(audio) / SAMPLE_RATE:.3f} s"
            raise ValueError(
                f"start, end: expected a span within the recording, got {seconds}: {self.id!r}."
            )
        return audio[first:last]

    def label(self, name: str) -> Any:
        """The value of a label, "speaker" and "recording" (the file) included; None where it is not known."""
        value = {"speaker": self.speaker, "recording": str(self.path)}.get(
            name, self.labels.get(name)
        )
        return None if value == "" or (isinstance(value, float) and np.isnan(value)) else value


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Utterances in a fixed order, and what they were read from."""

    name: str
    layout: str
    utterances: tuple[Utterance, ...]

    def __post_init__(self) -> None:
        if not self.utterances:
            raise ValueError(
                f"corpus: expected at least one utterance, found none in {self.name!r} read as {self.layout}."
            )
        seen: set[str] = set()
        for one in self.utterances:
            if one.id in seen:
                raise ValueError(
                    f"corpus: expected each recording (or start and end in it) once, got {one.id!r} twice in {self.name!r}."
                )
            seen.add(one.id)

    def __len__(self) -> int:
        return len(self.utterances)

    def labels(self, name: str) -> list[Any]:
        """One value an utterance, None where it is not known. Raises ValueError listing what there is when nobody has it."""
        values = [one.label(name) for one in self.utterances]
        if all(value is None for value in values):
            raise ValueError(
                f"label: expected one of {', '.join(self.label_names())}, got {name!r}, which no utterance has."
            )
        return values

    def label_names(self) -> list[str]:
        names = {
            name: None
            for one in self.utterances
            for name in one.labels
            if one.label(name) is not None
        }
        return ["speaker", "recording", *names]

    def where(self, wanted: Mapping[str, Sequence[str]]) -> "Corpus":
        """Only utterances whose labels are, as text, among the wanted ones. Raises ValueError when none is left."""
        chosen = [
            one
            for one in self.utterances
            if all(str(one.label(name)) in values for name, values in wanted.items())
        ]
        if not chosen:
            raise ValueError(
                f"where: no utterance of {self.name!r} has {dict(wanted)}. Labels are: {', '.join(self.label_names())}."
            )
        return dataclasses.replace(self, utterances=tuple(chosen))

    def frame(self) -> Any:
        """A pandas frame, one row an utterance."""
        import pandas

        known = ("id", "path", "speaker", "transcript", "start_s", "end_s")
        return pandas.DataFrame(
            [{**one.labels, **{key: getattr(one, key) for key in known}} for one in self.utterances]
        )

    def sha256(self, *, transcripts: bool = False) -> str:
        """Over the ids in order, and the transcripts where they matter."""
        rows = [[one.id, one.transcript] if transcripts else [one.id] for one in self.utterances]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
