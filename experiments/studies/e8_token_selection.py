"""E8: finds the layer at which the decoder settles on a token, and compares the candidates.

The final token of a position is the token that the model generates there. The candidates are the
top tokens of one layer by the logit lens. The other candidates are the candidates without the final
token. The saturation layer is the first layer such that the final token is the top candidate in
this layer and in all later ones.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import interventions
import jaxasr
from experiments.analyses import lens
from experiments.data.corpora import Corpus, Utterance
from experiments.data.phonemes import ESPEAK_MISSING
from experiments.item_cache import Arrays, ItemCache
from experiments.studies.candidate_similarity import (
    TOKEN_OFFSETS,
    cosine_in_vocabulary,
    look_ahead,
    mean_of_finite,
    phoneme_distance,
    similarity,
    word_tokens,
)
from experiments.studies.claims import Claim
from experiments.studies.selection import first_window, language, select_speech, supported_languages
from experiments.studies.study import Analysis, Settings, Study, choice, layers_in_band, paper
from experiments.studies.token_figures import language_figure, selection_figure
from jaxasr import Recogniser

CLAIMS = {
    "commits_late": Claim(
        "The final token becomes probable only in late layers",
        "low until about layer 20 of 32, then a steep rise; nearly 1 in the last three layers",
        "per recording, mean probability of the final token at depth 0.9 to 1, minus that at depth "
        "0 to 0.62",
        null=0.5,
    ),
    "saturates_late": Claim(
        "The saturation layer is in the upper third",
        "Fig. 2: a dashed line to the right of the rise; a number was not found",
        "per recording, mean depth of the saturation layer, compared with 20/32",
        null=0.625,
    ),
    "sounds_alike": Claim(
        "With depth, the other candidates become more similar in sound to the final token",
        "phoneme error rate falls with depth, visibly near layer 25 of 32",
        "phoneme error rate of the other top-5 candidates against the final token, minus their "
        "rate against another token of the text; the mean of this difference below depth 0.78, "
        "minus its mean above",
    ),
    "means_alike": Claim(
        "With depth, the other candidates become more similar in meaning to the final token",
        "cosine similarity separates quickly after layer 25 of 32",
        "cosine of the other top-5 candidates with the final token, minus their cosine with "
        "another token of the text; the mean of this difference above depth 0.78, minus its mean "
        "below",
    ),
    "looks_ahead_late": Claim(
        "The next token is among the candidates only near the top",
        "Whisper: a sharp rise at layer 29 of 32 only",
        "how often the next token is among the top 5, minus how often tokens further away are; "
        "the mean of this difference at depth 0.9 to 1, minus its mean below",
    ),
    "earlier_than_qwen": Claim(
        "Whisper saturates earlier than Qwen2-Audio",
        "Fig. 2: Whisper's dashed line is to the left of Qwen's; a number was not found",
        "difference of mean saturation depths",
    ),
}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of E8."""

    languages: tuple[str, ...] | None = choice(
        ("en", "es", "fr", "de", "it", "pt"), "the paper uses six languages and does not name them"
    )
    per_language: int = paper(100, "section 4.7: 6 languages of 100 utterances")
    top_k: int = paper(5, "Fig. 2b: the top five candidates")
    at_least_s: float = choice(
        1.5, "shortest recording in seconds; shorter ones have only a word or two"
    )
    whole_words: bool = choice(
        True, "compare only tokens that begin a word, because fragments have no sound or meaning"
    )


def run(asr: Recogniser, corpus: Corpus, config: Config, cache: ItemCache) -> xr.Dataset:
    """Applies the logit lens to every recording.

    Returns:
        The arrays of `token_curves`, averaged over tokens: `saturation` [example], `hit` [example,
        offset, depth], and all others [example, depth]. Depth 1 is the top decoder layer.
        Recordings without text are dropped. If no recording has text, the dataset has only the
        attribute `untestable`, the reason.
    """
    clips = select_speech(
        corpus,
        config.per_language,
        supported_languages(asr, config.languages),
        at_least_s=config.at_least_s,
    )
    compute_curves = functools.partial(token_curves, asr, config=config)
    items = zip(clips, cache.each("E8 logit lens", clips, compute_curves))
    with_text = [(clip, item) for clip, item in items if item["saturation"].size]
    if not with_text:
        return xr.Dataset(attrs={"untestable": "no recording of speech has a generated text"})
    # The last axis of every array of an item is the tokens of the text.
    means = {
        name: np.stack([mean_of_finite(item[name]) for _, item in with_text])
        for name in with_text[0][1]
    }
    dims = {"saturation": ("example",), "hit": ("example", "offset", "depth")}
    n_layers = asr.config.n_text_layer
    return xr.Dataset(
        {name: (dims.get(name, ("example", "depth")), values) for name, values in means.items()},
        {
            "example": [clip.id for clip, _ in with_text],
            "depth": (np.arange(n_layers) + 1) / n_layers,
            "offset": list(TOKEN_OFFSETS),
            "language": ("example", [language(clip) for clip, _ in with_text]),
            "n_tokens": ("example", [item["saturation"].size for _, item in with_text]),
        },
    )


