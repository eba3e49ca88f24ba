"""E1: what the encoder knows besides words: who speaks, with which accent, how noisy it is. Linear probes of every layer."""

import dataclasses
import functools
from typing import Any

import numpy as np
import xarray as xr

from experiments.data.corpora import Corpus, Utterance
from experiments.data.real_speech import spread
from experiments.item_cache import Arrays, Keep
from experiments.studies import probing
from experiments.studies.features import encoder_features
from experiments.studies.probing import Probing, Untestable, accuracy, layers_between, verdict
from experiments.studies.selection import balanced, first_window, language, not_speech
from experiments.studies.study import Analysis, Claim, Study, choice, paper
from interventions.corruptions import add, noise

UPPER, SHALLOW = (0.69, 0.91), (0, 0.35)  # the paper's best layers are 22 to 27 of 32
SNR = 10  # dB, of the claims; the others are drawn
_HIGH = "balanced accuracy at depth 0.69 to 0.91, of {} that the probe has not seen, less that of guessing"
_RISES = "balanced accuracy at depth 0.69 to 0.91 less that below depth 0.35"
_BEYOND = (
    "balanced accuracy at depth 0.69 to 0.91 less that of a probe of the mean log-mel spectrum"
)
CLAIMS = {
    "gender_upper": Claim(
        "The speaker's gender can be read off the upper layers",
        "94.6 % at layer 25 of 32",
        _HIGH.format("speakers"),
    ),
    "gender_rises": Claim(
        "Gender is clearer in the upper layers than in shallow ones",
        "weaker in shallow layers",
        _RISES,
    ),
    "gender_beyond_sound": Claim(
        "The upper layers tell gender better than the spectrum does", "not asked", _BEYOND
    ),
    "accent_upper": Claim(
        "The accent can be read off the upper layers",
        "97.0 % of four at layer 22",
        _HIGH.format("speakers"),
    ),
    "accent_rises": Claim(
        "Accent is clearer in the upper layers than in shallow ones",
        "weaker in shallow layers",
        _RISES,
    ),
    "condition_upper": Claim(
        "LibriSpeech clean and other can be told apart",
        "90.0 % at layer 27",
        _HIGH.format("speakers"),
    ),
    "noise_upper": Claim(
        f"Added noise at {SNR} dB can be read off the upper layers",
        "not asked: clean and other differ in speakers and difficulty",
        _HIGH.format("speakers and noises"),
    ),
    "noise_rises": Claim(
        "Added noise is clearer in the upper layers than in shallow ones", "not asked", _RISES
    ),
    "knows_more_than_it_says": Claim(
        "A probe tells gender better than the model when asked",
        "94.6 % against 87.8 %",
        "their difference",
    ),
}


@dataclasses.dataclass(frozen=True)
class Config(Probing):
    """Settings of E1."""

    per_gender: int = paper(1250, "2,000 utterances to train, 500 to test")
    accents: tuple[str, ...] | None = paper(
        ("New Zealand", "Welsh", "South African", "Indian"), "4-way; the corpus is not named"
    )
    per_accent: int = paper(684, "2,400 utterances to train, 337 to test")
    accent_speakers: int = choice(
        4, "unnamed accents: those of one set with so many speakers, who can be kept apart"
    )
    per_condition: int = choice(
        1500, "the paper takes all of dev and test; as many as have the time"
    )
    noisy: int = choice(200, "recordings that are heard in noise, too; the paper adds none")
    snr_db: tuple[int, ...] = choice((20, 10, 5, 0), "from hardly heard to as loud as the speech")


