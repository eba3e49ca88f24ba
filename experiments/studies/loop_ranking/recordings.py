"""Sorts a user's recordings into loops and clean speech, by the texts that the model generates."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

from experiments.data.corpora import Corpus, Utterance
from experiments.item_cache import ItemCache, short_hash
from experiments.studies.loops.mining import generate_ids, language_of_prompt, prompt_of
from experiments.studies.nonspeech import source_of
from experiments.studies.selection import first_window
from interventions.generation.transcripts import is_loop
from jaxasr import Recogniser

# Labels that the studies give to recordings. Columns of a manifest with these names are dropped.
_RESERVED = ("prompt", "ids", "sticky", "origin", "source", "name", "text")
_MEAN_SHARE = 5  # one clean recording in five is for the means, up to `Limits.means`


@dataclasses.dataclass(frozen=True)
class Limits:
    """Largest numbers of recordings.

    Attributes:
        loops: loops; None for all.
        clean: clean recordings whose texts are compared; None for all.
        means: clean recordings that means are taken over. At most a fifth of all.
    """

    loops: int | None = None
    clean: int | None = None
    means: int = 20


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A recording that is not used.

    Attributes:
        name: id of the recording in its manifest.
        why: the reason.
        text: the generated text; "" if the recording cannot be read.
    """

    name: str
    why: str
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Recordings:
    """The recordings of a ranking.

    Attributes:
        loops: recordings that make the model repeat itself. Their labels are `name` (the id in the
            manifest), `text` (the generated text) and `source` (the independent unit). An id
            identifies the samples, the prompt and the transcript.
        clean: recordings whose texts are not empty and do not repeat, with the same labels.
        for_means: further clean recordings, over which means are taken.
        loops_left_out: recordings of the loops' manifest that are not used.
        clean_left_out: recordings of the clean manifest that are not used.
    """

    loops: list[Utterance]
    clean: list[Utterance]
    for_means: list[Utterance]
    loops_left_out: list[LeftOut]
    clean_left_out: list[LeftOut]


def select_recordings(
    asr: Recogniser,
    loops: Corpus,
    clean: Corpus,
    cache: ItemCache,
    max_new_tokens: int,
    limits: Limits,
) -> Recordings:
    """Transcribes recordings, and leaves out those whose texts do not fit.

    Args:
        asr: the model.
        loops: recordings that are expected to loop.
        clean: recordings that are expected not to loop.
        cache: keeps the texts.
        max_new_tokens: number of tokens in which a loop must be found.
        limits: largest numbers of recordings.

    Raises:
        ValueError: no recording loops, or fewer than two recordings are clean.
    """

    def why_no_loop(ids: list[int], text: str) -> str:
        return "" if is_loop(ids, text) else f"does not loop in the first {max_new_tokens} tokens"

    def why_not_clean(ids: list[int], text: str) -> str:
        if is_loop(ids, text):
            return "loops without a patch"
        return "" if text.strip() else "gets no words"

    looping, no_loops = _sort(
        asr, loops, cache, "find the loops", why_no_loop, limits.loops, n_max=max_new_tokens
    )
    n_clean = None if limits.clean is None else limits.clean + limits.means
    fluent, not_clean = _sort(
        asr, clean, cache, "transcribe clean speech", why_not_clean, n_clean, n_max=max_new_tokens
    )
    if not looping:
        raise ValueError(
            f"{loops.name}: expected recordings that make the model repeat itself, got none in "
            f"{len(no_loops)}. {_first_reason(no_loops)} Check the model, or raise --tokens."
        )
    if len(fluent) < 2:
        raise ValueError(
            f"--clean {clean.name}: expected at least two recordings of clean speech, got "
            f"{len(fluent)}. {_first_reason(not_clean)}"
        )
    n_means = min(limits.means, len(fluent) // _MEAN_SHARE)
    n_compared = len(fluent) - n_means
    return Recordings(looping, fluent[:n_compared], fluent[n_compared:], no_loops, not_clean)


def _first_reason(left_out: Sequence[LeftOut]) -> str:
    return f"{left_out[0].name} {left_out[0].why}." if left_out else ""


def _sort(
    asr: Recogniser,
    corpus: Corpus,
    cache: ItemCache,
    name: str,
    why_unfit: Callable[[list[int], str], str],
    n: int | None,
    *,
    n_max: int,
) -> tuple[list[Utterance], list[LeftOut]]:
    """Returns up to `n` recordings whose texts fit, and those that are left out before them."""
    readable, left_out = [], []
    for clip in corpus.utterances:
        try:
            readable.append(_prepare(asr, clip))
        except Exception as error:  # a decoder of audio may raise any error
            left_out.append(LeftOut(clip.id, f"cannot be read: {error}"))
    texts = cache.one_by_one(
        f"text {n_max}", readable, lambda clip: {"ids": generate_ids(asr, clip, n_max)}
    )
    fits: list[Utterance] = []
    with cache.steps.bar(name) as progress:
        for position, (clip, item) in enumerate(zip(readable, texts)):
            progress(position, len(readable))
            ids = item["ids"].astype(int).tolist()
            text = asr.tokenizer.decode(ids)
            if why := why_unfit(ids, text):
                left_out.append(LeftOut(str(clip.label("name")), why, text))
                continue
            fits.append(dataclasses.replace(clip, labels={**clip.labels, "text": text}))
            if len(fits) == n:
                break
        progress(len(readable), len(readable))
    return fits, left_out


def _prepare(asr: Recogniser, clip: Utterance) -> Utterance:
    """Reads a recording, and gives it its labels and an id that identifies its content."""
    labels = {name: value for name, value in clip.labels.items() if name not in _RESERVED}
    labels |= {"name": clip.id, "source": source_of(clip)}
    if previous := clip.label("previous"):
        code = language_of_prompt(asr, clip)
        labels["prompt"] = tuple(asr.tokenizer.prompt(code, previous=str(previous)))
    prepared = dataclasses.replace(clip, labels=labels)
    samples = hashlib.sha256(first_window(prepared).tobytes()).hexdigest()
    content = short_hash(samples, list(prompt_of(asr, prepared)), prepared.transcript)
    return dataclasses.replace(prepared, id=f"{clip.id} {content}")
