"""E7: what the unchanged decoder writes when it listens to each layer of the encoder, over languages."""

import dataclasses
from typing import Any

import numpy as np
import xarray as xr

import interventions
import jaxasr
from experiments.analyses.text_kinds import CATEGORIES, category, error_rate
from experiments.data.corpora import Corpus, Utterance
from experiments.item_cache import Arrays, Keep
from experiments.studies.selection import first_window, language, spoken, supported_languages
from experiments.studies.study import Analysis, Claim, Settings, Study, band, choice, paper

CLAIMS = {
    "loops_below_the_top": Claim(
        "Repetition loops are commonest just below the top layer",
        "loops in about 60 % of samples at layers 27 to 30 of 32, most at 30; the top two are right",
        "per recording, share of loops in layers at depth 0.84 to 0.94 (or the nearest below the top) less that in all other layers",
    ),
    "mostly_loops": Claim(
        "There, most texts are loops", "about 60 %", "share of loops in the same layers", null=0.5
    ),
    "silent_below": Claim(
        "The lower two thirds of the encoder are heard as nothing or as lone punctuation",
        "layers 0 to 22 of 32: mostly empty strings or lone punctuation",
        "share of empty texts and lone punctuation in layers at depth 0 to 0.69",
        null=0.5,
    ),
    "ungrounded_between": Claim(
        "In between, texts are fluent but about something else",
        "layers 20 to 27 of 32: occasionally fluent, ungrounded completions",
        "per recording, share of ungrounded texts at depth 0.62 to 0.84 less that in all other layers",
    ),
    "right_at_the_top": Claim(
        "The transcript appears only in the last step",
        "layers 31 and 32 of 32: the fluent, right transcript",
        "per recording, fall of the word error rate (at most 1; to the final text) in the last layer less the mean fall in the others",
    ),
}
_COLOURS = ("#e4e1da", "#c9c5bb", "#d9792b", "#96b9c1", "#3d8aa8", "#233472")


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of E7."""

    languages: tuple[str, ...] | None = paper(
        ("en", "es", "zh"), "section 4.6; the languages as read by one of nine readers"
    )
    per_language: int = paper(133, "section 4.6: 400 random samples over the languages")
    max_new_tokens: int = choice(224, "half of the decoder's context, as openai/whisper")
    at_least_s: float = choice(
        1.5, "seconds; shorter recordings hold a word or two, no text to look at"
    )
    reference: str = choice(
        "final text", "the lens shows when the model's own answer appears; no transcript is needed"
    )


def run(asr: Any, corpus: Corpus, config: Config, keep: Keep) -> xr.Dataset:
    """Kinds of text, word error rates and texts, [example, depth]; depth 0 is the stem, 1 the top."""
    clips = spoken(
        corpus,
        config.per_language,
        supported_languages(asr, config.languages),
        at_least_s=config.at_least_s,
    )
    kept = keep.each("E7 encoder lens", clips, lambda clip: listen(asr, clip, config))
    stack = {
        name: np.stack([item[name] for item in kept]) for name in ("kind", "wer", "said", "logprob")
    }
    depth = np.arange(asr.config.n_audio_layer + 1) / asr.config.n_audio_layer
    layered = {name: (("example", "depth"), values) for name, values in stack.items()}
    return xr.Dataset(
        layered | {"true_wer": ("example", [item["true_wer"] for item in kept])},
        {
            "example": [clip.id for clip in clips],
            "depth": depth,
            "language": ("example", [language(clip) for clip in clips]),
        },
    )


def listen(asr: Any, clip: Utterance, config: Config) -> Arrays:
    """One recording from every layer: kind (index of `CATEGORIES`), WER against the final text, mean log-probability, text; the
    final text's own WER where there is a transcript."""
    code = language(clip)
    mel = jaxasr.log_mel(first_window(clip), asr.config.n_mels)[None]
    lens = interventions.encoder_lens(
        asr, mel, prompt=asr.tokenizer.prompt(code), max_new_tokens=config.max_new_tokens, stem=True
    )
    texts, lengths = [row[0] for row in lens.text], np.asarray(lens.lengths)[:, 0]
    ids = [row[:n].tolist() for row, n in zip(np.asarray(lens.tokens)[:, 0], lengths)]
    final = texts[-1]
    return {
        "kind": [
            CATEGORIES.index(category(text, final, said, code)) for text, said in zip(texts, ids)
        ],
        "wer": [error_rate(text, final, code) for text in texts],
        "logprob": np.asarray(lens.logprobs)[:, 0].sum(1) / (lengths + 1),
        "said": np.array(texts),
        "true_wer": error_rate(final, clip.transcript, code) if clip.transcript else np.nan,
    }


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """The tests of `CLAIMS`, over recordings whose final text has words and is no loop."""
    usable = arrays.isel(example=np.flatnonzero(_grounded(arrays)))
    depth = usable.depth.values
    loops, between = (
        _in_band(usable, ["loop"], 0.84, 0.94),
        _in_band(usable, ["ungrounded"], 0.62, 0.84),
    )
    silent = _is(usable, ["empty", "punctuation"])[:, band(depth, 0, 0.69)].mean(1)
    fall = -np.diff(np.minimum(usable.wer.values, 1), axis=1)
    values = {
        "loops_below_the_top": loops[0] - loops[1],
        "mostly_loops": loops[0],
        "silent_below": silent,
        "ungrounded_between": between[0] - between[1],
        "right_at_the_top": fall[:, -1] - fall[:, :-1].mean(1),
    }
    findings = {name: claim.over(values[name], config.seed) for name, claim in CLAIMS.items()}
    return Analysis(findings, {"left_out": int((~_grounded(arrays)).sum()), **_shares(usable)})


