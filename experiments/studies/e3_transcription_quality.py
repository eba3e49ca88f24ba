"""E3: tests whether the decoder's state predicts transcription errors."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.data.corpora import Corpus, Utterance
from experiments.data.real_speech import select_evenly
from experiments.item_cache import Arrays, ItemCache
from experiments.studies import probing
from experiments.studies.claims import Claim
from experiments.studies.evidence import Evidence
from experiments.studies.features import transcript_features
from experiments.studies.matched_pairs import error_rates, match_pairs, n_words, speaker_or_id
from experiments.studies.probing import ProbingSettings, Untestable
from experiments.studies.probing_analysis import (
    accuracy,
    judge_question,
    layers_between,
    probe_auroc,
    score_auroc,
    summarize_probes,
)
from experiments.studies.probing_figures import accuracy_figure
from experiments.studies.selection import (
    first_window,
    language,
    select_speech,
    set_of,
    supported_languages,
)
from experiments.studies.study import Analysis, Study, choice, paper
from interventions.figures import plots
from jaxasr import Recogniser

# Ranges of relative depth. The paper's layer 22 of 32 has depth 0.72, its layer 5 depth 0.19.
UPPER_DEPTHS, SHALLOW_DEPTHS = (0.66, 0.78), (0, 0.3)
# Numbers that Whisper returns with a text. A larger number is assumed to mean a worse text.
REPORTED_NUMBERS = ("improbability", "compression", "no speech", "length")
# Panel titles by question. A question is one kind of error.
QUESTION_TITLES = {"errors": "errors against none", "insertions": "insertions against none"}
_GAIN_TEST = "area under the ROC curve of the probe at depth 0.66 to 0.78, minus that of {}"
CLAIMS = {
    "predicts": Claim(
        "The state at the end of the text distinguishes wrong transcripts from right ones",
        "93.4 % (LibriSpeech) and 88.1 % (Common Voice) at layer 22 of 32",
        "balanced accuracy at depth 0.66 to 0.78 on unseen speakers",
        null=0.5,
    ),
    "deepens": Claim(
        "Upper layers distinguish wrong transcripts better than shallow layers",
        "62.2 % at layer 5, 93.4 % at layer 22 of 32",
        "balanced accuracy at depth 0.66 to 0.78, minus that below depth 0.3",
    ),
    "beats_logprob": Claim(
        "The state predicts errors better than the mean log-probability does",
        "not asked",
        _GAIN_TEST.format("the mean log-probability"),
    ),
    "beats_at_hand": Claim(
        "The state predicts errors better than log-probability, compression ratio, no-speech "
        "probability and length together",
        "not asked",
        _GAIN_TEST.format("a probe of these four numbers"),
    ),
    "insertions": Claim(
        "The state also predicts whether the text has words that were not spoken (insertions)",
        "not asked; a high error rate is not always hallucination",
        "area under the ROC curve at depth 0.66 to 0.78, insertions against none",
        null=0.5,
    ),
    "insertions_beat_logprob": Claim(
        "The state predicts inserted words better than the mean log-probability does",
        "not asked",
        _GAIN_TEST.format("the mean log-probability"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Config(ProbingSettings):
    """Settings of E3."""

    per_class: int = paper(200, "section 4.2: 400 samples; by one account, 150 have no errors")
    recordings: int = choice(
        2620, "recordings to transcribe in search of errors, as many as LibriSpeech test-clean has"
    )
    least_words: int = choice(3, "fewest spoken words; the error rate of a single word is 0 or 1")
    longer: float = choice(1.25, "largest ratio between the word counts of a matched pair")
    max_new_tokens: int = choice(224, "half of the decoder's context, as openai/whisper")


def run(asr: Recogniser, corpus: Corpus, config: Config, cache: ItemCache) -> xr.Dataset:
    """Transcribes all recordings, and runs `probe_pairs` for each kind of error."""
    clips = _select_recordings(asr, corpus, config)

    def transcribe(clip: Utterance) -> Arrays:
        audio = first_window(clip)
        return transcript_features(asr, audio, language(clip), config.max_new_tokens)

    items = cache.each("E3 transcripts", clips, transcribe)
    features = {clip.id: item for clip, item in zip(clips, items)}
    rates = {clip.id: error_rates(str(features[clip.id]["text"]), clip) for clip in clips}

    def probe(question: str) -> xr.Dataset:
        rate_by_id = {clip_id: rate[question] for clip_id, rate in rates.items()}
        return probe_pairs(question, clips, features, rate_by_id, config)

    return probing.concatenate({name: lambda name=name: probe(name) for name in QUESTION_TITLES})


def _select_recordings(asr: Recogniser, corpus: Corpus, config: Config) -> list[Utterance]:
    languages = supported_languages(asr, None)
    clips = select_evenly(
        [
            clip
            for clip in select_speech(corpus, len(corpus), languages, labelled=True)
            if n_words(clip) >= config.least_words
        ],
        config.recordings,
        set_of,
    )
    if len({clip.speaker for clip in clips}) > 1:
        return clips
    # Without speaker names, each recording is a cross-validation group of its own.
    return [dataclasses.replace(clip, speaker="") for clip in clips]


def probe_pairs(
    question: str,
    clips: Sequence[Utterance],
    features: Mapping[str, Arrays],
    rates: Mapping[str, float],
    config: Config,
) -> xr.Dataset:
    """Probes one kind of error over matched pairs of recordings.

    Args:
        question: the kind of error, a key of `QUESTION_TITLES`.
        clips: the recordings.
        features: results of `transcript_features`, by recording id.
        rates: rates of this kind of error, by recording id.
        config: sets the number of pairs, the number of folds and the length ratio.

    Returns:
        The dataset of `probing.probe_layers`, with `reported` [example, number].

    Raises:
        Untestable: there are too few pairs.
    """
    pairs = match_pairs(clips, rates, max_ratio=config.longer, n=config.per_class)
    if len(pairs) < 2 * config.folds:
        raise Untestable(
            f"{question}: {len(pairs)} pairs of a bad and an error-free transcript of similar "
            f"length; at least {2 * config.folds} are needed"
        )
    rows = [features[clip.id] for pair in pairs for clip in pair]
    # Both recordings of a pair are in one cross-validation group, named after their speakers.
    groups = [" and ".join(sorted({speaker_or_id(clip) for clip in pair})) for pair in pairs]
    reported = np.array([reported_numbers(row) for row in rows])
    arrays = probing.probe_layers(
        question,
        layers=np.stack([row["last"] for row in rows], 1),
        labels=np.array(["bad", "right"] * len(pairs)),
        groups=np.repeat(groups, 2),
        config=config,
        baselines={"numbers at hand": reported, "mel": np.stack([row["mel"] for row in rows])},
        examples=[clip.id for pair in pairs for clip in pair],
        blocks=np.repeat(np.arange(len(pairs)), 2),  # the control swaps labels within pairs
    )
    return arrays.assign(reported=(("example", "number"), reported)).assign_coords(
        number=list(REPORTED_NUMBERS)
    )


def reported_numbers(item: Arrays) -> list[float]:
    """Returns the `REPORTED_NUMBERS` of one transcript."""
    names = ("ratio", "no_speech", "tokens")
    return [-float(item["logprob"]), *(float(item[name]) for name in names)]


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """Judges `CLAIMS` by statistics over speakers."""

    def probe_area(rows: xr.Dataset, reference: np.ndarray | None = None) -> Evidence:
        return probe_auroc(rows, layers_between(rows, *UPPER_DEPTHS), config.seed, reference)

    def gain_over_logprob(rows: xr.Dataset) -> Evidence:
        return probe_area(rows, -_reported_values(rows, "improbability"))

    def gain_over_all_numbers(rows: xr.Dataset) -> Evidence:
        return probe_area(rows, rows.probability.sel(layer="numbers at hand").values)

    tests = {
        "predicts": ("errors", _upper_accuracy),
        "deepens": ("errors", _gain_over_shallow),
        "beats_logprob": ("errors", gain_over_logprob),
        "beats_at_hand": ("errors", gain_over_all_numbers),
        "insertions": ("insertions", probe_area),
        "insertions_beat_logprob": ("insertions", gain_over_logprob),
    }
    findings = {
        key: judge_question(CLAIMS[key], arrays, question, statistic, config)
        for key, (question, statistic) in tests.items()
    }
    numbers = summarize_probes(arrays) | {"auroc": _auroc_intervals(arrays, config)}
    return Analysis(findings, numbers)


def _upper_accuracy(rows: xr.Dataset) -> np.ndarray:
    return accuracy(rows, layers_between(rows, *UPPER_DEPTHS))


def _gain_over_shallow(rows: xr.Dataset) -> np.ndarray:
    return _upper_accuracy(rows) - accuracy(rows, layers_between(rows, *SHALLOW_DEPTHS))


def _reported_values(rows: xr.Dataset, number: str) -> np.ndarray:
    return rows.reported.sel(number=number).values


def _auroc_intervals(arrays: xr.Dataset, config: Config) -> dict[str, dict[str, list[float]]]:
    """Computes the area under the ROC curve and its interval, per layer and reported number."""
    areas = {}  # by question
    for question in probing.questions(arrays):
        rows = probing.rows_of(arrays, question)
        by_name = {
            str(layer): probe_auroc(rows, [layer], config.seed) for layer in rows.layer.values
        }
        for name in REPORTED_NUMBERS:
            # Negated, because the area is that of the class "right".
            by_name[name] = score_auroc(rows, -_reported_values(rows, name), config.seed)
        areas[question] = {
            name: [round(x, 3) for x in (area.value, area.low, area.high)]
            for name, area in by_name.items()
        }
    return areas


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Figure]:
    """Draws accuracy by layer, and areas under the ROC curve of probes and reported numbers."""
    figures = accuracy_figure(arrays, QUESTION_TITLES)
    return figures | ({"auroc": _area_figure(_auroc_intervals(arrays, config))} if figures else {})


def _area_figure(areas: dict[str, dict[str, list[float]]]) -> Figure:
    figure, axes = plots.panels(1, len(areas), width=4.4, height=3.4, sharey=True)
    for panel, (question, intervals) in zip(axes, areas.items()):
        _draw_intervals(panel, intervals)
        panel.set(title=QUESTION_TITLES[question], xlabel="area under the ROC curve")
    return figure


def _draw_intervals(axes: Axes, intervals: dict[str, list[float]]) -> None:
    names = [name for name in intervals if name != "embedding"][::-1]
    value, low, high = np.array([intervals[name] for name in names]).T
    colours = [_colour(name) for name in names]
    axes.hlines(range(len(names)), low, high, color=colours)
    axes.scatter(value, range(len(names)), color=colours, s=18, zorder=3)
    axes.axvline(0.5, color=plots.GREY, linestyle=":", linewidth=1)
    axes.set_yticks(range(len(names)), [f"layer {n}" if n.isdigit() else n for n in names])


def _colour(name: str) -> str:
    if name in REPORTED_NUMBERS:
        return plots.ACCENT
    return plots.BLUE if name.isdigit() else plots.GREY


STUDY = Study(
    title="Whether the decoder's state predicts transcription errors",
    section="section 4.2",
    about="The worst transcripts are paired with error-free ones of similar length, from the same "
    "speaker if possible. A linear probe of the decoder's stream at the end of the text "
    "distinguishes the two. It is tested on held-out speakers.",
    data="LibriSpeech test-clean and Common Voice 16.1, zero against highest word error rate, 400 "
    "samples each",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "here": {"recordings": 260},
        "builtin": {"recordings": 40, "least_words": 1},
        "quick": {"recordings": 150},
    },
    claims=CLAIMS,
    differs=(
        "cross-validation over speakers instead of a 70/30 split",
        "pairs are matched within a speaker, or else within a set of recordings, so that speaker "
        "and set do not predict the label",
        "all recordings of a speaker are in one fold, and so are both recordings of a pair; "
        "uninformative features therefore score at chance",
        "in languages without spaces, errors are counted in characters",
        "if there are few errors, every transcript with any error counts as bad",
        "layers are compared by relative depth: the paper's layer n of 32 has depth (n + 1)/32",
    ),
)
