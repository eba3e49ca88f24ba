"""E4: tests whether the decoder's state distinguishes speech from sounds without speech."""

import dataclasses
import functools
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.data.corpora import Corpus
from experiments.data.real_speech import select_evenly
from experiments.item_cache import Arrays, ItemCache
from experiments.studies import probing
from experiments.studies.claims import SECONDARY, Claim
from experiments.studies.evidence import Evidence
from experiments.studies.features import transcript_features
from experiments.studies.fluent_sounds import Sound, matching_speech, sounds_without_speech
from experiments.studies.pair_evidence import accuracy_evidence
from experiments.studies.probing import ProbingSettings, Untestable
from experiments.studies.probing_analysis import judge_question, layers_between, summarize_probes
from experiments.studies.probing_figures import accuracy_figure
from experiments.studies.study import Analysis, Study, choice, paper
from interventions.generation.transcripts import is_loop, words
from jaxasr import Recogniser
from jaxasr.config import SAMPLE_RATE

# Range of relative depth that corresponds to the paper's layers 10 to 28 of 32.
PROBED_DEPTHS = (0.33, 0.91)
# Numbers that Whisper returns with a text. The last is the number of tokens.
REPORTED_NUMBERS = ("no_speech", "logprob", "tokens")
# Token positions whose decoder states are probed, and the titles of their panels.
POSITION_TITLES = {"last": "at the end of the text", "first": "before the first token"}
# Names of the probes that make the claims trivial if they do as well.
SPECTRUM, REPORTED = "mel", "no-speech, log-probability"
_FLOOR = "a probe of the no-speech probability and the log-probability, or of the mean spectrum"
_claim = functools.partial(Claim, unit="%", units="sources and speakers")
CLAIMS = {
    "separates": _claim(
        "The state at the end of the text distinguishes speech from sounds that were transcribed "
        "as speech and have a small no-speech probability",
        "100 % at layers 10 to 28 of 32, 99.2 % at layer 31",
        "balanced accuracy at depth 0.33 to 0.91 on held-out recordings and speakers",
        null=0.5,
        paper_value=0.992,
        floor=_FLOOR,
    ),
    "almost_always": _claim(
        "The state at the end of the text distinguishes speech from such sounds almost without "
        "error",
        "100 % at layers 10 to 28 of 32, 99.2 % at layer 31",
        "the balanced accuracy of the first claim, compared with 95 %",
        null=0.95,
        paper_value=0.992,
        floor=_FLOOR,
    ),
    "at_once": _claim(
        "The state before the first token already distinguishes speech from such sounds",
        "not asked",
        "balanced accuracy at depth 0.33 to 0.91 of the state after the prompt",
        null=0.5,
        least=0.75,
        family=SECONDARY,
        floor=_FLOOR,
    ),
    "beyond_reported": _claim(
        "The state at the end of the text distinguishes speech from such sounds better than the "
        "no-speech probability and the log-probability do",
        "not asked",
        "balanced accuracy at depth 0.33 to 0.91, minus that of a probe of these two numbers",
        least=0.05,
        family=SECONDARY,
    ),
    "beyond_sound": _claim(
        "The state at the end of the text distinguishes speech from such sounds better than the "
        "mean spectrum does",
        "not asked",
        "balanced accuracy at depth 0.33 to 0.91, minus that of a probe of the mean log-mel "
        "spectrum",
        least=0.05,
        family=SECONDARY,
    ),
}

Transcribed = tuple[Sound, Arrays]  # a sound and its `transcript_features`


@dataclasses.dataclass(frozen=True)
class Config(ProbingSettings):
    """Settings of E4."""

    per_class: int = paper(400, "400 recordings of speech and 400 of other sounds")
    seconds: tuple[float, ...] = choice(
        (3.0,), "lengths of further examples, which are the beginnings of the sounds"
    )
    backwards: bool = choice(True, "each sound, reversed in time, is a further example")
    white: int = choice(40, "white noises, of various lengths and levels")
    speeds: tuple[float, ...] = choice(
        (0.67, 0.35), "speeds of further examples; slow sounds have smaller no-speech probabilities"
    )
    max_no_speech: float = choice(
        0.3,
        "largest no-speech probability of sounds and speech; that of larger ones is an easy cue",
    )
    least_words: int = choice(1, "fewest words of a text that counts as fluent; loops never count")
    max_new_tokens: int = choice(96, "enough for the recordings; longer texts are loops")


def run(asr: Recogniser, corpus: Corpus, config: Config, cache: ItemCache) -> xr.Dataset:
    """Transcribes sounds and speech, and probes the decoder's states at `POSITION_TITLES`.

    Returns:
        The dataset of `probe_position`, with rows of both positions. The attributes are counts:
        `sounds`: all sounds without speech.
        `passing`: selected sounds that pass as speech, at most `config.per_class`.
        `sources`: sources (recordings and white noises) that the selected sounds were made from.
    """

    def transcribe(sound: Sound) -> Arrays:
        audio = sound.samples()
        features = transcript_features(asr, audio, sound.language, config.max_new_tokens)
        return features | {"seconds": np.asarray(len(audio) / SAMPLE_RATE)}

    def transcribe_passing(name: str, sounds: list[Sound]) -> list[Transcribed]:
        items = zip(sounds, cache.each(name, sounds, transcribe))
        return [(sound, item) for sound, item in items if passes_as_speech(item, config)]

    sounds = sounds_without_speech(
        corpus,
        seconds=config.seconds,
        speeds=config.speeds,
        backwards=config.backwards,
        n_white=config.white,
    )
    noises = select_evenly(
        transcribe_passing("E4 not speech", sounds),
        config.per_class,
        lambda example: example[0].group,
    )
    timed_noises = [(sound, float(item["seconds"])) for sound, item in noises]
    speech = transcribe_passing(
        "E4 speech", matching_speech(asr, corpus, timed_noises, config.seed)
    )
    # Speech can be rarer than sounds, so the classes are made equally large.
    by_class = {"not speech": noises[: len(speech)], "speech": speech}
    arrays = probing.concatenate(
        {
            position: functools.partial(probe_position, position, by_class, config)
            for position in POSITION_TITLES
        }
    )
    sources = len({sound.group for sound, _ in noises})
    return arrays.assign_attrs(sounds=len(sounds), passing=len(noises), sources=sources)


