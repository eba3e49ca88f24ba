"""E3: tests whether the decoder's state predicts transcription errors."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.data.corpora import Corpus, Utterance
from experiments.item_cache import Arrays, ItemCache
from experiments.studies import probing
from experiments.studies.claims import SECONDARY, Claim
from experiments.studies.evidence import Evidence
from experiments.studies.features import transcript_features
from experiments.studies.language_claims import PaperNumber, claims_of, name_family
from experiments.studies.matched_pairs import error_rates, match_pairs, speaker_or_id
from experiments.studies.noisy_sentences import countable_sentences, noise_level, with_noisy_copies
from experiments.studies.pair_evidence import accuracy_evidence, area_evidence
from experiments.studies.probing import ProbingSettings, Untestable
from experiments.studies.probing_analysis import (
    judge_question,
    layers_between,
    score_auroc,
    summarize_probes,
)
from experiments.studies.probing_figures import accuracy_figure, area_figure
from experiments.studies.quality_numbers import (
    AT_HAND,
    REPORTED_NUMBERS,
    auroc_intervals,
    pairs_by_level,
    reported_numbers,
    reported_values,
)
from experiments.studies.selection import first_window, language
from experiments.studies.study import Analysis, Study, choice, paper
from jaxasr import Recogniser
from jaxasr.families import FAMILIES, WHISPER

# Ranges of relative depth. The paper's layer 22 of 32 has depth 0.72, its layer 5 depth 0.19.
UPPER_DEPTHS, SHALLOW_DEPTHS = (0.66, 0.78), (0, 0.3)
# Panel titles by question. A question is one kind of error.
QUESTION_TITLES = {"errors": "errors against none", "insertions": "insertions against none"}
_AREA = "area under the ROC curve of the probe at depth 0.66 to 0.78"
_claim_gain = functools.partial(Claim, units="speakers", family=SECONDARY, least=0.05)
CLAIMS = {
    "predicts": Claim(
        "The state at the end of the text distinguishes the worst transcripts from faultless ones",
        "93.4 % (LibriSpeech) and 88.1 % (Common Voice) at layer 22 of 32",
        "balanced accuracy at depth 0.66 to 0.78 on held-out speakers",
        null=0.5,
        paper_value=0.934,
        unit="%",
        units="speakers",
        floor="a probe of log-probability, compression ratio, no-speech probability and length",
    ),
    "deepens": Claim(
        "Upper layers distinguish the worst transcripts better than shallow layers",
        "62.2 % at layer 5, 93.4 % at layer 22 of 32",
        "balanced accuracy at depth 0.66 to 0.78, minus that below depth 0.3",
        paper_value=0.312,
        unit="%",
        units="speakers",
    ),
    "beats_logprob": _claim_gain(
        "The state predicts errors better than the mean log-probability does",
        "not asked",
        f"{_AREA}, minus that of the mean log-probability",
    ),
    "beats_at_hand": _claim_gain(
        "The state predicts errors better than log-probability, compression ratio, no-speech "
        "probability and length together",
        "not asked",
        f"{_AREA}, minus that of a probe of these four numbers",
    ),
    "insertions": Claim(
        "The state also predicts whether the text has words that were not spoken (insertions)",
        "not asked; a high error rate is not always hallucination",
        f"{_AREA}, most insertions against none",
        null=0.5,
        least=0.6,
        units="speakers",
        family=SECONDARY,
        floor="the mean log-probability",
    ),
    "insertions_beat_logprob": _claim_gain(
        "The state predicts inserted words better than the mean log-probability does",
        "not asked",
        f"{_AREA}, minus that of the mean log-probability",
    ),
}

# What the paper reports for Qwen2-Audio, by claim.
_OF_QWEN = {
    "predicts": PaperNumber(
        "Qwen2-Audio: 70.2 % (LibriSpeech) and 83.6 % (Common Voice) at layer 22 of 32", 0.702
    ),
    "deepens": PaperNumber("not reported for Qwen2-Audio", None, least=0.156),
}


@dataclasses.dataclass(frozen=True)
class Config(ProbingSettings):
    """Settings of E3."""

    per_class: int = paper(200, "section 4.2: 400 samples; by one account, 150 have no errors")
    recordings: int = choice(
        2620, "recordings to transcribe in search of errors, as many as LibriSpeech test-clean has"
    )
    snr_db: tuple[int, ...] = choice(
        (), "levels of added noise; each recording is also transcribed in each of them"
    )
    worst: float = choice(
        1 / 3, "share of the transcripts that counts as bad; the paper takes those with most errors"
    )
    least_words: int = choice(3, "fewest spoken words; the error rate of a single word is 0 or 1")
    longer: float = choice(1.25, "largest ratio between the word counts of a matched pair")
    max_new_tokens: int = choice(224, "half of the decoder's context, as openai/whisper")


def run(asr: Recogniser, corpus: Corpus, config: Config, cache: ItemCache) -> xr.Dataset:
    """Transcribes all recordings, and runs `probe_pairs` for each kind of error."""
    sentences = countable_sentences(asr, corpus, config.recordings, config.least_words)
    clips = with_noisy_copies(sentences, corpus, config.snr_db, config.seed)

    def transcribe(clip: Utterance) -> Arrays:
        audio = first_window(clip)
        return transcript_features(asr, audio, language(clip), config.max_new_tokens)

    items = cache.each("E3 transcripts", clips, transcribe)
    features = {clip.id: item for clip, item in zip(clips, items)}
    rates = {clip.id: error_rates(str(features[clip.id]["text"]), clip) for clip in clips}

    def probe(question: str) -> xr.Dataset:
        rate_by_id = {clip_id: rate[question] for clip_id, rate in rates.items()}
        return probe_pairs(question, clips, features, rate_by_id, config)

    arrays = probing.concatenate({name: lambda name=name: probe(name) for name in QUESTION_TITLES})
    return name_family(arrays, asr.config)


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
    pairs = match_pairs(clips, rates, config.longer, config.per_class, config.worst)
    if len(pairs) < 2 * config.folds:
        raise Untestable(
            f"{question}: {len(pairs)} pairs of a bad and an error-free transcript of similar "
            f"length; at least {2 * config.folds} are needed"
        )
    rows = [features[clip.id] for pair in pairs for clip in pair]
    # Both recordings of a pair are in one cross-validation group, named after their speakers.
    groups = [" and ".join(sorted({speaker_or_id(clip) for clip in pair})) for pair in pairs]
    reported = np.array([reported_numbers(row) for row in rows])
    # An audio language model reports no probability of no speech.
    has_number = np.isfinite(reported).all(0)
    names, reported = np.array(REPORTED_NUMBERS)[has_number], reported[:, has_number]
    in_pairs = [clip for pair in pairs for clip in pair]
    levels = [noise_level(clip) for clip in in_pairs]
    arrays = probing.probe_layers(
        question,
        layers=np.stack([row["last"] for row in rows], 1),
        labels=np.array(["bad", "right"] * len(pairs)),
        groups=np.repeat(groups, 2),
        config=config,
        baselines={AT_HAND: reported, "mel": np.stack([row["mel"] for row in rows])},
        examples=[clip.id for clip in in_pairs],
        blocks=np.repeat(np.arange(len(pairs)), 2),  # the control swaps labels within pairs
    )
    return arrays.assign(
        reported=(("example", "number"), reported),
        rate=("example", [rates[clip.id] for clip in in_pairs]),
    ).assign_coords(number=names, snr_db=("example", levels))


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """Judges `CLAIMS` by statistics over speakers."""
    tests = {
        "predicts": ("errors", _upper_accuracy),
        "deepens": ("errors", _gain_over_shallow),
        "beats_logprob": ("errors", _gain_over_logprob),
        "beats_at_hand": ("errors", _gain_over_all_numbers),
        "insertions": ("insertions", _upper_area),
        "insertions_beat_logprob": ("insertions", _gain_over_logprob),
    }
    claims = claims_of(arrays, CLAIMS, _OF_QWEN)
    findings = {
        key: judge_question(
            claims[key], arrays, question, functools.partial(statistic, seed=config.seed), config
        )
        for key, (question, statistic) in tests.items()
    }
    numbers = {"auroc": auroc_intervals(arrays, config.seed), "pairs": pairs_by_level(arrays)}
    return Analysis(findings, summarize_probes(arrays) | numbers)


def _upper_accuracy(rows: xr.Dataset, seed: int) -> Evidence:
    upper = layers_between(rows, *UPPER_DEPTHS)
    return accuracy_evidence(rows, upper, null=0.5, floors=[AT_HAND], seed=seed)


def _gain_over_shallow(rows: xr.Dataset, seed: int) -> Evidence:
    upper, shallow = (layers_between(rows, *depths) for depths in (UPPER_DEPTHS, SHALLOW_DEPTHS))
    return accuracy_evidence(rows, upper, minus=shallow, seed=seed)


def _upper_area(rows: xr.Dataset, seed: int) -> Evidence:
    floor = score_auroc(rows, _certainty(rows), seed).value
    upper = layers_between(rows, *UPPER_DEPTHS)
    return area_evidence(rows, upper, null=0.5, seed=seed, floor=floor)


def _gain_over_logprob(rows: xr.Dataset, seed: int) -> Evidence:
    upper = layers_between(rows, *UPPER_DEPTHS)
    return area_evidence(rows, upper, null=0.0, seed=seed, against=_certainty(rows))


def _gain_over_all_numbers(rows: xr.Dataset, seed: int) -> Evidence:
    upper, others = layers_between(rows, *UPPER_DEPTHS), rows.probability.sel(layer=AT_HAND).values
    return area_evidence(rows, upper, null=0.0, seed=seed, against=others)


def _certainty(rows: xr.Dataset) -> np.ndarray:
    """Returns the mean log-probability, which is larger for the class "right"."""
    return -reported_values(rows, "improbability")


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Figure]:
    """Draws accuracy by layer, and areas under the ROC curve of probes and reported numbers."""
    figures = accuracy_figure(arrays, QUESTION_TITLES)
    if not figures:
        return figures
    areas = auroc_intervals(arrays, config.seed)
    return figures | {"auroc": area_figure(areas, QUESTION_TITLES, arrays.number.values.tolist())}


STUDY = Study(
    title="Whether the decoder's state predicts transcription errors",
    section="section 4.2",
    about="Recordings are transcribed with and without added noise. The worst third of the "
    "transcripts is paired with faultless ones of similar length and the same level of noise, from "
    "the same speaker if possible. A linear probe of the decoder's stream at the end of the text "
    "distinguishes the two. It is tested on held-out speakers.",
    data="LibriSpeech test-clean and Common Voice 16.1, zero against highest word error rate, 400 "
    "samples each",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "all": {"per_class": 2000, "recordings": 500, "snr_db": (5, 0)},
        "here": {"recordings": 120, "snr_db": (5, 0)},
        "builtin": {"recordings": 40, "least_words": 1, "snr_db": (5, 0)},
        "quick": {"recordings": 60, "snr_db": (5,)},
    },
    claims=CLAIMS,
    version=2,
    families=(WHISPER, *FAMILIES),
    differs=(
        "cross-validation over speakers instead of a 70/30 split",
        "pairs are matched within a speaker, or else within a set of recordings, so that speaker "
        "and set do not predict the label",
        "all recordings of a speaker are in one fold, and so are both recordings of a pair; "
        "uninformative features therefore score at chance",
        "in languages without spaces, errors are counted in characters",
        "the worst third of the transcripts counts as bad, in addition those of noisy copies; in a "
        "pair, both have the same level and background of noise, so that noise is no cue",
        "texts with numbers are left out, because numbers have several spellings",
        "layers are compared by relative depth: the paper's layer n of 32 has depth (n + 1)/32",
    ),
)
