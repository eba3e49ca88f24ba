"""E4: whether the decoder's state distinguishes speech from sounds transcribed as speech."""

import dataclasses

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.data.corpora import Corpus
from experiments.data.real_speech import spread
from experiments.item_cache import Arrays, Keep
from experiments.studies import probing
from experiments.studies.features import transcript_features
from experiments.studies.fluent_sounds import Sound, matching_speech, sounds_without_speech
from experiments.studies.probing import Probing, Untestable
from experiments.studies.probing_analysis import (
    accuracy,
    layers_between,
    numbers,
    probe_auroc,
    verdict,
)
from experiments.studies.probing_figures import accuracy_figure
from experiments.studies.study import Analysis, Claim, Evidence, Study, choice, paper
from interventions.generation.transcripts import is_loop, words
from jaxasr import Recogniser
from jaxasr.config import SAMPLE_RATE

WIDE = (0.33, 0.91)  # the paper's layers 10 to 28 of 32
REPORTED = ("no_speech", "logprob", "tokens")
POSITIONS = {"last": "at the end of the text", "first": "before the first token"}
CLAIMS = {
    "separates": Claim(
        "The state at the end of the text distinguishes speech from sounds that were transcribed "
        "as speech",
        "100 % at layers 10 to 28 of 32",
        "balanced accuracy at depth 0.33 to 0.91 on unseen recordings and speakers",
        null=0.5,
    ),
    "almost_always": Claim(
        "That state distinguishes them almost without error",
        "100 % at layers 10 to 28 of 32, 99.2 % at layer 31",
        "the same number, compared with 0.95",
        null=0.95,
    ),
    "at_once": Claim(
        "The state before the first token already distinguishes speech from such sounds",
        "not asked",
        "balanced accuracy at depth 0.33 to 0.91 of the state after the prompt",
        null=0.5,
    ),
    "beats_no_speech": Claim(
        "The state at the end of the text is more informative than the no-speech probability",
        "not asked",
        "area under the ROC curve at depth 0.33 to 0.91, minus that of the no-speech probability",
    ),
    "beyond_sound": Claim(
        "The state at the end of the text is more informative than the mean spectrum",
        "not asked",
        "balanced accuracy at depth 0.33 to 0.91, minus that of a probe of the mean log-mel "
        "spectrum",
    ),
}

Transcribed = tuple[Sound, Arrays]


@dataclasses.dataclass(frozen=True)
class Config(Probing):
    """Settings of E4."""

    per_class: int = paper(400, "400 of speech, 400 of something else")
    seconds: tuple[float, ...] = choice(
        (3.0,), "the beginning of every sound is added, for more examples from the same recordings"
    )
    backwards: bool = choice(True, "every sound is added backwards, for the same reason")
    white: int = choice(40, "white noises, of various lengths and levels")
    without: tuple[str, ...] = choice(
        ("baby cry", "person sneeze", "dude miaowing", "cafe babble"), "human voices"
    )
    least_words: int = choice(1, "of a text that counts as transcribed; a loop does not count")
    max_new_tokens: int = choice(96, "a longer text is a loop")


def run(asr: Recogniser, corpus: Corpus, config: Config, keep: Keep) -> xr.Dataset:
    """Probes the states at `POSITIONS`, [example, layer], and collects `REPORTED` [example]."""

    def transcribe(sound: Sound) -> Arrays:
        audio = sound.samples()
        features = transcript_features(asr, audio, sound.language, config.max_new_tokens)
        return features | {"seconds": np.asarray(len(audio) / SAMPLE_RATE)}

    def fluent(name: str, sounds: list[Sound]) -> list[Transcribed]:
        items = zip(sounds, keep.each(name, sounds, transcribe))
        return [(sound, item) for sound, item in items if is_fluent(str(item["text"]), config)]

    sounds = sounds_without_speech(
        corpus, config.without, config.seconds, config.backwards, config.white
    )
    noises = spread(fluent("E4 not speech", sounds), config.per_class, lambda row: row[0].group)
    lengths = [(sound, float(item["seconds"])) for sound, item in noises]
    speech = fluent("E4 speech", matching_speech(asr, corpus, lengths, config.seed))
    rows = {"not speech": noises[: len(speech)], "speech": speech}
    arrays = probing.concatenate(
        {
            position: lambda position=position: probe_position(position, rows, config)
            for position in POSITIONS
        }
    )
    sources = len({sound.group for sound, _ in noises})
    return arrays.assign_attrs(sounds=len(sounds), fluent=len(noises), recordings=sources)


