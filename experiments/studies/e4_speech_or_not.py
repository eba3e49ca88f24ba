"""E4: whether the decoder tells speech from sounds that it transcribes as if they were speech."""

import dataclasses
from typing import Any

import numpy as np
import xarray as xr

from experiments.data.corpora import Corpus, Utterance
from experiments.data.real_speech import spread
from experiments.item_cache import Arrays, Keep
from experiments.studies import probing
from experiments.studies.features import written
from experiments.studies.probing import (
    Probing,
    Untestable,
    accuracy,
    layers_between,
    ranking,
    verdict,
)
from experiments.studies.selection import (
    WINDOW_S,
    cross_validation_groups,
    first_window,
    language,
    not_speech,
    spoken,
    supported_languages,
)
from experiments.studies.study import Analysis, Claim, Evidence, Study, choice, paper
from interventions.generation.transcripts import is_loop, words
from jaxasr.config import SAMPLE_RATE

WIDE = (0.33, 0.91)  # the paper's layers 10 to 28 of 32
CLAIMS = {
    "separates": Claim(
        "The state at the end of the text tells speech from sounds that were transcribed as speech",
        "100 % at layers 10 to 28 of 32",
        "balanced accuracy at depth 0.33 to 0.91, of recordings (speakers) that the probe has not seen",
        null=0.5,
    ),
    "almost_always": Claim(
        "It does so nearly without fault",
        "100 % at layers 10 to 28 of 32, 99.2 % at layer 31",
        "the same number, against 0.95",
        null=0.95,
    ),
    "at_once": Claim(
        "It is told where the first token is chosen, before anything is written",
        "not asked",
        "balanced accuracy at depth 0.33 to 0.91, of the state after the prompt",
        null=0.5,
    ),
    "beats_no_speech": Claim(
        "It tells more than the probability of no speech",
        "not asked",
        "area under the ROC curve at depth 0.33 to 0.91 less that of the no-speech probability",
    ),
    "beyond_sound": Claim(
        "It tells more than the mean spectrum does",
        "not asked",
        "balanced accuracy at depth 0.33 to 0.91 less that of a probe of the mean log-mel spectrum",
    ),
}


@dataclasses.dataclass(frozen=True)
class Config(Probing):
    """Settings of E4."""

    per_class: int = paper(400, "400 of speech, 400 of something else")
    seconds: tuple[float, ...] = choice(
        (3.0,), "of every sound its beginning, too: more of each kind, of the same recordings"
    )
    backwards: bool = choice(True, "and all of them heard backwards")
    white: int = choice(40, "recordings of white noise, of many lengths and levels")
    without: tuple[str, ...] = choice(
        ("baby cry", "person sneeze", "dude miaowing", "cafe babble"), "human voices"
    )
    least_words: int = choice(1, "of a text that counts as transcribed; a loop does not count")
    max_new_tokens: int = choice(96, "a longer text is a loop")


@dataclasses.dataclass(frozen=True)
class Sound:
    """A recording to be heard: `id` unique, `group` what never is on both sides of a fold."""

    id: str
    group: str
    samples: Any
    language: str = "en"


def run(asr: Any, corpus: Corpus, config: Config, keep: Keep) -> xr.Dataset:
    """Answers to "last" and "first" (position), [example, layer], and the no-speech probability of every example."""

    def read(one: Sound) -> Arrays:
        return written(asr, one.samples(), one.language, config.max_new_tokens) | {
            "seconds": len(one.samples()) / SAMPLE_RATE
        }

    noises = sounds(corpus, config)
    fluent = [
        (one, kept)
        for one, kept in zip(noises, keep.each("E4 not speech", noises, read))
        if is_fluent(str(kept["text"]), config)
    ]
    fluent = spread(fluent, config.per_class, lambda row: row[0].group)
    talk = speech(asr, corpus, fluent, config.seed)
    said = [
        (one, kept)
        for one, kept in zip(talk, keep.each("E4 speech", talk, read))
        if is_fluent(str(kept["text"]), config)
    ]
    rows = {"not speech": fluent[: len(said)], "speech": said}
    found = probing.concatenate(
        {place: lambda place=place: asked(place, rows, config) for place in ("last", "first")}
    )
    return found.assign_attrs(
        heard=len(noises), fluent=len(fluent), recordings=len({one.group for one, _ in fluent})
    )


def asked(place: str, rows: dict[str, list[tuple[Sound, Arrays]]], config: Config) -> xr.Dataset:
    """The question at one position. Raises Unasked when too little was transcribed as words."""
    if min(map(len, rows.values())) < 2 * config.folds:
        raise Untestable(
            f"{place}: {len(rows['not speech'])} sounds that are not speech were transcribed as words"
        )
    every = [(kind, *row) for kind, several in rows.items() for row in several]
    labels, groups = (
        np.array([kind for kind, *_ in every]),
        np.array([one.group for _, one, _ in every]),
    )
    layers = np.stack([kept[place] for *_, kept in every], 1)
    at_hand = {
        name: np.array([float(kept[name]) for *_, kept in every])
        for name in ("no_speech", "logprob", "tokens")
    }
    baselines = {
        "mel": np.stack([kept["mel"] for *_, kept in every]),
        "no-speech, log-probability": np.stack([*at_hand.values()][:2], 1),
    }
    found = probing.ask(
        place, layers, labels, groups, config, baselines, [one.id for _, one, _ in every]
    )
    return found.assign({name: ("example", values) for name, values in at_hand.items()})