def run(asr: Any, corpus: Corpus, config: Config, keep: Keep) -> xr.Dataset:
    """Answers to all questions, [example, layer]; see `experiments.studies.probing.ask`."""
    listen = functools.partial(_listen, asr, keep)
    speech = [one for one in corpus.utterances if language(one) or one.speaker]
    return probing.concatenate(
        {
            "gender": lambda: by_label(
                listen, balanced(speech, _gender, config.per_gender), "gender", _gender, config
            ),
            "accent": lambda: by_label(listen, *_accented(speech, config), config),
            "condition": lambda: by_label(
                listen,
                balanced(speech, _condition, config.per_condition),
                "condition",
                _condition,
                config,
            ),
            **{
                f"noise {snr} dB": lambda snr=snr: _in_noise(listen, corpus, speech, snr, config)
                for snr in config.snr_db
            },
        }
    )


def _listen(asr: Any, keep: Keep, clips: list[Utterance]) -> list[Arrays]:
    return keep.each("E1 encoder", clips, lambda clip: encoder_features(asr, first_window(clip)))


def by_label(
    listen: Any, clips: list[Utterance], question: str, label: Any, config: Config
) -> xr.Dataset:
    """One row a recording; a speaker, where known, is on one side."""
    if len({label(one) for one in clips}) < 2:
        raise Untestable(f"{question}: no set of recordings has speech of two kinds")
    return _asked(
        question,
        listen(clips),
        [label(one) for one in clips],
        [one.speaker or one.id for one in clips],
        clips,
        config,
    )


def _asked(
    question: str,
    kept: list[Arrays],
    labels: list[str],
    groups: list[str],
    clips: list[Utterance],
    config: Config,
) -> xr.Dataset:
    layers, mel = (
        np.stack([one[name] for one in kept], axis) for name, axis in (("layers", 1), ("mel", 0))
    )
    return probing.ask(
        question,
        layers,
        np.array(labels),
        np.array(groups),
        config,
        {"mel": mel},
        [one.id for one in clips],
    )


def _gender(one: Utterance) -> str:
    first = str(one.label("gender") or "")[:1].upper()  # M, male, male_masculine
    return first if first in ("F", "M") else ""


def _condition(one: Utterance) -> str:
    return str(one.label("condition") or "")


def _accent(one: Utterance) -> str:
    return str(one.label("accent") or one.label("accents") or "")


def _accented(speech: list[Utterance], config: Config) -> tuple[list[Utterance], str, Any]:
    """Recordings of the named accents, else of the set that has most accents with enough speakers."""
    if config.accents is not None:
        kinds = {
            one.id: next(
                (name for name in config.accents if name.lower() in _accent(one).lower()), ""
            )
            for one in speech
        }
    else:
        by_set = [
            _with_speakers(speech, name, config)
            for name in dict.fromkeys(_set(one) for one in speech)
        ]
        kinds = max(by_set, key=_n_kinds, default={})
    every = [
        [one for one in speech if kinds.get(one.id) == kind]
        for kind in sorted(set(kinds.values()) - {""})
    ]
    clips = [
        one for group in every for one in spread(group, config.per_accent, lambda one: one.speaker)
    ]
    return clips, "accent", lambda one: kinds[one.id]


def _set(one: Utterance) -> Any:
    return one.label("set")


def _n_kinds(kinds: dict[str, str]) -> int:
    return len(set(kinds.values()))


def _with_speakers(speech: list[Utterance], name: Any, config: Config) -> dict[str, str]:
    here = [one for one in speech if _set(one) == name and _accent(one)]
    speakers = {
        kind: {one.speaker for one in here if _accent(one) == kind} for kind in map(_accent, here)
    }
    return {
        one.id: _accent(one)
        for one in here
        if len(speakers[_accent(one)]) >= config.accent_speakers
    }


