"""E2: probes every encoder layer for the semantic category of single words."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.data import phonemes
from experiments.data.corpora import Corpus, Utterance
from experiments.data.real_speech import select_evenly
from experiments.data.spoken_words import spoken_words
from experiments.item_cache import Arrays, ItemCache
from experiments.studies import probing
from experiments.studies.claims import Claim, Finding
from experiments.studies.features import encoder_features
from experiments.studies.probing import ProbingSettings
from experiments.studies.probing_analysis import (
    accuracy,
    accuracy_curves,
    judge_groups,
    layers_between,
)
from experiments.studies.probing_figures import draw_panel
from experiments.studies.selection import first_window
from experiments.studies.study import Analysis, Study, choice, paper
from interventions.figures import plots
from jaxasr import Recogniser
from jaxasr.audio import n_frames

# Categories that the paper names.
NAMED_CATEGORIES = ("countries", "tools", "academic", "animals", "weather", "clothing", "fruits")
# Ranges of relative depth: the paper's last layers, and its layers 18 to 21 of 32.
TOP_DEPTHS, MIDDLE_DEPTHS = (0.9, 1), (0.56, 0.69)
# Description of the first test. The other tests subtract a second accuracy from this accuracy.
_TOP_ACCURACY = "accuracy on unseen words at depth 0.9 to 1, mean over pairs"
CLAIMS = {
    "top": Claim(
        "A probe of the top layers distinguishes semantic categories",
        "final layer: 85.6 % on average over pairs, 96.7 % for the best pair",
        _TOP_ACCURACY,
        null=0.5,
    ),
    "rises": Claim(
        "The top layers distinguish categories better than the layers at two thirds of the depth",
        "Fig. 1: above chance at layers 18 to 21, most pairs above 80 % from layer 28 on",
        f"{_TOP_ACCURACY}, minus that at depth 0.56 to 0.69",
    ),
    "beyond_sound": Claim(
        "The top layers distinguish categories better than the mean spectrum does",
        "not asked",
        f"{_TOP_ACCURACY}, minus that of a probe of the mean log-mel spectrum",
    ),
    "beyond_phonemes": Claim(
        "The top layers distinguish categories better than the words' phonemes and lengths do",
        "not asked",
        f"{_TOP_ACCURACY}, minus that of a probe of phoneme counts, their sum and the duration",
    ),
}
# The pairs of categories that the paper plots in Fig. 1.
FIGURE_1_PAIRS = (
    ("countries", "tools"),
    ("academic", "animals"),
    ("countries", "weather"),
    ("clothing", "countries"),
)


@dataclasses.dataclass(frozen=True)
class Config(ProbingSettings):
    """Settings of E2."""

    categories: tuple[str, ...] | None = paper(
        NAMED_CATEGORIES, "the known categories; the paper's full list is not known"
    )
    per_category: int = choice(
        60, "words per category; the paper's 96.7 % can be 29 of 30 or 58 of 60 test words"
    )
    folds: int = choice(5, "all recordings of a word are in one fold")


def run(asr: Recogniser, corpus: Corpus, config: Config, cache: ItemCache) -> xr.Dataset:
    """Probes every layer for each pair of categories.

    Returns:
        The dataset of `experiments.studies.probing.probe_layers`, with rows of all pairs.
    """
    recordings, source = spoken_words(corpus)
    clips = select_words(recordings, config)
    features = cache.each("E2 words", clips, functools.partial(_word_features, asr))
    baselines = {
        "mel": np.stack([item["mel"] for item in features]),
        **_phoneme_counts(clips, features),
        "token embedding": _token_embeddings(asr, clips),
    }
    arrays = probe_pairs(
        layers=np.stack([item["layers"] for item in features], 1),
        categories=np.array([str(clip.label("category")) for clip in clips]),
        words=np.array([clip.transcript for clip in clips]),
        baselines=baselines,
        config=config,
        examples=[clip.id for clip in clips],
    )
    return arrays.assign_attrs(source=source)


def _word_features(asr: Recogniser, clip: Utterance) -> Arrays:
    audio = first_window(clip)
    return encoder_features(asr, audio) | {"frames": np.asarray(n_frames(len(audio)))}


def select_words(clips: Sequence[Utterance], config: Config) -> list[Utterance]:
    """Selects at most `config.per_category` words per category, with all recordings of a word."""
    words: dict[str, set[str]] = {}
    for clip in clips:
        words.setdefault(str(clip.label("category")), set()).add(clip.transcript)
    selected = {
        (category, word)
        for category, members in words.items()
        if config.categories is None or category in config.categories
        # `len` spreads the selection over short and long words.
        for word in select_evenly(sorted(members), config.per_category, len)
    }
    return [clip for clip in clips if (str(clip.label("category")), clip.transcript) in selected]


def _phoneme_counts(
    clips: Sequence[Utterance], features: Sequence[Arrays]
) -> dict[str, Float[np.ndarray, "N F"]]:
    """Makes features of phoneme counts, their sum and the duration in encoder frames.

    Returns {} if espeak-ng is not installed.
    """
    if not phonemes.espeak_installed():
        return {}
    words = phonemes.phonemes([clip.transcript for clip in clips], "en")
    inventory = sorted({phoneme for word in words for phoneme in word})
    counts = [[word.count(phoneme) for phoneme in inventory] + [len(word)] for word in words]
    durations = [float(item["frames"]) for item in features]
    return {"phonemes": np.column_stack([np.array(counts, float), durations])}


def _token_embeddings(asr: Recogniser, clips: Sequence[Utterance]) -> Float[np.ndarray, "N D"]:
    """Averages the decoder's embeddings of each word's tokens.

    These features depend on the spelling of a word, and not on its recording.
    """
    table = np.asarray(asr.model.decoder.token_embedding[...], np.float32)
    words = (asr.tokenizer.encode(f" {clip.transcript}") for clip in clips)
    return np.stack([table[ids].mean(0) for ids in words])


def probe_pairs(
    layers: Float[np.ndarray, "L+1 N D"],
    categories: np.ndarray,
    words: np.ndarray,
    baselines: dict[str, np.ndarray],
    config: Config,
    examples: Sequence[str],
) -> xr.Dataset:
    """Probes every layer for each pair of categories, and tests on held-out words.

    Args:
        layers: encoder states of each layer.
        categories: one label per recording.
        words: one word per recording; all recordings of a word are in one fold.
        baselines: features to compare with the layers, by name.
        config: the number of folds and other settings of the probes.
        examples: one id per recording.

    Returns:
        The dataset of `probe_layers`. The question of a row is its pair, as in "animals or tools".
    """

    def probe(pair: tuple[str, str]) -> xr.Dataset:
        rows = np.flatnonzero(np.isin(categories, pair))
        return probing.probe_layers(
            " or ".join(pair),
            layers=layers[:, rows],
            labels=categories[rows],
            groups=words[rows],
            config=config,
            baselines={name: values[rows] for name, values in baselines.items()},
            examples=[examples[int(row)] for row in rows],
        )

    pairs = itertools.combinations(sorted(set(categories)), 2)  # each pair in alphabetical order
    return probing.concatenate(
        {" or ".join(pair): functools.partial(probe, pair) for pair in pairs}
    )


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """Judges `CLAIMS` by one number per word."""
    if not probing.questions(arrays):
        reason = "; ".join(arrays.attrs["untestable"].values()) or "words of one category only"
        return Analysis({key: claim.judge(None, reason) for key, claim in CLAIMS.items()})
    top, middle = (
        accuracy(arrays, layers_between(arrays, *depths)) for depths in (TOP_DEPTHS, MIDDLE_DEPTHS)
    )
    statistics = {"top": top, "rises": top - middle, "beyond_sound": top - accuracy(arrays, "mel")}
    findings = {
        key: judge_groups(CLAIMS[key], values, config) for key, values in statistics.items()
    }
    findings["beyond_phonemes"] = _judge_beyond_phonemes(arrays, top, config)
    return Analysis(findings, _numbers(arrays))


def _judge_beyond_phonemes(arrays: xr.Dataset, top: np.ndarray, config: Config) -> Finding:
    claim = CLAIMS["beyond_phonemes"]
    if "phonemes" not in arrays.layer.values:
        return claim.judge(None, phonemes.ESPEAK_MISSING)
    return judge_groups(claim, top - accuracy(arrays, "phonemes"), config)


def _numbers(arrays: xr.Dataset) -> dict[str, Any]:
    """Computes the mean accuracy over pairs per layer, and the top layers' accuracy per pair."""
    top = {
        pair: round(float(accuracy(rows, layers_between(rows, *TOP_DEPTHS)).mean()), 4)
        for pair in probing.questions(arrays)
        for rows in [probing.rows_of(arrays, pair)]
    }
    return {
        "source": arrays.attrs.get("source", ""),
        "words": len(set(arrays.group.values)),
        "layers": arrays.layer.values.tolist(),
        **accuracy_curves(arrays),
        "pairs": top,
        "pairs_above_0.8": float(np.mean([value > 0.8 for value in top.values()])),
    }


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Figure]:
    """Draws accuracy by layer. Left: the mean over pairs, with controls. Right: single pairs."""
    pairs = probing.questions(arrays)
    if not pairs:
        return {}
    figure, (left, right) = plots.panels(1, 2, width=4.8, height=3.6, sharey=True)
    draw_panel(left, arrays, f"mean over {len(pairs)} pairs")
    left.legend(frameon=False, fontsize=7)
    left.set_ylabel("accuracy")
    published = [" or ".join(sorted(pair)) for pair in FIGURE_1_PAIRS]
    _draw_pairs(right, arrays, [pair for pair in published if pair in pairs] or pairs[:5])
    return {"pairs_by_layer": figure}


