"""E3: whether the decoder's state says that its transcript is wrong, better than what is at hand anyway."""

import dataclasses
from typing import Any

import numpy as np
import xarray as xr

from experiments.analyses.text_kinds import error_rate
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
from experiments.studies.selection import first_window, language, spoken, supported_languages
from experiments.studies.study import Analysis, Claim, Evidence, Study, choice, paper
from interventions.figures import plots
from interventions.generation.transcripts import errors, words

HIGH, SHALLOW = (
    (0.66, 0.78),
    (0, 0.3),
)  # the paper's layer 22 of 32 is depth 0.72, its layer 5 depth 0.19
AT_HAND = (
    "improbability",
    "compression",
    "no speech",
    "length",
)  # the larger, the worse, as stated beforehand
_GAIN = "area under the ROC curve of the probe at depth 0.66 to 0.78 less that of {}"
CLAIMS = {
    "predicts": Claim(
        "The state at the end of the text tells wrong transcripts from right ones",
        "93.4 % (LibriSpeech) and 88.1 % (Common Voice) at layer 22 of 32",
        "balanced accuracy at depth 0.66 to 0.78, of speakers that the probe has not heard",
        null=0.5,
    ),
    "deepens": Claim(
        "It does so in the upper layers, not in shallow ones",
        "62.2 % at layer 5, 93.4 % at layer 22 of 32",
        "balanced accuracy at depth 0.66 to 0.78 less that below depth 0.3",
    ),
    "beats_logprob": Claim(
        "It tells more than the mean log-probability",
        "not asked",
        _GAIN.format("the mean log-probability"),
    ),
    "beats_at_hand": Claim(
        "It tells more than log-probability, compression ratio, no-speech probability and length together",
        "not asked",
        _GAIN.format("a probe of these four numbers"),
    ),
    "insertions": Claim(
        "It also tells transcripts with words that were not said from those without",
        "not asked: a high error rate need not be hallucination",
        "area under the ROC curve at depth 0.66 to 0.78, insertions against none",
        null=0.5,
    ),
    "insertions_beat_logprob": Claim(
        "So better than the mean log-probability",
        "not asked",
        _GAIN.format("the mean log-probability"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Config(Probing):
    """Settings of E3."""

    per_class: int = paper(200, "section 4.2: 400 samples; one reader has 150 without errors")
    recordings: int = choice(
        2620, "those that are transcribed to find them: the size of LibriSpeech test-clean"
    )
    least_words: int = choice(3, "of the reference; the error rate of one word is 0 or 1")
    longer: float = choice(
        1.25, "times as many words at most in one of a matched pair as in the other"
    )
    max_new_tokens: int = choice(224, "half of the decoder's context, as openai/whisper")


def run(asr: Any, corpus: Corpus, config: Config, keep: Keep) -> xr.Dataset:
    """Answers to "errors" and "insertions", [example, layer], and the numbers at hand, [example, number]."""
    clips = [
        one
        for one in spoken(corpus, len(corpus), supported_languages(asr, None), labelled=True)
        if _length(one) >= config.least_words
    ]
    clips = spread(clips, config.recordings, lambda one: one.label("set"))
    if len({clip.speaker for clip in clips}) == 1:  # recordings are kept apart instead
        clips = [dataclasses.replace(clip, speaker="") for clip in clips]

    def read(clip: Utterance) -> Arrays:
        return written(asr, first_window(clip), language(clip), config.max_new_tokens)

    kept = dict(zip([clip.id for clip in clips], keep.each("E3 transcripts", clips, read)))
    marks = {clip.id: _marks(str(kept[clip.id]["text"]), clip) for clip in clips}
    return probing.concatenate(
        {
            kind: lambda kind=kind: asked(
                kind, clips, kept, {name: mark[kind] for name, mark in marks.items()}, config
            )
            for kind in ("errors", "insertions")
        }
    )


def _length(one: Utterance) -> int:
    return len(words(one.transcript, language(one)).split())


def _marks(text: str, clip: Utterance) -> dict[str, float]:
    """Rates by which a transcript is bad: errors, and words inserted, per word of the reference."""
    found = errors(text, clip.transcript, language(clip))
    return {
        "errors": error_rate(text, clip.transcript, language(clip)),
        "insertions": found["insertions"] / found["reference_words"],
    }


def asked(
    kind: str,
    clips: list[Utterance],
    kept: dict[str, Arrays],
    marks: dict[str, float],
    config: Config,
) -> xr.Dataset:
    """One question over matched recordings. Raises Unasked when there are too few."""
    pairs = matched(clips, marks, config)
    if len(pairs) < 2 * config.folds:
        raise Untestable(
            f"{kind}: {len(pairs)} pairs of a bad and a faultless transcript of similar length"
        )
    rows = [one for pair in pairs for one in pair]
    labels = np.array(["bad", "right"] * len(pairs))
    both = [" and ".join(sorted({_speaker(bad), _speaker(right)})) for bad, right in pairs]
    groups, blocks = np.repeat(both, 2), np.repeat(range(len(pairs)), 2)
    at_hand = np.array([numbers_at_hand(kept[one.id]) for one in rows])
    layers = np.stack([kept[one.id]["last"] for one in rows], 1)
    baselines = {"numbers at hand": at_hand, "mel": np.stack([kept[one.id]["mel"] for one in rows])}
    found = probing.ask(
        kind, layers, labels, groups, config, baselines, [one.id for one in rows], blocks
    )
    return found.assign(at_hand=(("example", "number"), at_hand)).assign_coords(
        number=list(AT_HAND)
    )


def numbers_at_hand(one: Arrays) -> list[float]:
    """Of `AT_HAND`, in that order."""
    return [
        -float(one["logprob"]),
        float(one["ratio"]),
        float(one["no_speech"]),
        float(one["tokens"]),
    ]


def matched(
    clips: list[Utterance], marks: dict[str, float], config: Config
) -> list[tuple[Utterance, Utterance]]:
    """The worst, each with a faultless one of about as many words; every recording at most once.

    First of the same speaker; then of the same set, where neither speaker is in another pair. So whatever is on one side of a fold,
    speaker or pair, is there as a whole.
    """
    worst = sorted(
        (one for one in clips if marks[one.id] > 0), key=lambda one: (-marks[one.id], one.id)
    )
    free, pairs = [one for one in clips if marks[one.id] == 0], []
    for bad in worst:
        pairs += _pair(
            bad,
            [one for one in free if one.speaker == bad.speaker != ""],
            {right.id for _, right in pairs},
            config,
        )
    for bad in worst:
        taken = {_speaker(one) for pair in pairs for one in pair}
        if _speaker(bad) not in taken:
            others = [
                one
                for one in free
                if one.label("set") == bad.label("set")
                and _speaker(one) not in taken | {_speaker(bad)}
            ]
            pairs += _pair(bad, others, set(), config)
    return sorted(pairs, key=lambda pair: (-marks[pair[0].id], pair[0].id))[: config.per_class]


def _pair(
    bad: Utterance, others: list[Utterance], taken: set[str], config: Config
) -> list[tuple[Utterance, Utterance]]:
    """`bad` with the one of `others` that is nearest in length, if one is near enough."""
    distances = {
        one.id: abs(np.log(_length(one) / _length(bad))) for one in others if one.id not in taken
    }
    near = [one for one in others if distances.get(one.id, np.inf) <= np.log(config.longer)]
    return [(bad, min(near, key=lambda one: distances[one.id]))] if near else []


def _speaker(one: Utterance) -> str:
    return one.speaker or one.id


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """The tests of `CLAIMS`, over speakers."""
    tests = {
        "predicts": ("errors", lambda one: accuracy(one, layers_between(one, *HIGH))),
        "deepens": (
            "errors",
            lambda one: (
                accuracy(one, layers_between(one, *HIGH))
                - accuracy(one, layers_between(one, *SHALLOW))
            ),
        ),
        "beats_logprob": ("errors", lambda one: _ranks(one, config, -_of(one, "improbability"))),
        "beats_at_hand": (
            "errors",
            lambda one: _ranks(one, config, one.p.sel(layer="numbers at hand").values),
        ),
        "insertions": ("insertions", lambda one: _ranks(one, config)),
        "insertions_beat_logprob": (
            "insertions",
            lambda one: _ranks(one, config, -_of(one, "improbability")),
        ),
    }
    findings = {
        name: verdict(CLAIMS[name], arrays, question, of, config)
        for name, (question, of) in tests.items()
    }
    return Analysis(findings, probing.numbers(arrays) | {"auroc": _aurocs(arrays, config)})


def _of(one: xr.Dataset, number: str) -> np.ndarray:
    return one.at_hand.sel(number=number).values


def _ranks(one: xr.Dataset, config: Config, against: np.ndarray | None = None) -> Evidence:
    return ranking(one, layers_between(one, *HIGH), config.seed, against)


def _aurocs(arrays: xr.Dataset, config: Config) -> dict[str, Any]:
    """Of every layer and of every number at hand, with their intervals: the chance that the right one of two is ranked above the bad."""
    found = {}
    for question in probing.questions(arrays):
        one = probing.answers(arrays, question)
        by = {str(layer): ranking(one, [layer], config.seed) for layer in one.layer.values}
        by |= {name: probing.ranked(one, -_of(one, name), config.seed) for name in AT_HAND}
        found[question] = {
            name: [round(x, 3) for x in (area.value, area.low, area.high)]
            for name, area in by.items()
        }
    return found


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Any]:
    """Accuracy by layer, and areas under the ROC curve of probes and of the numbers at hand."""
    titles = {"errors": "errors against none", "insertions": "insertions against none"}
    figures = probing.draw(arrays, titles)
    return figures | ({"auroc": _drawn(_aurocs(arrays, config), titles)} if figures else {})


def _drawn(found: dict[str, Any], titles: dict[str, str]) -> Any:
    figure, axes = plots.panels(1, len(found), width=4.4, height=3.4, sharey=True)
    for one, (question, rows) in zip(axes, found.items()):
        names = [name for name in rows if name != "embedding"][::-1]
        value, low, high = np.array([rows[name] for name in names]).T
        colours = [
            plots.ACCENT if name in AT_HAND else plots.GREY if not name.isdigit() else plots.BLUE
            for name in names
        ]
        one.hlines(range(len(names)), low, high, color=colours)
        one.scatter(value, range(len(names)), color=colours, s=18, zorder=3)
        one.axvline(0.5, color=plots.GREY, linestyle=":", linewidth=1)
        shown = [f"layer {name}" if name.isdigit() else name for name in names]
        one.set(
            title=titles[question],
            xlabel="area under the ROC curve",
            yticks=range(len(names)),
            yticklabels=shown,
        )
    return figure


STUDY = Study(
    title="Whether the decoder knows that its transcript is wrong",
    section="section 4.2",
    about="The model transcribes; its worst transcripts are set against faultless ones of similar length, of the same speaker where there "
    "is one. A linear probe of the decoder's stream where the end of the text is read tells one from the other, for speakers that it has "
    "not heard.",
    data="LibriSpeech test-clean and Common Voice 16.1, zero against highest word error rate, 400 samples each",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "here": {"recordings": 260},
        "builtin": {"recordings": 40, "least_words": 1},
        "quick": {"recordings": 150},
    },
    differs=(
        "cross-validation over speakers in place of a split 70/30",
        "pairs are matched within a speaker, else within a set of recordings, so that neither gives anything away",
        "speakers and pairs are on one side of a fold as a whole, so that what knows nothing comes out at chance",
        "in languages without spaces errors are counted in characters",
        "where there are few errors, the bad transcripts are all those with any",
        "layers are compared by relative depth: the paper's layer n of 32 is depth (n + 1)/32",
    ),
)