def _in_noise(
    listen: Any, corpus: Corpus, speech: list[Utterance], snr: int, config: Config
) -> xr.Dataset:
    """Every recording clean and in noise. Each speaker has a recording of noise of his own; those who must share one share a side."""
    clips = spread(balanced(speech, _gender, config.noisy) or speech, config.noisy, _set)
    noises = _one_a_source(not_speech(corpus))
    named = len({one.speaker for one in clips}) > 1
    who = list(dict.fromkeys(one.speaker if named else one.id for one in clips))
    places = [
        who.index(one.speaker if named else one.id) % (len(noises) or len(who)) for one in clips
    ]
    noisy = [
        _noisy(one, noises[place] if noises else None, snr, place)
        for one, place in zip(clips, places)
    ]
    labels, groups = (
        ["clean"] * len(clips) + ["noisy"] * len(clips),
        [f"noise {place}" for place in places] * 2,
    )
    return _asked(
        f"noise {snr} dB", listen(clips) + listen(noisy), labels, groups, [*clips, *noisy], config
    )


def _one_a_source(noises: list[Utterance]) -> list[Utterance]:
    """Parts of one recording count once."""
    return list({str(one.label("freesound_id") or one.id): one for one in noises}.values())


def _noisy(one: Utterance, other: Utterance | None, snr: int, seed: int) -> Utterance:
    def read() -> np.ndarray:
        audio = first_window(one)
        return noise(audio, snr, seed) if other is None else add(audio, other.samples(), snr, seed)

    return dataclasses.replace(
        one,
        id=f"{one.id} {snr} dB {other.id if other else 'white'}",
        read=read,
        start_s=None,
        end_s=None,
    )


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """The tests of `CLAIMS`, one number a speaker (or noise)."""
    asked = {
        "gender": "gender",
        "accent": "accent",
        "condition": "condition",
        "noise": f"noise {SNR} dB",
    }
    tests = {"upper": _upper, "rises": _rises, "beyond_sound": _beyond}
    findings = {}
    for name, claim in CLAIMS.items():
        what, _, test = name.partition("_")
        if test in tests:
            findings[name] = verdict(claim, arrays, asked[what], tests[test], config)
    no_text = "Qwen2-Audio cannot be loaded, and Whisper cannot be asked"
    findings["knows_more_than_it_says"] = CLAIMS["knows_more_than_it_says"].judge(None, no_text)
    return Analysis(findings, probing.numbers(arrays))


def _upper(one: xr.Dataset) -> np.ndarray:
    return accuracy(one, layers_between(one, *UPPER)) - 1 / len(set(one.label.values))


def _rises(one: xr.Dataset) -> np.ndarray:
    return accuracy(one, layers_between(one, *UPPER)) - accuracy(one, layers_between(one, *SHALLOW))


def _beyond(one: xr.Dataset) -> np.ndarray:
    return accuracy(one, layers_between(one, *UPPER)) - accuracy(one, "mel")


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Any]:
    """Accuracy by layer for every question."""
    plain = {"gender": "gender", "accent": "accent", "condition": "LibriSpeech clean or other"}
    return probing.draw(
        arrays, plain | {f"noise {snr} dB": f"added noise, {snr} dB" for snr in config.snr_db}
    )


STUDY = Study(
    title="What the encoder knows besides words",
    section="the encoder probes",
    about="The stream after every encoder layer, averaged over the frames of a recording, goes into a linear probe, which is then "
    "asked about speakers that it has never heard. Beside it: shuffled labels, the mean log-mel spectrum, the embedding below layer 0.",
    data="LibriSpeech (gender; clean and other), and a corpus of four English accents that is not named",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "here": {
            "per_gender": 60,
            "accents": None,
            "per_accent": 40,
            "per_condition": 80,
            "noisy": 30,
            "snr_db": (20, 10, 0),
        },
        "builtin": {
            "per_gender": 40,
            "accents": None,
            "per_accent": 40,
            "per_condition": 40,
            "noisy": 16,
        },
        "quick": {"per_gender": 25, "noisy": 14, "snr_db": (10, 0)},
    },
    differs=(
        "cross-validation over speakers in place of one split; balanced accuracy in place of accuracy",
        "frames of the recording are averaged, not the padding to 30 s; the paper does not say which",
        "unnamed accents are those of one set that have enough speakers: first languages, where those are labelled",
        "layers are compared by relative depth: the paper's layer n of 32 is depth (n + 1)/32",
    ),
)
