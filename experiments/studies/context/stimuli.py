"""Transcribes the readings of study E5, and selects the recordings to patch.

A reading passes the gate if the model transcribes its odd word as spoken, either alone or in the
carrier, in which any word fits. Without both recordings, a reading passes.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

import jaxasr
from experiments.data.corpora import Utterance
from experiments.data.spoken_pairs import CARRIER, Pair, Reading
from experiments.item_cache import Arrays, short_hash
from experiments.studies.context import patches
from experiments.studies.context.grid import (
    WINDOWS,
    Patch,
    cells,
    of_controls,
    of_places,
    window_masks,
)
from experiments.studies.context.spoken_word import FITTING, ODD, OTHER, first_tokens, outcome
from experiments.studies.selection import first_window
from jaxasr import Recogniser
from jaxasr.alignment.words import align
from jaxasr.audio import n_frames
from jaxasr.language.recogniser import PromptedRecogniser

MISSING = -1  # outcome of a recording that does not exist
# The recordings of a reading: the odd word and the fitting word in the sentence, the odd word in
# the carrier, and the odd word alone.
CONDITIONS = ("odd", "fitting", "carrier", "alone")
_MAX_NEW_TOKENS = 32  # a sentence has at most 20 tokens
_TOKENS_MULTIPLE = 8  # the text before the word is padded, so that few programs are compiled


@dataclasses.dataclass(frozen=True)
class Job:
    """A recording to patch.

    Attributes:
        reading: the reading it belongs to.
        condition: one of `CONDITIONS`, except "alone".
    """

    reading: Reading
    condition: str

    @property
    def id(self) -> str:
        """Name of the recording."""
        return self.clip.id

    @property
    def clip(self) -> Utterance:
        """The recording."""
        clip = getattr(self.reading, self.condition)
        assert clip is not None
        return clip

    @property
    def pair(self) -> Pair:
        """The pair, with the sentence that is spoken."""
        pair = self.reading.pair
        return dataclasses.replace(pair, sentence=CARRIER) if self.condition == "carrier" else pair


def transcribe(asr: Recogniser, reading: Reading, conditions: Sequence[str] = CONDITIONS) -> Arrays:
    """Transcribes recordings of a reading, and returns the outcome of each of `CONDITIONS`."""
    clips = {name: clip for name in conditions if (clip := getattr(reading, name)) is not None}
    texts = _generate_texts(asr, [first_window(clip) for clip in clips.values()])
    sentences = {"carrier": CARRIER, "alone": "{}"}
    outcomes = {str(name): MISSING for name in CONDITIONS}
    for name, text in zip(clips, texts):
        sentence = sentences.get(name, reading.pair.sentence)
        outcomes[name] = outcome(text, dataclasses.replace(reading.pair, sentence=sentence))
    return {name: np.asarray(value) for name, value in outcomes.items()}


def _generate_texts(
    asr: Recogniser | PromptedRecogniser, audios: Sequence[Float[np.ndarray, "n"]]
) -> tuple[str, ...]:
    if isinstance(asr, PromptedRecogniser):
        inputs = asr.inputs([audio[: asr.config.n_samples] for audio in audios], language="en")
        return asr.generate(inputs, max_new_tokens=_MAX_NEW_TOKENS).text
    memory, _ = asr.model.encode(
        np.stack([jaxasr.log_mel(audio, asr.config.n_mels) for audio in audios])
    )
    prompts = np.tile(asr.tokenizer.prompt("en"), (len(audios), 1))
    return asr.generate(memory, prompts, max_new_tokens=_MAX_NEW_TOKENS).text


def passes_gate(outcomes: Arrays) -> bool:
    """Returns whether the odd word is transcribed as spoken where the context does not matter."""
    checks = [int(outcomes[name]) for name in ("carrier", "alone")]
    return ODD in checks or all(check == MISSING for check in checks)


def choose_reading(
    asr: Recogniser, readings: Sequence[Reading], seed: int
) -> tuple[Reading, Arrays]:
    """Chooses the reading of a sentence, and returns it with its outcomes.

    The voices are tried in random order, and the first one that passes the gate is chosen. The
    choice does not depend on the transcript of the sentence. If no voice passes, the last one is
    returned.
    """
    reading, outcomes = readings[0], {}
    for reading in sorted(readings, key=lambda reading: short_hash(seed, reading.id)):
        outcomes = transcribe(asr, reading)
        if passes_gate(outcomes):
            break
    return reading, outcomes


def jobs_of(reading: Reading) -> list[Job]:
    """Returns the recordings of a reading to patch."""
    return [
        Job(reading, name)
        for name in ("odd", "fitting", "carrier")
        if getattr(reading, name) is not None
    ]


def patch(asr: Recogniser, job: Job, listed: Sequence[Patch], n_random: int, seed: int) -> Arrays:
    """Scores every patch of a recording.

    Returns:
        `difference` [C]: logit of the odd word minus that of the fitting word; NaN where a control
        has no patch, or where the frames of the word are not known. `outcome` [C]: the most likely
        word, as `spoken_word.outcome`. `frames` [W]: number of frames of each window.
    """
    pair, tokenizer = job.pair, asr.tokenizer
    audio = first_window(job.clip)[: asr.config.n_samples]
    before = pair.sentence.partition("{}")[0].rstrip()
    prefix = [*_prompt(asr, audio), *(tokenizer.encode(f" {before}") if before else [])]
    recording_seed = int(short_hash(seed, job.id)[:8], 16)
    tried = _tried(job, listed)
    has_windows = any(patch.window != WINDOWS[0] for patch in itertools.compress(listed, tried))
    span = _word_span(asr, job, audio) if has_windows else None
    if span is None and asr.config.audio_language is not None:  # nothing is known of its frames
        tried = tried & np.array([patch.window == WINDOWS[0] for patch in listed])
    masks = window_masks(span, len(audio), asr.config.n_audio_ctx)
    spoken = patches.prepare(
        asr,
        audio,
        prefix,
        (tokenizer.encode(f" {pair.target}")[0], tokenizer.encode(f" {pair.expected}")[0]),
        masks,
        patches.rotations_by_stack(asr.config, n_random, recording_seed),
        recording_seed,
        -(-max(len(prefix), 2 * _TOKENS_MULTIPLE) // _TOKENS_MULTIPLE) * _TOKENS_MULTIPLE,
    )
    scores = np.full((len(listed), len(patches.SCORES)), np.nan)
    chosen = [patch for patch, is_tried in zip(listed, tried) if is_tried]
    scores[tried] = patches.score(asr.model, spoken, cells(chosen))
    spellings = {
        ODD: first_tokens(tokenizer, pair.target),
        FITTING: first_tokens(tokenizer, pair.expected),
    }
    outcomes = np.where(tried, OTHER, MISSING)
    for value, tokens in spellings.items():
        outcomes[np.isin(scores[:, 2], list(tokens))] = value
    return {"difference": scores[:, 0] - scores[:, 1], "outcome": outcomes, "frames": masks.sum(1)}


def _prompt(asr: Recogniser | PromptedRecogniser, audio: Float[np.ndarray, "n"]) -> list[int]:
    if isinstance(asr, PromptedRecogniser):
        return asr.inputs([audio], language="en").tokens[0].tolist()
    return asr.tokenizer.prompt("en")


def _tried(job: Job, listed: Sequence[Patch]) -> Bool[np.ndarray, "C"]:
    """Marks the patches of a recording that a claim or a figure uses."""
    if job.condition == "odd":
        return of_places(listed) if job.reading.spliced else np.ones(len(listed), bool)
    if job.condition == "carrier":
        return of_controls(listed)
    return np.array([patch.unit == "none" for patch in listed])


def _word_span(
    asr: Recogniser, job: Job, audio: Float[np.ndarray, "n"]
) -> tuple[float, float] | None:
    """Finds the target word: from the recording's annotation, else by aligning the sentence."""
    if gap := job.clip.tiers.get("gap"):
        return gap[0].start_s, gap[0].end_s
    number = len(job.pair.sentence.partition("{}")[0].split())
    if spans := job.clip.tiers.get("words"):
        return spans[number].start_s, spans[number].end_s
    if isinstance(asr, PromptedRecogniser):
        return None  # words are aligned by cross-attention
    word = job.pair.expected if job.condition == "fitting" else job.pair.target
    text = job.pair.sentence.format(word)
    memory, _ = asr.model.encode(jaxasr.log_mel(audio, asr.config.n_mels)[None])
    [aligned] = align(
        asr.model,
        asr.tokenizer,
        memory,
        [asr.tokenizer.encode(f" {text}")],
        [n_frames(len(audio))],
        heads=asr.alignment_heads,
        language="en",
        late_start=True,
    )
    if len(aligned) != len(text.split()):
        return None
    return aligned[number].start, aligned[number].end