def _draw_pairs(axes: Axes, arrays: xr.Dataset, pairs: Sequence[str]) -> None:
    for pair, colour in zip(pairs, plots.COLOURS):
        rows = probing.rows_of(arrays, pair)
        layers = rows.layer.values[np.isfinite(rows.depth.values)]
        means = [accuracy(rows, str(layer)).mean() for layer in layers]
        axes.plot(rows.depth.sel(layer=layers), means, "o-", markersize=3, color=colour, label=pair)
    axes.axhline(0.5, color=plots.GREY, linestyle=":", linewidth=1)
    axes.set(title="single pairs", xlabel="depth (0: embedding)")
    axes.legend(frameon=False, fontsize=7)


STUDY = Study(
    title="Whether the encoder groups words by meaning",
    section="Fig. 1",
    about="A linear probe reads the output of each encoder layer, averaged over the frames of a "
    "spoken word. It distinguishes two semantic categories, and is tested on held-out words. "
    "Controls are probes of the mean spectrum and of the words' phonemes.",
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
    claims=CLAIMS,
    differs=(
        "the words are those of a corpus with the label `category`",
        "without such a corpus, a synthetic voice speaks fifteen words of each of eight categories "
        "in two pitches; if it is not installed, the 24 words of the package are used",
        "folds by word; accuracy over all pairs of the available categories",
        "a probe of the embeddings of the words' tokens is plotted as a text-only reference",
        "layers are compared by relative depth: the paper's layer n of 32 has depth (n + 1)/32",
    ),
)