def _grounded(arrays: xr.Dataset) -> np.ndarray:
    """Whether the final text is one: it has words, and is no loop of its own accord."""
    from interventions.generation.transcripts import is_loop, words

    said = [
        words(str(text), str(code)).split()
        for text, code in zip(arrays.said.values[:, -1], arrays.language.values)
    ]
    return np.array(
        [bool(one) and not is_loop([one.index(word) for word in one]) for one in said], bool
    )


def _is(arrays: xr.Dataset, kinds: list[str]) -> np.ndarray:
    return np.isin(arrays.kind.values, [CATEGORIES.index(kind) for kind in kinds])


def _in_band(
    arrays: xr.Dataset, kinds: list[str], low: float, high: float
) -> tuple[np.ndarray, np.ndarray]:
    """Share of `kinds` per recording, in the layers of the band and in all others."""
    inside, hit = band(arrays.depth.values, low, high), _is(arrays, kinds)
    return hit[:, inside].mean(1), np.delete(hit, inside, axis=1).mean(1)


def _shares(arrays: xr.Dataset) -> dict[str, Any]:
    """Share of every kind and the mean WER, by depth, over all and for each language."""
    groups = {"all": np.arange(arrays.sizes["example"])}
    groups |= {
        str(code): np.flatnonzero(arrays.language.values == code)
        for code in dict.fromkeys(arrays.language.values)
    }
    kinds = {kind: _is(arrays, [kind]) for kind in CATEGORIES}
    return {
        "depth": arrays.depth.values.round(3),
        **{
            code: {
                "n": len(rows),
                **{kind: hit[rows].mean(0).round(3) for kind, hit in kinds.items()},
            }
            | {"wer": np.minimum(arrays.wer.values[rows], 1).mean(0).round(3)}
            for code, rows in groups.items()
            if len(rows)
        },
    }


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Any]:
    """Stacked bars of the kinds of text by layer, the word error rate over them."""
    from matplotlib.figure import Figure

    codes = list(dict.fromkeys(map(str, arrays.language.values)))
    shown = ["all", *codes] if len(codes) > 1 else codes
    figure = Figure(
        figsize=(2 + 2.6 * min(len(shown), 4), 3.4 * -(-len(shown) // 4)), layout="constrained"
    )
    for axes, code in zip(
        np.ravel(
            figure.subplots(-(-len(shown) // 4), min(len(shown), 4), sharey=True, squeeze=False)
        ),
        shown,
    ):
        rows = arrays.isel(example=np.flatnonzero((arrays.language == code) | (code == "all")))
        _bars(axes, rows, code)
    figure.axes[0].set_ylabel("share of recordings")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="outside right center",
        frameon=False,
        reverse=True,
    )
    return {"kinds_by_layer": figure}


def _bars(axes: Any, arrays: xr.Dataset, code: str) -> None:
    layers, bottom = np.arange(arrays.sizes["depth"]), np.zeros(arrays.sizes["depth"])
    for kind, colour in zip(CATEGORIES, _COLOURS):
        share = _is(arrays, [kind]).mean(0)
        axes.bar(layers, share, 0.8, bottom=bottom, color=colour, label=kind)
        bottom += share
    wer = np.minimum(arrays.wer.values, 1).mean(0)
    axes.plot(layers, wer, "o-", color="black", markersize=3, linewidth=1, label="WER")
    axes.set(
        title=f"{code} (n {arrays.sizes['example']})", xlabel="encoder layer (0: stem)", ylim=(0, 1)
    )
    axes.set_xticks(layers[:: -(-len(layers) // 8)])
    axes.spines[["top", "right"]].set_visible(False)


STUDY = Study(
    title="What is heard from each layer of the encoder",
    section="section 4.6",
    about="Every layer of the encoder goes through the final norm to the unchanged decoder, which writes freely. The text of each layer is "
    "put into one of six kinds by a fixed rule, and compared with the text that the whole model writes.",
    data="400 random samples of English, Spanish and Chinese; the corpus is not named",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "here": {"languages": None, "per_language": 24, "max_new_tokens": 96},
        "builtin": {"languages": ("en",), "per_language": 16, "max_new_tokens": 96},
        "quick": {"per_language": 14, "max_new_tokens": 64},
    },
    differs=(
        "the rule that sorts texts into kinds is ours",
        "layers are compared by relative depth: the paper's layer n of 32 is depth n/32",
        "recordings are spread over the sets of the corpus, not drawn at random",
    ),
    version=2,  # texts in brackets count by their words
)