def token_curves(asr: Recogniser, clip: Utterance, config: Config) -> Arrays:
    """Computes curves over layers for every token of one recording's text.

    Returns:
        Arrays over L layers and T tokens:
        `prob` [L, T]: probability of the final token.
        `saturation` [T]: relative depth of the saturation layer.
        `hit` [offset, L, T] and `hit_null` [L, T]: results of `look_ahead`.
        `sound`, `meaning` and their variants [L, T]: results of `similarity`.
    """
    memory, _ = asr.model.encode(jaxasr.log_mel(first_window(clip), asr.config.n_mels)[None])
    prompt = asr.tokenizer.prompt(language(clip))
    [text_ids] = asr.generate(memory, prompt).ids
    # The run decodes prompt and text again. `next_tokens` are the tokens after each position.
    run, next_tokens = lens.make_run(memory, prompt, list(text_ids), asr)
    lens_result = interventions.logit_lens(asr.model, run, config.top_k, final=next_tokens)
    # The state at a position predicts the next token, so the last prompt token predicts the first.
    predicting = slice(len(prompt) - 1, len(prompt) - 1 + len(text_ids))
    candidates = np.asarray(lens_result.ids)[:, 0, predicting]
    ids = np.asarray(text_ids, int)
    hit, hit_null = look_ahead(candidates, ids)
    tokens, is_word = {*candidates.ravel(), *ids}, word_tokens(asr, ids, clip, config.whole_words)
    cosine = cosine_in_vocabulary(asr, tokens)
    distance = phoneme_distance(asr, tokens, language(clip))
    return {
        "prob": np.exp(np.asarray(lens_result.logprob)[:, 0, predicting]),
        # `saturation` counts layers from 0; the depth of the top layer is 1.
        "saturation": (np.asarray(lens_result.saturation)[0, predicting] + 1) / len(candidates),
        "hit": hit,
        "hit_null": hit_null,
        **similarity("meaning", candidates, ids, cosine, is_word),
        **similarity("sound", candidates, ids, distance, is_word),
    }


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """Judges `CLAIMS` by one number per recording."""
    if reason := arrays.attrs.get("untestable"):
        return Analysis({key: claim.judge(None, reason) for key, claim in CLAIMS.items()})
    depth = arrays.depth.values
    top = layers_in_band(depth, low=0.9, high=1)
    lower = layers_in_band(depth, low=0, high=0.625)
    below_top = np.setdiff1d(np.arange(len(depth)), top)
    # In the paper, the similarities change at layer 25 of 32, which has depth 0.78.
    shallow, deep = np.flatnonzero(depth < 0.78), np.flatnonzero(depth >= 0.78)
    # The null minus the rate, because a smaller phoneme error rate means a more similar sound.
    sound = (arrays.sound_others_null - arrays.sound_others).values
    meaning = (arrays.meaning_others - arrays.meaning_others_null).values
    next_token = (arrays.hit.sel(offset=1) - arrays.hit_null).values
    values = {
        "commits_late": _gain_with_depth(arrays.prob.values, lower, top),
        "saturates_late": arrays.saturation.values,
        "sounds_alike": _gain_with_depth(sound, shallow, deep),
        "means_alike": _gain_with_depth(meaning, shallow, deep),
        "looks_ahead_late": _gain_with_depth(next_token, below_top, top),
    }
    findings = {key: CLAIMS[key].judge_mean(value, config.seed) for key, value in values.items()}
    if np.isnan(sound).all():  # espeak-ng is not installed
        findings["sounds_alike"] = CLAIMS["sounds_alike"].judge(None, ESPEAK_MISSING)
    findings["earlier_than_qwen"] = CLAIMS["earlier_than_qwen"].judge(
        None, "only one family of models; Qwen2-Audio cannot be loaded"
    )
    return Analysis(findings, _numbers(arrays))


def _gain_with_depth(values: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    return values[:, upper].mean(1) - values[:, lower].mean(1)


def _numbers(arrays: xr.Dataset) -> dict[str, Any]:
    """Averages the arrays over the recordings of all languages, and of each language."""
    language_codes = arrays.language.values
    masks = {"all": np.ones(len(language_codes), bool)}
    masks |= {str(code): language_codes == code for code in dict.fromkeys(language_codes)}
    tables: dict[str, Any] = {"depth": arrays.depth.values.round(3)}
    for name, mask in masks.items():
        rows = arrays.isel(example=np.flatnonzero(mask))
        means = {str(key): rows[key].mean("example").values.round(4) for key in rows.data_vars}
        counts = {"n": rows.sizes["example"], "tokens": int(rows.n_tokens.sum())}
        tables[name] = counts | means
    return tables


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Figure]:
    """Draws a figure of all curves over the layers, and one of the probability per language."""
    if "untestable" in arrays.attrs:
        return {}
    figures = {"token_selection": selection_figure(arrays, config.top_k)}
    if len(set(arrays.language.values)) > 1:
        figures["by_language"] = language_figure(arrays)
    return figures


STUDY = Study(
    title="When the decoder settles on a token",
    section="section 4.7, Fig. 2",
    about="The logit lens is applied at every token of the generated text. It shows the "
    "probability of this final token at each layer, and the layer from which on the final token is "
    "the top candidate. The other candidates are compared with the final token in sound and "
    "meaning. Later tokens of the text are looked up among the candidates.",
    data="Common Voice test, 6 languages of 100 utterances",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "here": {"languages": None, "per_language": 30},
        "builtin": {"languages": ("en",), "per_language": 16},
        "quick": {"per_language": 14},
    },
    claims=CLAIMS,
    differs=(
        "similarity of meaning is the cosine between the model's centred unembedding vectors; the "
        "paper's embedding is not known",
        "layers are compared by relative depth: the paper's layer n of 32 has depth n/32",
        "the nulls, the same candidates against another token of the same text, are additions",
    ),
)