def probe_position(position: str, rows: dict[str, list[Transcribed]], config: Config) -> xr.Dataset:
    """Probes the decoder's state at one position.

    Args:
        position: a key of `POSITIONS`.
        rows: sounds with their features, by class.
        config: settings.

    Returns:
        As `experiments.studies.probing.probe_layers`, with `REPORTED` [example].

    Raises:
        Untestable: too few sounds were transcribed as words.
    """
    if min(map(len, rows.values())) < 2 * config.folds:
        raise Untestable(
            f"{position}: {len(rows['not speech'])} sounds without speech were transcribed as words"
        )
    sounds = [sound for several in rows.values() for sound, _ in several]
    items = [item for several in rows.values() for _, item in several]
    reported = {name: np.array([float(item[name]) for item in items]) for name in REPORTED}
    arrays = probing.probe_layers(
        position,
        np.stack([item[position] for item in items], 1),
        np.array([label for label, several in rows.items() for _ in several]),
        np.array([sound.group for sound in sounds]),
        config,
        {
            "mel": np.stack([item["mel"] for item in items]),
            "no-speech, log-probability": np.stack([reported["no_speech"], reported["logprob"]], 1),
        },
        [sound.id for sound in sounds],
    )
    return arrays.assign({name: ("example", values) for name, values in reported.items()})


def is_fluent(text: str, config: Config) -> bool:
    """Checks whether a text has enough words with letters and is not a loop."""
    spelled = [word for word in words(text).split() if any(map(str.isalpha, word))]
    ids = [spelled.index(word) for word in spelled]
    return len(spelled) >= config.least_words and not is_loop(ids)


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """Judges `CLAIMS` over recordings and speakers."""

    def gain_over_no_speech(rows: xr.Dataset) -> Evidence:
        # "speech" is the last class by name, and should have the smaller no-speech probability.
        return probe_auroc(rows, layers_between(rows, *WIDE), config.seed, -rows.no_speech.values)

    tests = {
        "separates": ("last", _accuracy),
        "almost_always": ("last", _accuracy),
        "at_once": ("first", _accuracy),
        "beats_no_speech": ("last", gain_over_no_speech),
        "beyond_sound": ("last", _over_spectrum),
    }
    findings = {
        key: verdict(CLAIMS[key], arrays, question, statistic, config)
        for key, (question, statistic) in tests.items()
    }
    counts = {
        name: int(arrays.attrs[name])
        for name in ("sounds", "fluent", "recordings")
        if name in arrays.attrs
    }
    return Analysis(findings, numbers(arrays) | {"not_speech": counts})


def _accuracy(rows: xr.Dataset) -> np.ndarray:
    return accuracy(rows, layers_between(rows, *WIDE))


def _over_spectrum(rows: xr.Dataset) -> np.ndarray:
    return _accuracy(rows) - accuracy(rows, "mel")


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Figure]:
    """Draws accuracy by layer at both positions."""
    return accuracy_figure(arrays, POSITIONS)


STUDY = Study(
    title="Whether the decoder's state distinguishes speech from sounds transcribed as speech",
    section="the decoder probes",
    about="Noise and music that the model transcribes as words are paired with speech of the same "
    "length and level. A linear probe of the decoder's stream distinguishes the two, on recordings "
    "and speakers that it was not trained on.",
    data="400 recordings of speech, 400 of noise, music and white noise that are transcribed as "
    "words; no corpus is named",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "here": {"per_class": 70, "seconds": (), "backwards": False, "white": 12},
        "builtin": {"per_class": 30, "white": 60},
        "quick": {"per_class": 50, "seconds": (), "white": 20},
    },
    claims=CLAIMS,
    differs=(
        "cross-validation over recordings and speakers instead of a 70/30 split",
        "speech is cut to the length of a noise and scaled to its level; the paper does not "
        "mention this",
        "parts of a recording, forwards and backwards, count as sounds, but are in one fold",
        "layers are compared by relative depth: the paper's layer n of 32 has depth (n + 1)/32",
    ),
)
