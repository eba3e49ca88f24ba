"""Searches the inputs of `candidates` for those that make a model repeat itself.

The results are kept in a folder of their own, so that no input is transcribed twice. Their keys
depend on the model, the samples and the prompt, and on no setting of a study.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import jaxasr
from experiments.data.corpora import Corpus, Utterance
from experiments.item_cache import Arrays, ItemCache, short_hash
from experiments.runtime import describe_weights
from experiments.studies.loops.candidates import DETECT, Candidate, candidates
from experiments.studies.loops.changes import is_periodic
from experiments.studies.loops.stickiness import stickiness
from experiments.studies.selection import first_window, language
from interventions.generation.transcripts import is_loop
from jaxasr import Recogniser
from jaxasr.transcribe import detect_language
from jaxasr.weights.files import cache_dir

MINED_TOKENS = 64  # length of the mined texts; all of 63 known loops are found in 48 tokens
MOST_PER_SOURCE = 3  # loops of one speaker, sound or file
# The prompt has the last 16, 32 or 48 tokens of the previous text.
_PREVIOUS_TOKENS, _PREVIOUS_STEP = 48, 16
_LINE_TOKENS = 24  # length of a previous text that repeats itself
_VERSION = 1  # to increase when the results of an input change
_BLOCK = 16  # inputs whose keys are computed together


def mine_loops(
    asr: Recogniser, corpus: Corpus, n: int, tries: int, cache: ItemCache, max_new_tokens: int
) -> list[Utterance]:
    """Searches for inputs whose greedy text is a repetition loop.

    An input whose audio is periodic is left out, because its correct text may repeat. At most three
    loops come from one source. While others can be found, at most a third of the loops have one
    origin, and a quarter are of one kind.

    Args:
        asr: the model.
        corpus: the recordings that inputs are made from.
        n: number of loops after which the search stops.
        tries: largest number of inputs to transcribe.
        cache: shows progress. If there are several processes, its folder also keeps the results.
        max_new_tokens: number of tokens in which the loop must be found. At most 64 are generated.

    Returns:
        The inputs that loop. Their labels are `origin`, `source`,
        `recipe` and `kind` (see `candidates`), `ids` (the generated tokens), `sticky`, the results
        of `stickiness.stickiness`, and `prompt`, the tokens before the text. `prompt_of` returns
        the prompt of any recording.
    """
    results = mining_cache(asr, cache)
    inputs = candidates(corpus, asr.tokenizer.is_multilingual)[:tries]
    mix = _Mix(n)
    with cache.steps.bar("search for loops") as progress:
        for position, (candidate, found) in enumerate(_transcribed(asr, inputs, results)):
            progress(position, len(inputs))
            ids = found["ids"][:max_new_tokens]
            if is_loop(ids, asr.tokenizer.decode(ids)):
                mix.add(candidate, found)
            if len(mix.chosen) == n:
                break
        progress(len(inputs), len(inputs))  # completes the bar if the search stopped early
    return [_labelled(asr, *loop, results) for loop in mix.best()]


class _Mix:
    """Chooses loops, so that no source, origin or kind of input prevails."""

    def __init__(self, n: int):
        self.n = n
        self.chosen: list[tuple[Candidate, Arrays]] = []
        self.spare: list[tuple[Candidate, Arrays]] = []
        self._keys: set[str] = set()
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, candidate: Candidate, found: Arrays) -> None:
        """Chooses a loop, keeps it as a spare, or drops it."""
        key, source = content_key(candidate), ("source", str(candidate.clip.label("source")))
        if key in self._keys or self._counts[source] == MOST_PER_SOURCE:
            return
        if is_periodic(first_window(candidate.clip)):
            return
        self._keys.add(key)
        origin, kind = ((name, str(candidate.clip.label(name))) for name in ("origin", "kind"))
        is_frequent = 3 * self._counts[origin] >= self.n or 4 * self._counts[kind] >= self.n
        (self.spare if is_frequent else self.chosen).append((candidate, found))
        self._counts.update([source] if is_frequent else [source, origin, kind])

    def best(self) -> list[tuple[Candidate, Arrays]]:
        """Returns the chosen loops, filled up with spares."""
        return (self.chosen + self.spare)[: self.n]


def prompt_of(asr: Recogniser, clip: Utterance) -> list[int]:
    """Returns the tokens before the text of a recording: its label `prompt`, or the usual ones.

    Example:
        ```python
        prompt = prompt_of(asr, loops[0])
        ```
    """
    prompt = clip.label("prompt")
    return (
        list(prompt) if prompt is not None else asr.tokenizer.prompt(language_of_prompt(asr, clip))
    )


def language_of_prompt(asr: Recogniser, clip: Utterance) -> str:
    """Returns the language of the prompt: that of the recording, or else English.

    The prompt of an English-only model is English.
    """
    return (language(clip) or "en") if asr.tokenizer.is_multilingual else "en"


def generate_ids(asr: Recogniser, clip: Utterance, max_new_tokens: int) -> list[int]:
    """Generates the greedy text of a recording after `prompt_of`, and returns its tokens.

    Example:
        ```python
        asr.tokenizer.decode(generate_ids(asr, clip, max_new_tokens=64))
        ```
    """
    prompt = prompt_of(asr, clip)
    [ids] = asr.generate(_encode(asr, clip), prompt, max_new_tokens=max_new_tokens).ids
    return list(ids)


def mining_cache(asr: Recogniser, cache: ItemCache) -> ItemCache:
    """Opens the cache of mined texts, `loops/...` in jaxasr's cache folder.

    Several processes need a folder that all of them can read, which `cache` has. The same holds if
    the cache folder is switched off.
    """
    root = cache_dir()
    if root is None or cache.process.count > 1:
        return cache
    name = short_hash("loops", _VERSION, MINED_TOKENS, describe_weights(asr))
    return ItemCache(root / "loops" / name, cache.steps)


def content_key(candidate: Candidate) -> str:
    """Identifies an input by its samples and by what its prompt depends on."""
    clips = [clip for clip in (candidate.clip, candidate.previous) if clip is not None]
    digests = [hashlib.sha256(first_window(clip).tobytes()).hexdigest() for clip in clips]
    return short_hash(digests, candidate.language or language(candidate.clip), candidate.line)


def _transcribed(
    asr: Recogniser, inputs: Sequence[Candidate], results: ItemCache
) -> Iterator[tuple[Candidate, Arrays]]:
    """Yields inputs with their prompts and generated tokens, loaded or computed one at a time."""
    for start in range(0, len(inputs), _BLOCK):
        block = inputs[start : start + _BLOCK]
        yield from zip(
            block,
            results.one_by_one(
                "text", block, lambda candidate: _transcribe(asr, candidate), content_key
            ),
        )


def _transcribe(asr: Recogniser, candidate: Candidate) -> dict[str, Any]:
    memory = _encode(asr, candidate.clip)
    prompt = _prompt(asr, candidate, memory)
    [ids] = asr.generate(memory, prompt, max_new_tokens=MINED_TOKENS).ids
    return {"prompt": np.asarray(prompt, np.int32), "ids": np.asarray(ids, np.int32)}


def _prompt(asr: Recogniser, candidate: Candidate, memory: Any) -> list[int]:
    code = candidate.language or language_of_prompt(asr, candidate.clip)
    if code == DETECT:
        code = next(iter(detect_language(asr.model, asr.tokenizer, memory)[0]))
    previous: Any = asr.tokenizer.encode(candidate.line * _LINE_TOKENS)[:_LINE_TOKENS]
    if candidate.previous is not None:
        earlier = _encode(asr, candidate.previous)
        [ids] = asr.generate(earlier, asr.tokenizer.prompt(code)).ids
        # A new length of the prompt compiles a new program, so there are only three lengths.
        n = min(len(ids), _PREVIOUS_TOKENS) // _PREVIOUS_STEP * _PREVIOUS_STEP
        previous = ids[len(ids) - n :]
    return asr.tokenizer.prompt(code, previous=previous)


def _encode(asr: Recogniser, clip: Utterance) -> Any:
    return asr.model.encode(jaxasr.log_mel(first_window(clip), asr.config.n_mels)[None])[0]


def _labelled(
    asr: Recogniser, candidate: Candidate, found: Arrays, results: ItemCache
) -> Utterance:
    """Adds the results of mining to the labels of an input."""
    clip = candidate.clip
    survived = results(
        f"stickiness {MINED_TOKENS} {content_key(candidate)}",
        lambda: stickiness(asr, first_window(clip), found["prompt"].tolist(), MINED_TOKENS),
    )
    labels = {
        "prompt": tuple(found["prompt"].tolist()),
        "ids": tuple(found["ids"].tolist()),
        "sticky": bool(min(survived.values())),
        **{name: float(value) for name, value in survived.items()},
    }
    return dataclasses.replace(clip, labels={**clip.labels, **labels})
