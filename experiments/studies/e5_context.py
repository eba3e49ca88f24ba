"""E5: tests whether context overrides the spoken word, and which patches restore the word.

Each sentence has a word that fits and an odd word, which sounds similar but does not fit. A patch
of one place is scored by its shift of logit(odd word) - logit(fitting word), where the decoder
reads the words before it. `experiments.studies.context` has the parts.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.data.corpora import Corpus, Utterance
from experiments.data.spoken_pairs import Reading, pairs, readings
from experiments.item_cache import Arrays, ItemCache
from experiments.studies.context import figures, grid, judging, splices
from experiments.studies.context.spoken_word import is_testable
from experiments.studies.context.stimuli import Job, choose_reading, jobs_of, passes_gate, patch
from experiments.studies.language_claims import name_family
from experiments.studies.recordings import clean_speech
from experiments.studies.study import Analysis, Settings, Study, choice, paper
from jaxasr import Recogniser
from jaxasr.families import FAMILIES, WHISPER


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of E5."""

    sentences: int = paper(
        700, "section 4.4: synthetic sentences with a phonetically ambiguous target"
    )
    voices: int = choice(4, "each sentence has the first voice whose odd word is recognised alone")
    spliced: int = choice(0, "recordings of real speech that are tried; the paper has none")
    tries: int = choice(4, "odd words per recording of real speech that are transcribed alone")
    alphas: tuple[float, ...] = choice(
        (0.1, 0.25, 0.5, 1.0, 1.5), "the paper varies the strength; its values were not found"
    )
    encoder_alphas: tuple[float, ...] = choice(
        (0.1, 0.25, 0.5, 1.0, 1.5),
        "as `alphas`, for the encoder, whose patches cost most of the time",
    )
    random_alphas: tuple[float, ...] = choice((0.25, 1.0), "strengths of random moves")
    group_alpha: float = choice(0.5, "strength of groups of layers and of windows of time")
    n_random: int = choice(3, "random directions per recording")
    score: str = choice(
        "logits after the words before the gap", "graded, and the same place under every patch"
    )
    noise: str = choice(
        "length and level of the recording; the decoder reads the same tokens",
        "not found in the paper",
    )


def run(asr: Recogniser, corpus: Corpus, config: Config, cache: ItemCache) -> xr.Dataset:
    """Chooses a voice per sentence, and scores all patches.

    Returns:
        `difference` [example, cell]: logit of the odd word minus that of the fitting word.
        `outcome` [example, cell]: the most likely word. `transcribed` [example]: the word in the
        text without patches. Words are constants of `context.spoken_word`. `spliced` [example]:
        whether the words are spliced into real speech.
    """
    sentences = [pair for pair in pairs() if is_testable(asr.tokenizer, pair)]
    by_sentence: dict[str, list[Reading]] = {}
    for reading in readings(corpus, sentences, config.voices):
        if is_testable(asr.tokenizer, reading.pair):
            by_sentence.setdefault(reading.pair.sentence, []).append(reading)
    groups = list(by_sentence.values())[: config.sentences]
    chosen = cache.each(
        "E5 voices",
        groups,
        functools.partial(_choose, asr, config.seed),
        key=lambda group: group[0].pair.sentence,
    )
    pairs_of = [
        (next(reading for reading in group if reading.id == str(item["id"])), item)
        for group, item in zip(groups, chosen)
        if passes_gate(item)
    ]
    # Words of real speech are aligned by cross-attention, which only Whisper has.
    is_whisper = asr.config.family == WHISPER
    speech = _real_speech(corpus, asr) if is_whisper else []
    found = splices.groups(speech, asr, config.spliced)
    pairs_of += splices.choose(asr, found, config.tries, config.seed, cache)
    jobs = [(job, item) for reading, item in pairs_of for job in jobs_of(reading)]
    listed = grid.patches(
        asr.config,
        config.alphas,
        config.encoder_alphas,
        config.random_alphas,
        config.group_alpha,
        config.n_random,
    )

    def score(job: Job) -> Arrays:
        return patch(asr, job, listed, config.n_random, config.seed)

    items = cache.each(
        "E5 patches", [job for job, _ in jobs], score, key=lambda job: f"{job.condition} {job.id}"
    )
    tried = {"sentences": len(groups), "spliced_recordings": len(found)}
    return name_family(_to_dataset(jobs, items, listed, tried), asr.config)


