"""E7: generates text from each encoder layer with the unchanged decoder.

The final text is the text of the top layer. A rule sorts each text into one of `CATEGORIES`.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import interventions
import jaxasr
from experiments.analyses.text_kinds import CATEGORIES, error_rate, text_category
from experiments.data.corpora import Corpus, Utterance
from experiments.item_cache import Arrays, ItemCache
from experiments.studies.layer_text_claims import CLAIMS, is_kind, judge_claims
from experiments.studies.selection import (
    cross_validation_groups,
    first_window,
    language,
    of_few_per_speaker,
    select_speech,
    supported_languages,
)
from experiments.studies.study import Analysis, Settings, Study, choice, paper
from interventions.generation.transcripts import is_loop, words
from jaxasr import Recogniser

# Colours of the bars, in the order of `CATEGORIES`.
_COLOURS = ("#e4e1da", "#c9c5bb", "#d9792b", "#96b9c1", "#3d8aa8", "#233472")


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of E7."""

    languages: tuple[str, ...] | None = paper(
        ("en", "es", "zh"), "section 4.6; which languages the paper uses is uncertain"
    )
    per_language: int = paper(133, "section 4.6: 400 random samples over three languages")
    max_new_tokens: int = choice(224, "half of the decoder's context, as openai/whisper")
    at_least_s: float = choice(
        1.5, "shortest recording in seconds; shorter ones have only a word or two"
    )
    per_speaker: int = choice(
        1, "recordings per speaker, so that recordings are independent; unknown speakers count each"
    )
    min_per_language: int = choice(10, "recordings; languages with fewer are reported together")
    reference: str = choice(
        "final text", "shows the layer where the final text appears, and needs no transcript"
    )


def run(asr: Recogniser, corpus: Corpus, config: Config, cache: ItemCache) -> xr.Dataset:
    """Generates a text from every layer.

    Returns:
        The results of `layer_texts`: `kind`, `wer`, `text` and `logprob` [example, depth], and
        `true_wer` [example]. Depth 0 is the convolutional stem, and depth 1 the top layer. Without
        recordings of speech, the dataset has only the attribute `untestable`, the reason.
    """
    clips = select_speech(
        of_few_per_speaker(corpus, config.per_speaker),
        config.per_language,
        supported_languages(asr, config.languages),
        at_least_s=config.at_least_s,
    )
    if not clips:
        return xr.Dataset(attrs={"untestable": "no recording of speech in the chosen languages"})
    generate = functools.partial(layer_texts, asr, max_new_tokens=config.max_new_tokens)
    items = cache.each("E7 encoder lens", clips, generate)
    by_layer = {
        name: (("example", "depth"), np.stack([item[name] for item in items]))
        for name in ("kind", "wer", "text", "logprob")
    }
    return xr.Dataset(
        by_layer | {"true_wer": ("example", [item["true_wer"] for item in items])},
        {
            "example": [clip.id for clip in clips],
            "depth": np.arange(asr.config.n_audio_layer + 1) / asr.config.n_audio_layer,
            "language": ("example", [language(clip) for clip in clips]),
            "speaker": ("example", list(cross_validation_groups(clips).values())),
        },
    )


def layer_texts(asr: Recogniser, clip: Utterance, max_new_tokens: int) -> Arrays:
    """Generates the text of every encoder layer of one recording.

    Returns:
        Arrays [L + 1] over the stem and the L layers:
        `kind`: index into `CATEGORIES`.
        `wer`: word error rate against the final text.
        `logprob`: mean natural-log probability per token.
        `text`: the generated text.
        Also `true_wer`: word error rate of the final text against the transcript; NaN without one.
    """
    language_code, mel = language(clip), jaxasr.log_mel(first_window(clip), asr.config.n_mels)[None]
    lens = interventions.encoder_lens(
        asr,
        mel,
        prompt=asr.tokenizer.prompt(language_code),
        max_new_tokens=max_new_tokens,
        stem=True,
    )
    texts, lengths = [row[0] for row in lens.text], np.asarray(lens.lengths)[:, 0]
    ids = [row[:n].tolist() for row, n in zip(np.asarray(lens.tokens)[:, 0], lengths)]
    final_text = texts[-1]
    kinds = [
        text_category(text, final_text, text_ids, language_code)
        for text, text_ids in zip(texts, ids)
    ]
    true_wer = error_rate(final_text, clip.transcript, language_code) if clip.transcript else np.nan
    return {
        "kind": np.array([CATEGORIES.index(kind) for kind in kinds]),
        "wer": np.array([error_rate(text, final_text, language_code) for text in texts]),
        # The sum includes the end-of-text token, which `lengths` does not count.
        "logprob": np.asarray(lens.logprobs)[:, 0].sum(1) / (lengths + 1),
        "text": np.array(texts),
        "true_wer": np.asarray(true_wer),
    }


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """Judges `CLAIMS` over the recordings whose final text has words and is not a loop."""
    if reason := arrays.attrs.get("untestable"):
        return Analysis({key: claim.judge(None, reason) for key, claim in CLAIMS.items()})
    usable = _usable(arrays)
    left_out = arrays.sizes["example"] - usable.sizes["example"]
    numbers = {"left_out": left_out, **_shares(usable, config)}
    return Analysis(judge_claims(usable, config.seed), numbers)