def probe_position(
    position: str, by_class: dict[str, list[Transcribed]], config: Config
) -> xr.Dataset:
    """Probes the decoder's state at one position.

    Args:
        position: a key of `POSITION_TITLES`.
        by_class: sounds with their features, by class ("speech" and "not speech").
        config: sets the number of folds and the seed.

    Returns:
        The dataset of `probing.probe_layers`, with `REPORTED_NUMBERS` [example].

    Raises:
        Untestable: too few sounds were transcribed as words.
    """
    if min(map(len, by_class.values())) < 2 * config.folds:
        raise Untestable(
            f"{position}: {len(by_class['not speech'])} sounds without speech were transcribed as "
            f"words with a no-speech probability of at most {config.max_no_speech}; at least "
            f"{2 * config.folds} are needed"
        )
    sounds = [sound for examples in by_class.values() for sound, _ in examples]
    items = [item for examples in by_class.values() for _, item in examples]
    reported = {name: np.array([float(item[name]) for item in items]) for name in REPORTED_NUMBERS}
    arrays = probing.probe_layers(
        position,
        layers=np.stack([item[position] for item in items], 1),
        labels=np.array([label for label, examples in by_class.items() for _ in examples]),
        groups=np.array([sound.group for sound in sounds]),
        config=config,
        baselines={
            SPECTRUM: np.stack([item["mel"] for item in items]),
            REPORTED: np.stack([reported["no_speech"], reported["logprob"]], 1),
        },
        examples=[sound.id for sound in sounds],
    )
    return arrays.assign({name: ("example", values) for name, values in reported.items()})


def passes_as_speech(item: Arrays, config: Config) -> bool:
    """Checks that a recording has a fluent text and a small no-speech probability.

    Args:
        item: its `transcript_features`.
        config: the limits.
    """
    is_small = float(item["no_speech"]) <= config.max_no_speech
    return is_small and is_fluent(str(item["text"]), config)


def is_fluent(text: str, config: Config) -> bool:
    """Checks whether a text has enough words with letters, and is not a loop.

    Example:
        >>> is_fluent("thank you", Config()), is_fluent("...", Config())
        (True, False)
    """
    spelled_words = [word for word in words(text).split() if any(map(str.isalpha, word))]
    # `is_loop` compares integers, so each word is replaced by the index where it first occurs.
    ids = [spelled_words.index(word) for word in spelled_words]
    return len(spelled_words) >= config.least_words and not is_loop(ids, text)


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """Judges `CLAIMS` by statistics over sources of sounds and speakers."""
    floors = [SPECTRUM, REPORTED]
    tests: dict[str, tuple[str, dict[str, Any]]] = {
        "separates": ("last", {"null": 0.5, "floors": floors}),
        "almost_always": ("last", {"null": 0.95, "floors": floors}),
        "at_once": ("first", {"null": 0.5, "floors": floors}),
        "beyond_reported": ("last", {"minus": [REPORTED]}),
        "beyond_sound": ("last", {"minus": [SPECTRUM]}),
    }

    def estimate(rows: xr.Dataset, options: dict[str, Any]) -> Evidence:
        layers = layers_between(rows, *PROBED_DEPTHS)
        return accuracy_evidence(rows, layers, seed=config.seed, **options)

    findings = {
        key: judge_question(
            CLAIMS[key], arrays, question, functools.partial(estimate, options=options), config
        )
        for key, (question, options) in tests.items()
    }
    names = ("sounds", "passing", "sources")
    counts = {name: int(arrays.attrs[name]) for name in names if name in arrays.attrs}
    return Analysis(findings, summarize_probes(arrays) | {"not_speech": counts})


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Figure]:
    """Draws accuracy by layer at both positions."""
    return accuracy_figure(arrays, POSITION_TITLES)


STUDY = Study(
    title="Whether the decoder's state distinguishes speech from sounds transcribed as speech",
    section="the decoder probes",
    about="Noise and music that the model transcribes as words, with a small no-speech "
    "probability, are compared with speech of equal length and level. A linear probe of the "
    "decoder's stream distinguishes the two. It is tested on held-out recordings and speakers.",
    data="400 recordings of speech, 400 of noise, music and white noise that are transcribed as "
    "words; no corpus is named",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "all": {"seconds": ()},
        "here": {
            **{"per_class": 70, "seconds": (), "backwards": False, "speeds": (), "white": 12},
            "max_no_speech": 0.6,
        },
        # White noise is all that the package has, and its no-speech probability is large.
        "builtin": {"per_class": 30, "speeds": (), "white": 60, "max_no_speech": 1.0},
        "quick": {"per_class": 50, "seconds": (), "speeds": (), "backwards": False, "white": 20},
    },
    claims=CLAIMS,
    version=2,
    differs=(
        "cross-validation over recordings and speakers instead of a 70/30 split",
        "speech is cut to the length of a noise and scaled to its level; the paper does not "
        "mention this",
        "parts of a recording, forwards, backwards and slowed down, are separate sounds in the "
        "same fold",
        "sounds are hard in a stricter sense: their no-speech probability is small",
        "layers are compared by relative depth: the paper's layer n of 32 has depth (n + 1)/32",
    ),
)
