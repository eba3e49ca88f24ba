"""Labels the recordings of the data folder that were made to trigger loops."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.data import real_speech
from experiments.data.corpora import Corpus, Utterance
from experiments.studies.loops.sources import CHANNEL, DAMAGE, UNMODIFIED
from experiments.studies.nonspeech import source_of

# Operations of a recipe that keep the words.
_KEEPS_WORDS = {"load", "mix", "mixnoise", "speed", "lowpass", "highpass", "clip", "gain", "norm"}
# Operations that destroy the speech or make sound without a recording.
_DAMAGES = {"reverse", "byteswap", "gate", "tile", "repeat", "noise", "tone", "clip"}


def known_loops(corpus: Corpus) -> Iterator[Utterance]:
    """Yields the recordings of a corpus that a recipe of the data folder made to trigger a loop.

    Recordings with periodic audio are left out. A recording has a transcript only if the operations
    of its recipe keep the words. Its labels are those of `candidates.changed`.
    """
    clips = {clip.id: clip for clip in corpus.utterances}
    for row in real_speech.rows("recipes"):
        clip = clips.get(str(row.get("path")))
        if clip is None or row["group"] != "loop" or row["audio_periodic"]:
            continue
        first = row["ops"][0]
        source = clips.get(str(first.get("path") or (first.get("paths") or [None])[0]))
        labels = {
            "origin": _origin(row["ops"]),
            "source": source_of(source or clip),
            "recipe": row["kind"].replace("_", " "),
            "kind": row["kind"],
        }
        transcript = _transcript(row["ops"], source) or clip.transcript
        yield dataclasses.replace(clip, transcript=transcript, labels={**clip.labels, **labels})


def _origin(operations: list[Mapping[str, Any]]) -> str:
    """Finds the origin of an input from the operations that made it."""
    names = {operation["op"] for operation in operations}
    if names & _DAMAGES or any(map(_is_extreme, operations)):
        return DAMAGE
    is_cut = operations[0].get("start") or operations[0].get("end")
    return CHANNEL if names - {"load"} or is_cut else UNMODIFIED


def _is_extreme(operation: Mapping[str, Any]) -> bool:
    """Returns whether a speed or a filter is beyond those of players and telephones."""
    factor, hz = operation.get("factor", 1), operation.get("hz", 0)
    return (
        not 0.6 <= factor <= 1.6
        or (operation["op"] == "lowpass" and hz < 3000)
        or (operation["op"] == "highpass" and hz > 400)
    )


def _transcript(operations: list[Mapping[str, Any]], source: Utterance | None) -> str:
    """Returns the transcript of the source if all operations keep all of its words."""
    first = operations[0]
    is_whole = first["op"] == "load" and not (first.get("start") or first.get("end"))
    keeps_words = is_whole and all(operation["op"] in _KEEPS_WORDS for operation in operations)
    return source.transcript if source is not None and keeps_words else ""