def _usable(arrays: xr.Dataset) -> xr.Dataset:
    """Selects the recordings whose final text has words and is not a loop."""
    return arrays.isel(example=np.flatnonzero(_has_usable_text(arrays)))


def _has_usable_text(arrays: xr.Dataset) -> Bool[np.ndarray, "N"]:
    """Marks recordings whose final text has words and is not a loop."""
    texts = zip(map(str, arrays.text.values[:, -1]), map(str, arrays.language.values))
    rows = [(words(text, code).split(), text) for text, code in texts]
    # `is_loop` compares integers, so each word is replaced by the index where it first occurs.
    return np.array(
        [bool(row) and not is_loop([row.index(word) for word in row], text) for row, text in rows],
        bool,
    )


def _masks(arrays: xr.Dataset, config: Config) -> dict[str, Bool[np.ndarray, "N"]]:
    """Marks the recordings of "all", of each frequent language, and of the "other" languages."""
    codes, counts = np.unique(arrays.language.values, return_counts=True)
    frequent = codes[counts >= config.min_per_language]
    masks = {"all": np.ones(arrays.sizes["example"], bool)}
    if len(codes) > 1:
        masks |= {str(code): arrays.language.values == code for code in frequent}
        masks["other"] = ~np.isin(arrays.language.values, frequent)
    return {name: mask for name, mask in masks.items() if mask.any()}


def _shares(arrays: xr.Dataset, config: Config) -> dict[str, Any]:
    """Computes shares of kinds and error rates by depth, for all recordings and by language."""
    tables: dict[str, Any] = {"depth": arrays.depth.values.round(3)}
    for name, mask in _masks(arrays, config).items():
        shares = {kind: is_kind(arrays, kind)[mask].mean(0).round(3) for kind in CATEGORIES}
        wer = np.minimum(arrays.wer.values[mask], 1).mean(0).round(3)
        tables[name] = {"n": int(mask.sum()), **shares, "wer": wer}
    return tables


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Figure]:
    """Draws stacked bars of the kinds of text by layer, with a line of the word error rate.

    The recordings are those that the claims are judged by. The final texts of all others have no
    words, or are loops.
    """
    if "untestable" in arrays.attrs:
        return {}
    usable = _usable(arrays)
    masks = _masks(usable, config)
    if not masks:
        return {}
    # At most four panels per row. -(-a // b) rounds a / b up.
    n_rows = -(-len(masks) // 4)
    n_columns = -(-len(masks) // n_rows)
    figure = Figure(figsize=(2 + 2.6 * n_columns, 3.4 * n_rows), layout="constrained")
    panels = np.ravel(figure.subplots(n_rows, n_columns, sharey=True, squeeze=False))
    for axes, (name, mask) in zip(panels, masks.items()):
        _draw_bars(axes, usable.isel(example=np.flatnonzero(mask)), name)
    for unused_panel in panels[len(masks) :]:
        unused_panel.remove()
    figure.axes[0].set_ylabel("share of recordings")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, reverse=True)
    return {"kinds_by_layer": figure}


def _draw_bars(axes: Axes, arrays: xr.Dataset, name: str) -> None:
    layers, bottom = np.arange(arrays.sizes["depth"]), np.zeros(arrays.sizes["depth"])
    for kind, colour in zip(CATEGORIES, _COLOURS):
        share = is_kind(arrays, kind).mean(0)
        axes.bar(layers, share, 0.8, bottom=bottom, color=colour, label=kind)
        bottom += share
    wer = np.minimum(arrays.wer.values, 1).mean(0)
    axes.plot(layers, wer, "o-", color="black", markersize=3, linewidth=1, label="WER")
    title = f"{name} (n {arrays.sizes['example']})"
    axes.set(title=title, xlabel="encoder layer (0: stem)", ylim=(0, 1))
    axes.set_xticks(layers[:: -(-len(layers) // 8)])  # at most eight labels
    axes.spines[["top", "right"]].set_visible(False)


STUDY = Study(
    title="What the decoder generates from each encoder layer",
    section="section 4.6",
    about="The unchanged decoder generates a text from the output of each encoder layer, after the "
    "final norm. A fixed rule sorts each text into one of six kinds. The word error "
    "rate compares it with the text of the whole model.",
    data="400 random samples of English, Spanish and Chinese; the corpus is not named",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "all": {"languages": None, "per_language": 100, "max_new_tokens": 96},
        "here": {"languages": None, "per_language": 24, "max_new_tokens": 96},
        "builtin": {"languages": ("en",), "per_language": 16, "max_new_tokens": 96},
        "quick": {"per_language": 14, "max_new_tokens": 64},
    },
    claims=CLAIMS,
    differs=(
        "the rule that sorts texts into kinds is ours",
        "layers are compared by relative depth: the paper's layer n of 32 has depth n/32",
        "recordings are spread over the sets of the corpus, not drawn at random, and there is one "
        "per speaker",
    ),
    version=4,
)
