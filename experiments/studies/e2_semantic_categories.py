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
from experiments.studies.category_claims import CLAIMS, PHONEMES, SPELLING, TOP_DEPTHS, judge_claims
from experiments.studies.features import encode_with_features
from experiments.studies.probing import ProbingSettings
from experiments.studies.probing_analysis import accuracy, accuracy_curves, layers_between
from experiments.studies.probing_figures import draw_panel
from experiments.studies.selection import first_window
from experiments.studies.study import Analysis, Study, choice, paper
from interventions.figures import plots
from interventions.generation import transcripts
from jaxasr import Recogniser
from jaxasr.audio import n_frames

# Categories that the paper names.
NAMED_CATEGORIES = ("countries", "tools", "academic", "animals", "weather", "clothing", "fruits")
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
    recognised: bool = choice(
        True, "probe only recordings whose text is the word; others may contain another word"
    )
    max_new_tokens: int = choice(8, "tokens of the text of one word")


def run(asr: Recogniser, corpus: Corpus, config: Config, cache: ItemCache) -> xr.Dataset:
    """Probes every layer for each pair of categories.

    Returns:
        The dataset of `experiments.studies.probing.probe_layers`, with rows of all pairs.
    """
    recordings, source = spoken_words(corpus)
    clips = select_words(recordings, config)
    describe = functools.partial(_word_features, asr, max_new_tokens=config.max_new_tokens)
    features = cache.each("E2 words", clips, describe)
    is_recognised = np.array([bool(item["recognised"]) for item in features], bool)
    rows = np.flatnonzero(is_recognised | (not config.recognised))
    clips, features = [clips[row] for row in rows], [features[row] for row in rows]
    if not clips:
        reason = "no word is recognised when it is spoken alone"
        return xr.Dataset(attrs={"untestable": {"words": reason}, "source": source})
    baselines = {
        "mel": np.stack([item["mel"] for item in features]),
        **_phoneme_counts(clips, features),
        SPELLING: _token_embeddings(asr, clips),
    }
    arrays = probe_pairs(
        layers=np.stack([item["layers"] for item in features], 1),
        categories=np.array([str(clip.label("category")) for clip in clips]),
        words=np.array([clip.transcript for clip in clips]),
        baselines=baselines,
        config=config,
        examples=[clip.id for clip in clips],
    )
    return arrays.assign_attrs(
        source=source, recordings=len(is_recognised), recognised=int(is_recognised.sum())
    )


def _word_features(asr: Recogniser, clip: Utterance, max_new_tokens: int) -> Arrays:
    audio = first_window(clip)
    memory, features = encode_with_features(asr, audio)
    prompt = asr.tokenizer.prompt("en")
    [text] = asr.generate(memory, prompt, max_new_tokens=max_new_tokens).text
    recognised = np.asarray(transcripts.words(text) == transcripts.words(clip.transcript))
    return features | {"frames": np.asarray(n_frames(len(audio))), "recognised": recognised}


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
    return {PHONEMES: np.column_stack([np.array(counts, float), durations])}


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
    return Analysis(judge_claims(arrays, config), _numbers(arrays))


def _numbers(arrays: xr.Dataset) -> dict[str, Any]:
    """Computes the mean accuracy over pairs per layer, and the top layers' accuracy per pair."""
    top = {
        pair: round(float(accuracy(rows, layers_between(rows, *TOP_DEPTHS)).mean()), 4)
        for pair in probing.questions(arrays)
        for rows in [probing.rows_of(arrays, pair)]
    }
    return {
        **{
            name: arrays.attrs[name]
            for name in ("source", "recordings", "recognised")
            if name in arrays.attrs
        },
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
        "all": {"categories": None},
        "here": {"categories": None, "per_category": 24},
        "builtin": {"categories": None, "per_category": 24},
        "quick": {"per_category": 4, "splits": 1},
    },
    claims=CLAIMS,
    version=2,
    differs=(
        "the words are those of a corpus with the label `category`",
        "without such a corpus, two synthetic voices, one of them in two pitches, speak up to "
        "sixty words of each of eight categories; if no voice is installed, the 24 words of the "
        "package are used",
        "only recordings whose text is the word that was spoken are probed",
        "folds by word; accuracy over all pairs of the available categories",
        "a probe of the embeddings of the words' tokens is plotted as a text-only reference",
        "layers are compared by relative depth: the paper's layer n of 32 has depth (n + 1)/32",
    ),
)
