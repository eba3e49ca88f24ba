"""E1: probes of every encoder layer for gender, accent, recording condition and added noise."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.data.corpora import Corpus, Utterance
from experiments.data.real_speech import spread
from experiments.item_cache import Arrays, Keep
from experiments.studies import probing, speaker_attributes as attributes
from experiments.studies.features import encoder_features
from experiments.studies.probing import Probing, Untestable
from experiments.studies.probing_analysis import accuracy, layers_between, numbers, verdict
from experiments.studies.probing_figures import accuracy_figure
from experiments.studies.selection import balanced, first_window, language, not_speech, set_of
from experiments.studies.study import Analysis, Claim, Study, choice, paper
from jaxasr import Recogniser

UPPER, SHALLOW = (0.69, 0.91), (0, 0.35)  # the paper's best layers are 22 to 27 of 32
SNR = 10  # dB, of the claims; the other ratios are only plotted
_ABOVE_CHANCE = "balanced accuracy at depth 0.69 to 0.91 on unseen {}, minus chance"
_RISE = "balanced accuracy at depth 0.69 to 0.91, minus that below depth 0.35"
_OVER_SPECTRUM = (
    "balanced accuracy at depth 0.69 to 0.91, minus that of a probe of the mean log-mel spectrum"
)
CLAIMS = {
    "gender_upper": Claim(
        "A probe of the upper layers predicts the speaker's gender",
        "94.6 % at layer 25 of 32",
        _ABOVE_CHANCE.format("speakers"),
    ),
    "gender_rises": Claim(
        "Upper layers predict gender better than shallow layers", "weaker in shallow layers", _RISE
    ),
    "gender_beyond_sound": Claim(
        "Upper layers predict gender better than the mean spectrum does",
        "not asked",
        _OVER_SPECTRUM,
    ),
    "accent_upper": Claim(
        "A probe of the upper layers predicts the accent",
        "97.0 % of four at layer 22",
        _ABOVE_CHANCE.format("speakers"),
    ),
    "accent_rises": Claim(
        "Upper layers predict the accent better than shallow layers",
        "weaker in shallow layers",
        _RISE,
    ),
    "condition_upper": Claim(
        "A probe of the upper layers distinguishes LibriSpeech clean from other",
        "90.0 % at layer 27",
        _ABOVE_CHANCE.format("speakers"),
    ),
    "noise_upper": Claim(
        f"A probe of the upper layers detects noise added at {SNR} dB",
        "not asked: clean and other differ in speakers and difficulty",
        _ABOVE_CHANCE.format("speakers and noises"),
    ),
    "noise_rises": Claim(
        "Upper layers detect added noise better than shallow layers", "not asked", _RISE
    ),
    "knows_more_than_it_says": Claim(
        "A probe predicts gender better than the model's own answer does",
        "94.6 % against 87.8 %",
        "accuracy of the probe, minus that of the answer",
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
        4, "without named accents: a set's accents with at least so many speakers"
    )
    per_condition: int = choice(1500, "the paper uses all of dev and test; as many as time allows")
    noisy: int = choice(200, "recordings that noise is added to; the paper adds none")
    snr_db: tuple[int, ...] = choice((20, 10, 5, 0), "from barely audible to as loud as the speech")


Label = Callable[[Utterance], str]
Encode = Callable[[Sequence[Utterance]], list[Arrays]]


def run(asr: Recogniser, corpus: Corpus, config: Config, keep: Keep) -> xr.Dataset:
    """Probes all questions; see `experiments.studies.probing.probe_layers` for the variables."""

    def encode(clips: Sequence[Utterance]) -> list[Arrays]:
        features = lambda clip: encoder_features(asr, first_window(clip))  # noqa: E731
        return keep.each("E1 encoder", clips, features)

    speech = [clip for clip in corpus.utterances if language(clip) or clip.speaker]

    def probe_balanced(question: str, label: Label, n: int) -> xr.Dataset:
        return probe_label(encode, balanced(speech, label, n), question, label, config)

    questions = {
        "gender": lambda: probe_balanced("gender", attributes.gender, config.per_gender),
        "accent": lambda: _probe_accent(encode, speech, config),
        "condition": lambda: probe_balanced(
            "condition", attributes.condition, config.per_condition
        ),
    }
    for snr in config.snr_db:
        questions[f"noise {snr} dB"] = lambda snr=snr: _probe_noise(
            encode, corpus, speech, snr, config
        )
    return probing.concatenate(questions)


def probe_label(
    encode: Encode, clips: Sequence[Utterance], question: str, label: Label, config: Config
) -> xr.Dataset:
    """Probes the encoder for a label of the recordings; speakers are cross-validation groups."""
    labels = [label(clip) for clip in clips]
    if len(set(labels)) < 2:
        raise Untestable(f"{question}: no set of recordings has speech of two kinds")
    groups = [clip.speaker or clip.id for clip in clips]
    return _probe(question, encode(clips), labels, groups, clips, config)


def _probe_accent(encode: Encode, speech: Sequence[Utterance], config: Config) -> xr.Dataset:
    accents = accents_of(speech, config)
    clips = attributes.select_accents(speech, accents, config.per_accent)
    return probe_label(encode, clips, "accent", lambda clip: accents[clip.id], config)


def accents_of(speech: Sequence[Utterance], config: Config) -> dict[str, str]:
    """Returns the accent by recording id: the named accents, or those of the set that has most."""
    if config.accents is None:
        return attributes.best_set_of_accents(speech, config.accent_speakers)
    return attributes.named_accents(speech, config.accents)


def _probe_noise(
    encode: Encode, corpus: Corpus, speech: list[Utterance], snr: int, config: Config
) -> xr.Dataset:
    """Probes for added noise, on each recording with and without it.

    Each speaker has one background noise. Speakers that share one are in the same fold.
    """
    clips = spread(
        balanced(speech, attributes.gender, config.noisy) or speech, config.noisy, set_of
    )
    backgrounds = attributes.distinct_sources(not_speech(corpus))
    several_speakers = len({clip.speaker for clip in clips}) > 1
    speakers = [clip.speaker if several_speakers else clip.id for clip in clips]
    order = list(dict.fromkeys(speakers))
    numbers = [order.index(name) % (len(backgrounds) or len(order)) for name in speakers]
    noisy = [
        attributes.in_noise(clip, backgrounds[number] if backgrounds else None, snr, number)
        for clip, number in zip(clips, numbers)
    ]
    labels = ["clean"] * len(clips) + ["noisy"] * len(clips)
    groups = [f"noise {number}" for number in numbers] * 2
    features = encode(clips) + encode(noisy)
    return _probe(f"noise {snr} dB", features, labels, groups, [*clips, *noisy], config)


def _probe(
    question: str,
    features: Sequence[Arrays],
    labels: Sequence[str],
    groups: Sequence[str],
    clips: Sequence[Utterance],
    config: Config,
) -> xr.Dataset:
    return probing.probe_layers(
        question,
        np.stack([item["layers"] for item in features], 1),
        np.array(labels),
        np.array(groups),
        config,
        {"mel": np.stack([item["mel"] for item in features])},
        [clip.id for clip in clips],
    )


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """Judges `CLAIMS` by one number per speaker, or per noise."""
    noise = f"noise {SNR} dB"
    tests = {
        "gender_upper": ("gender", _above_chance),
        "gender_rises": ("gender", _rise),
        "gender_beyond_sound": ("gender", _over_spectrum),
        "accent_upper": ("accent", _above_chance),
        "accent_rises": ("accent", _rise),
        "condition_upper": ("condition", _above_chance),
        "noise_upper": (noise, _above_chance),
        "noise_rises": (noise, _rise),
    }
    findings = {
        key: verdict(CLAIMS[key], arrays, question, statistic, config)
        for key, (question, statistic) in tests.items()
    }
    reason = "Qwen2-Audio cannot be loaded, and Whisper does not answer questions"
    findings["knows_more_than_it_says"] = CLAIMS["knows_more_than_it_says"].judge(None, reason)
    return Analysis(findings, numbers(arrays))


def _above_chance(rows: xr.Dataset) -> np.ndarray:
    return accuracy(rows, layers_between(rows, *UPPER)) - 1 / len(set(rows.label.values))


def _rise(rows: xr.Dataset) -> np.ndarray:
    upper, shallow = (layers_between(rows, *depths) for depths in (UPPER, SHALLOW))
    return accuracy(rows, upper) - accuracy(rows, shallow)


def _over_spectrum(rows: xr.Dataset) -> np.ndarray:
    return accuracy(rows, layers_between(rows, *UPPER)) - accuracy(rows, "mel")


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Figure]:
    """Draws accuracy by layer for every question."""
    titles = {"gender": "gender", "accent": "accent", "condition": "LibriSpeech clean or other"}
    titles |= {f"noise {snr} dB": f"added noise, {snr} dB" for snr in config.snr_db}
    return accuracy_figure(arrays, titles)


STUDY = Study(
    title="What the encoder represents besides words",
    section="the encoder probes",
    about="A linear probe reads the output of each encoder layer, averaged over the frames of a "
    "recording, and is tested on speakers that it was not trained on. Controls are shuffled "
    "labels, the mean log-mel spectrum and the embedding below layer 0.",
    data="LibriSpeech (gender; clean and other), and a corpus of four English accents that is not "
    "named",
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
    claims=CLAIMS,
    differs=(
        "cross-validation over speakers instead of one split; balanced accuracy instead of plain",
        "activations are averaged over the recording's frames, without the padding to 30 s; the "
        "paper does not specify this",
        "without named accents, those of one set with enough speakers: first languages, where "
        "those are labelled",
        "layers are compared by relative depth: the paper's layer n of 32 has depth (n + 1)/32",
    ),
)
