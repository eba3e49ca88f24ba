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
from experiments.analyses.generated_runs import generate_run
from experiments.data.corpora import Corpus, Utterance
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
from experiments.studies.selection import (
    cross_validation_groups,
    first_window,
    language,
    of_few_per_speaker,
    select_speech,
    supported_languages,
)
from experiments.studies.selection_claims import CLAIMS, compare_saturation, judge_claims
from experiments.studies.study import Analysis, Settings, Study, choice, paper
from experiments.studies.token_figures import language_figure, selection_figure
from jaxasr import Recogniser
from jaxasr.families import FAMILIES, WHISPER


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of E8."""

    languages: tuple[str, ...] | None = choice(
        ("en", "es", "fr", "de", "it", "pt"), "the paper uses six languages and does not name them"
    )
    per_language: int = paper(100, "section 4.7: 6 languages of 100 utterances")
    per_speaker: int = choice(
        1, "recordings per speaker, so that recordings are independent; unknown speakers count each"
    )
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
        of_few_per_speaker(corpus, config.per_speaker),
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
    speakers = cross_validation_groups(clips)
    return xr.Dataset(
        {name: (dims.get(name, ("example", "depth")), values) for name, values in means.items()},
        {
            "example": [clip.id for clip, _ in with_text],
            "depth": (np.arange(n_layers) + 1) / n_layers,
            "offset": list(TOKEN_OFFSETS),
            "language": ("example", [language(clip) for clip, _ in with_text]),
            "speaker": ("example", [speakers[clip.id] for clip, _ in with_text]),
            "n_tokens": ("example", [item["saturation"].size for _, item in with_text]),
        },
        {} if asr.config.family == WHISPER else {"family": asr.config.family},
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
    generated = generate_run(asr, first_window(clip), language(clip))
    text_ids, n_prompt = generated.ids, generated.n_prompt
    lens_result = interventions.logit_lens(
        asr.model, generated.run, config.top_k, final=generated.next_tokens
    )
    # The state at a position predicts the next token, so the last prompt token predicts the first.
    predicting = slice(n_prompt - 1, n_prompt - 1 + len(text_ids))
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
    return Analysis(judge_claims(arrays, config.seed), _numbers(arrays))


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
        "all": {"languages": None, "per_language": 100},
        "here": {"languages": None, "per_language": 30},
        "builtin": {"languages": ("en",), "per_language": 16},
        "quick": {"per_language": 14},
    },
    claims=CLAIMS,
    version=2,
    families=(WHISPER, *FAMILIES),
    compare=compare_saturation,
    differs=(
        "recordings are spread over the sets of the corpus, and there is one per speaker",
        "similarity of meaning is the cosine between the model's centred unembedding vectors; the "
        "paper's embedding is not known",
        "layers are compared by relative depth: the paper's layer n of 32 has depth n/32",
        "the nulls, the same candidates against another token of the same text, are additions",
    ),
)