def _real_speech(corpus: Corpus, asr: Recogniser) -> list[Utterance]:
    clips = clean_speech(corpus, asr, len(corpus))
    return [clip for clip in clips if clip.label("speech_kind") != "TTS"]


def _choose(asr: Recogniser, seed: int, group: Sequence[Reading]) -> Arrays:
    reading, outcomes = choose_reading(asr, group, seed)
    return {**outcomes, "id": np.asarray(reading.id)}


def _to_dataset(
    jobs: Sequence[tuple[Job, Arrays]],
    items: Sequence[Arrays],
    listed: Sequence[grid.Patch],
    tried: dict[str, int],
) -> xr.Dataset:
    shape = (len(jobs), len(listed))

    def stack(name: str) -> np.ndarray:
        return np.array([item[name] for item in items]).reshape(shape)

    labels = {name: ("cell", values) for name, values in grid.labels(listed).items()}
    per_example = {
        "condition": [job.condition for job, _ in jobs],
        "sentence": [job.reading.pair.sentence for job, _ in jobs],
        "voice": [job.reading.voice for job, _ in jobs],
    }
    return xr.Dataset(
        {
            "difference": (("example", "cell"), stack("difference")),
            "outcome": (("example", "cell"), stack("outcome")),
            "transcribed": ("example", [int(item[job.condition]) for job, item in jobs]),
            "spliced": ("example", np.array([job.reading.spliced for job, _ in jobs], bool)),
        },
        {
            "example": [f"{job.condition}: {job.id}" for job, _ in jobs],
            **{name: ("example", np.array(values, str)) for name, values in per_example.items()},
            **labels,
        },
        tried,
    )


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """Judges the claims of `experiments.studies.context.judging`."""
    return judging.analyse(arrays, config.seed)


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Figure]:
    """Draws shifts per place and window, and restored words per number of tries."""
    del config
    return figures.draw(arrays)


STUDY = Study(
    title="Whether context overrides the spoken word",
    section="section 4.4",
    about="In each sentence, one word is replaced by a similar-sounding word that does not fit. "
    "The outputs of modules of encoder and decoder are patched towards their values for white "
    "noise, or equally far in a random direction. The study measures how far a patch moves the "
    "logits towards the spoken word, and counts the patches that restore it.",
    data="700 synthetic sentences; voices and texts were not published",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "all": {
            **{"sentences": 212, "voices": 5, "spliced": 240},
            **{"encoder_alphas": (0.1, 0.5, 1.5), "random_alphas": (0.5, 1.0)},
        },
        "here": {"sentences": 24, "voices": 3, "spliced": 24},
        "builtin": {"sentences": 12, "voices": 3},
        "quick": {
            **{"sentences": 3, "voices": 1, "spliced": 2, "tries": 1},
            **{"alphas": (0.5,), "encoder_alphas": (0.5,), "random_alphas": (0.5,)},
        },
    },
    claims=judging.ALL_CLAIMS,
    version=3,
    families=(WHISPER, *FAMILIES),
    differs=(
        "if the corpus has no such sentences, synthetic voices read 212 sentences of ours; a voice "
        "is used for a sentence if the model transcribes its odd word alone or in a neutral "
        "sentence",
        "the decoder reads the words before the odd word, and logits are scored; the paper counts "
        "generated texts",
        "random moves, neutral sentences, groups of layers and windows of time are additions",
        "the output of a whole module is patched, not single heads",
        "spliced real speech is an addition: a word is replaced by a similar-sounding word of the "
        "same speaker, and the fitting word is cut and inserted in the same way; the fitting word "
        "was spoken in this sentence, the odd word in another one",
    ),
)