def is_fluent(text: str, config: Config) -> bool:
    """Whether a text has words with letters, and is no loop."""
    said = [word for word in words(text).split() if any(map(str.isalpha, word))]
    return len(said) >= config.least_words and not is_loop([said.index(word) for word in said])


def sounds(corpus: Corpus, config: Config) -> list[Sound]:
    """What is no speech: recordings, their beginnings, all also backwards, and white noise."""
    found = []
    for one in not_speech(corpus, config.without):
        shorter = [s for s in config.seconds if s < float(one.label("duration_s") or np.inf)]
        for seconds in (WINDOW_S, *shorter):
            for step in (1, -1) if config.backwards else (1,):
                name = f"{one.id} {seconds:g} s{' backwards' if step < 0 else ''}"
                source = str(one.label("freesound_id") or one.id)
                found.append(
                    Sound(
                        name,
                        source,
                        lambda one=one, seconds=seconds, step=step: _beginning(one, seconds)[
                            ::step
                        ].copy(),
                    )
                )
    return found + [_white(n) for n in range(config.white)]


def _beginning(one: Utterance, seconds: float) -> np.ndarray:
    return first_window(one)[: round(seconds * SAMPLE_RATE)]


def _white(n: int) -> Sound:
    """Of 2 to 10 s, and of a loudness from hardly heard to loud."""
    rng = np.random.default_rng(n)
    seconds, level = rng.uniform(2, 10), 10 ** rng.uniform(-3, -0.7)
    samples = int(seconds * SAMPLE_RATE)
    return Sound(
        f"white {n}",
        f"white {n}",
        lambda: (level * np.random.default_rng(n).normal(size=samples)).astype(np.float32),
    )


def speech(asr: Any, corpus: Corpus, noises: list[tuple[Sound, Arrays]], seed: int) -> list[Sound]:
    """For every sound a recording of speech, cut to its length where it is longer, as loud as it."""
    talk = spoken(corpus, len(corpus), supported_languages(asr, ["en"]), at_least_s=1.5)
    chosen = spread(talk, len(noises), lambda one: one.label("set"))
    lengths = np.sort([float(kept["seconds"]) for _, kept in noises])[: len(chosen)]
    by_length = sorted(chosen, key=lambda one: float(one.label("duration_s") or 0))
    pairs = zip(by_length, lengths, np.random.default_rng(seed).permutation(len(noises)))
    side = cross_validation_groups(chosen)
    return [_as_loud(one, seconds, noises[other][0], side[one.id]) for one, seconds, other in pairs]


def _as_loud(one: Utterance, seconds: float, other: Sound, side: str) -> Sound:
    def samples() -> np.ndarray:
        audio = _beginning(one, seconds)
        return (audio * (_rms(other.samples()) / max(_rms(audio), 1e-6))).astype(np.float32)

    return Sound(f"{one.id} {seconds:.2f} s as {other.id}", side, samples, language(one))


def _rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.mean(audio.astype(np.float64) ** 2)))


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """The tests of `CLAIMS`, over recordings and speakers."""
    tests = {
        "separates": ("last", _inside),
        "almost_always": ("last", _inside),
        "at_once": ("first", _inside),
        "beats_no_speech": ("last", lambda one: _beats(one, config)),
        "beyond_sound": ("last", lambda one: _inside(one) - accuracy(one, "mel")),
    }
    findings = {
        name: verdict(CLAIMS[name], arrays, question, of, config)
        for name, (question, of) in tests.items()
    }
    known = {
        name: int(arrays.attrs[name])
        for name in ("heard", "fluent", "recordings")
        if name in arrays.attrs
    }
    return Analysis(findings, probing.numbers(arrays) | {"not_speech": known})


def _inside(one: xr.Dataset) -> np.ndarray:
    return accuracy(one, layers_between(one, *WIDE))


def _beats(one: xr.Dataset, config: Config) -> Evidence:
    """Speech, the last class by name, should have the smaller probability of no speech."""
    return ranking(one, layers_between(one, *WIDE), config.seed, -one.no_speech.values)


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Any]:
    """Accuracy by layer at both positions."""
    return probing.draw(
        arrays,
        {"last": "where the end of the text is read", "first": "where the first token is chosen"},
    )


STUDY = Study(
    title="Whether the decoder tells speech from what it takes for speech",
    section="the decoder probes",
    about="Noise and music that the model transcribes as words are set against speech of the same length and loudness. A linear probe of "
    "the decoder's stream tells one from the other, on recordings and speakers that it has not seen.",
    data="400 recordings of speech, 400 of noise, music and white noise that are transcribed as words; no corpus is named",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "here": {"per_class": 70, "seconds": (), "backwards": False, "white": 12},
        "builtin": {"per_class": 30, "white": 60},
        "quick": {"per_class": 50, "seconds": (), "white": 20},
    },
    differs=(
        "cross-validation over recordings and speakers in place of a split 70/30",
        "speech is cut to the length of a noise and made as loud as one; the paper does not say so",
        "parts of a recording, forwards and backwards, are counted as sounds, but are never on both sides",
        "layers are compared by relative depth: the paper's layer n of 32 is depth (n + 1)/32",
    ),
)
