"""E2: whether the encoder sorts single words by meaning: probes between pairs of semantic categories, split by word."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from experiments.data import phonemes
from experiments.data.corpora import Corpus, Utterance
from experiments.data.real_speech import spread
from experiments.data.spoken_words import spoken_words
from experiments.item_cache import Arrays, Keep
from experiments.studies import probing
from experiments.studies.features import encoder_features
from experiments.studies.probing import Probing, accuracy, layers_between
from experiments.studies.selection import first_window
from experiments.studies.study import Analysis, Claim, Finding, Study, choice, paper
from interventions.figures import plots
from jaxasr.audio import n_frames

NAMED = ("countries", "tools", "academic", "animals", "weather", "clothing", "fruits")
TOP, MIDDLE = (0.9, 1), (0.56, 0.69)  # the paper's last layers, and its layers 18 to 21 of 32
_TOP = "mean over pairs of the accuracy for words that the probe has not heard, at depth 0.9 to 1"
CLAIMS = {
    "top": Claim(
        "The top layers tell semantic categories apart",
        "85.6 % over pairs in the final layer, up to 96.7 %",
        _TOP,
        null=0.5,
    ),
    "rises": Claim(
        "They do so better than layers two thirds of the way",
        "Fig. 1: a signal at layers 18 to 21, most pairs above 80 % from 28 on",
        f"{_TOP}, less that at depth 0.56 to 0.69",
    ),
    "beyond_sound": Claim(
        "It is not the mean spectrum",
        "not asked",
        f"{_TOP}, less that of a probe of the mean log-mel spectrum",
    ),
    "beyond_phonemes": Claim(
        "It is not the phonemes that words of a category share, nor their length",
        "not asked",
        f"{_TOP}, less that of a probe of the counts of phonemes, their number and the duration",
    ),
}
FIGURE_1 = (
    ("countries", "tools"),
    ("academic", "animals"),
    ("countries", "weather"),
    ("clothing", "countries"),
)


@dataclasses.dataclass(frozen=True)
class Config(Probing):
    """Settings of E2."""

    categories: tuple[str, ...] | None = paper(
        NAMED, "those that readers name; the full list is not known"
    )
    per_category: int = choice(60, "words; 96.7 % fits a test set of 30 or 60")
    folds: int = choice(5, "a word is on one side, in every voice")


def run(asr: Any, corpus: Corpus, config: Config, keep: Keep) -> xr.Dataset:
    """Answers to every pair of categories, [example, layer]."""
    clips, source = spoken_words(corpus)
    clips = _chosen(clips, config)
    kept = keep.each("E2 words", clips, lambda clip: _word_features(asr, first_window(clip)))
    baselines = {
        "mel": np.stack([one["mel"] for one in kept]),
        **_phonological(clips, kept),
        "token embedding": _embedded(asr, clips),
    }
    words, kinds = (
        np.array(values)
        for values in zip(*((one.transcript, str(one.label("category"))) for one in clips))
    )
    found = pairwise(
        np.stack([one["layers"] for one in kept], 1),
        kinds,
        words,
        baselines,
        config,
        [one.id for one in clips],
    )
    return found.assign_attrs(source=source)


def _word_features(asr: Any, audio: Float[np.ndarray, "n"]) -> Arrays:
    return encoder_features(asr, audio) | {"frames": n_frames(len(audio))}


def _chosen(clips: list[Utterance], config: Config) -> list[Utterance]:
    kinds = list(dict.fromkeys(str(one.label("category")) for one in clips))
    wanted = [kind for kind in kinds if config.categories is None or kind in config.categories]
    words = {
        kind: sorted({one.transcript for one in clips if one.label("category") == kind})
        for kind in wanted
    }
    known = {
        (kind, word) for kind in wanted for word in spread(words[kind], config.per_category, len)
    }
    return [one for one in clips if (one.label("category"), one.transcript) in known]


def _phonological(
    clips: list[Utterance], kept: list[Arrays]
) -> dict[str, Float[np.ndarray, "N F"]]:
    """How often each phoneme is said, how many, and for how long; nothing without espeak-ng."""
    if not phonemes.installed():
        return {}
    said = phonemes.phonemes([one.transcript for one in clips], "en")
    known = sorted({phone for one in said for phone in one})
    counts = np.array([[one.count(phone) for phone in known] + [len(one)] for one in said], float)
    return {"phonemes": np.column_stack([counts, [float(one["frames"]) for one in kept]])}


def _embedded(asr: Any, clips: list[Utterance]) -> Float[np.ndarray, "N D"]:
    """What the model's own vocabulary says of a word's meaning: the mean embedding of its tokens."""
    table = np.asarray(asr.model.decoder.token_embedding[...], np.float32)
    return np.stack([table[asr.tokenizer.encode(f" {one.transcript}")].mean(0) for one in clips])


def pairwise(
    layers: Any,
    kinds: Any,
    words: Any,
    baselines: dict[str, np.ndarray],
    config: Config,
    examples: list[str],
) -> xr.Dataset:
    """A question for each pair of categories; a word is a group."""
    asked = {}
    for pair in itertools.combinations(sorted(set(kinds)), 2):
        rows = np.flatnonzero(np.isin(kinds, pair))
        some = {name: values[rows] for name, values in baselines.items()}
        given = (
            " or ".join(pair),
            layers[:, rows],
            kinds[rows],
            words[rows],
            config,
            some,
            [examples[i] for i in rows],
        )
        asked[given[0]] = lambda given=given: probing.ask(*given)
    return probing.concatenate(asked)


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """The tests of `CLAIMS`, one number a word."""
    if not probing.questions(arrays):
        why = "; ".join(arrays.attrs["unasked"].values()) or "words of one category only"
        return Analysis({name: claim.judge(None, why) for name, claim in CLAIMS.items()})
    top, middle = (accuracy(arrays, layers_between(arrays, *where)) for where in (TOP, MIDDLE))
    values = {"top": top, "rises": top - middle, "beyond_sound": top - accuracy(arrays, "mel")}
    findings = {name: probing.over(CLAIMS[name], one, config) for name, one in values.items()}
    findings["beyond_phonemes"] = _beyond_phonemes(arrays, top, config)
    return Analysis(findings, _numbers(arrays))


def _beyond_phonemes(arrays: xr.Dataset, top: np.ndarray, config: Config) -> Finding:
    if "phonemes" not in arrays.layer.values:
        return CLAIMS["beyond_phonemes"].judge(None, phonemes.MISSING)
    return probing.over(CLAIMS["beyond_phonemes"], top - accuracy(arrays, "phonemes"), config)


def _numbers(arrays: xr.Dataset) -> dict[str, Any]:
    """Means over pairs by layer, and every pair in the top layers."""
    means = {
        kind: [round(float(accuracy(arrays, layer, of).mean()), 4) for layer in arrays.layer.values]
        for kind, of in _KINDS.items()
    }
    pairs = {name: probing.answers(arrays, name) for name in probing.questions(arrays)}
    best = {
        name: round(float(accuracy(one, layers_between(one, *TOP)).mean()), 4)
        for name, one in pairs.items()
    }
    known = {
        "source": arrays.attrs.get("source", ""),
        "words": len(set(arrays.group.values)),
        "layers": arrays.layer.values.tolist(),
    }
    return (
        known
        | means
        | {"pairs": best, "pairs_above_0.8": float(np.mean([one > 0.8 for one in best.values()]))}
    )


_KINDS = {"accuracy": "right", "shuffled": "shuffled"}


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Any]:
    """Accuracy by layer: the mean over pairs with its controls, and the pairs of the paper's Fig. 1."""
    names = probing.questions(arrays)
    if not names:
        return {}
    figure, (left, right) = plots.panels(1, 2, width=4.8, height=3.6, sharey=True)
    probing.panel(left, arrays, f"mean over {len(names)} pairs")
    left.legend(frameon=False, fontsize=7)
    left.set_ylabel("accuracy")
    shown = [" or ".join(sorted(pair)) for pair in FIGURE_1]
    for name, colour in zip([one for one in shown if one in names] or names[:5], plots.COLOURS):
        one = probing.answers(arrays, name)
        real = one.layer.values[np.isfinite(one.depth.values)]
        means = [accuracy(one, str(layer)).mean() for layer in real]
        right.plot(one.depth.sel(layer=real), means, "o-", markersize=3, color=colour, label=name)
    right.axhline(0.5, color=plots.GREY, linestyle=":", linewidth=1)
    right.set(title="single pairs", xlabel="depth (0: embedding)")
    right.legend(frameon=False, fontsize=7)
    return {"pairs_by_layer": figure}


STUDY = Study(
    title="Whether the encoder sorts words by what they mean",
    section="Fig. 1",
    about="Single words are heard; the stream after every encoder layer, averaged over the frames of the word, goes into a linear probe "
    "between two semantic categories, which is then asked about words that it has not heard. Beside it: what spectrum and phonemes say.",
    data="spoken words of at least seven categories; neither words nor voices are named",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "here": {"categories": None},
        "builtin": {"categories": None},
        "quick": {"per_category": 8, "splits": 1},
    },
    differs=(
        "words of a corpus with the label `category`; else fifteen words each of eight categories in two pitches of one synthetic voice, "
        "where it is installed; else the built-in 24 words",
        "folds by word; accuracy over all pairs of the categories at hand",
        "the embedding of the model's own tokens is drawn as what a text says",
        "layers are compared by relative depth: the paper's layer n of 32 is depth (n + 1)/32",
    ),
)
