"""E8: when the decoder settles on a token, and what the candidates have in common with it on the way (the logit lens)."""

import dataclasses
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

import interventions
import jaxasr
from experiments.analyses import lens
from experiments.data.corpora import Corpus, Utterance
from experiments.data.phonemes import MISSING, installed, phoneme_error_rate, phonemes
from experiments.item_cache import Arrays, Keep
from experiments.studies.selection import first_window, language, spoken, supported_languages
from experiments.studies.study import Analysis, Claim, Settings, Study, band, choice, paper
from interventions.figures import plots
from jaxasr.languages import WITHOUT_SPACES

OFFSETS = (0, 1, 2)  # the token itself, the next one, the one after
CLAIMS = {
    "commits_late": Claim(
        "The final token gets its probability late",
        "low until about layer 20 of 32, then a steep rise, the last three layers are nearly certain",
        "per recording, mean probability of the final token at depth 0.9 to 1 less that at depth 0 to 0.62",
        null=0.5,
    ),
    "saturates_late": Claim(
        "Saturation lies in the upper third",
        "a dashed line right of the rise; no number was found",
        "per recording, mean depth of the saturation layer, against 20/32",
        null=0.625,
    ),
    "sounds_alike": Claim(
        "With depth, the other candidates come to sound like the final token",
        "phoneme error rate falls with depth, visibly near layer 25 of 32",
        "phoneme error rate of the other candidates of the top 5, less that to another token of the text; its fall above depth 0.78",
    ),
    "means_alike": Claim(
        "With depth, the other candidates come to mean what the final token means",
        "cosine similarity separates quickly after layer 25 of 32",
        "cosine of the other candidates of the top 5, less that to another token of the text; its rise above depth 0.78",
    ),
    "looks_ahead_late": Claim(
        "The next token is among the candidates only near the top",
        "Whisper: a sharp rise at layer 29 of 32 only",
        "next token among the top 5, less the rate of other tokens of the text; at depth 0.9 to 1 less that at the depths below",
    ),
    "earlier_than_qwen": Claim(
        "Whisper saturates earlier than Qwen2-Audio",
        "its dashed line is left of Qwen's; no number was found",
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
        1.5, "seconds; shorter recordings hold a word or two, no text to look at"
    )
    whole_words: bool = choice(
        True, "sound and meaning of tokens that begin a word; a fragment has neither"
    )


def run(asr: Any, corpus: Corpus, config: Config, keep: Keep) -> xr.Dataset:
    """Means over the tokens of every recording, [example, depth]; depth 1 is the last decoder layer."""
    clips = spoken(
        corpus,
        config.per_language,
        supported_languages(asr, config.languages),
        at_least_s=config.at_least_s,
    )
    kept = keep.each("E8 logit lens", clips, lambda clip: read(asr, clip, config))
    said = [(clip, item) for clip, item in zip(clips, kept) if item["saturation"].size]
    means = {name: np.stack([_mean(item[name]) for _, item in said]) for name in said[0][1]}
    dims = {"saturation": ("example",), "hit": ("example", "offset", "depth")}
    return xr.Dataset(
        {name: (dims.get(name, ("example", "depth")), values) for name, values in means.items()},
        {
            "example": [clip.id for clip, _ in said],
            "depth": (np.arange(asr.config.n_text_layer) + 1) / asr.config.n_text_layer,
            "offset": list(OFFSETS),
            "language": ("example", [language(clip) for clip, _ in said]),
            "n_tokens": ("example", [item["saturation"].size for _, item in said]),
        },
    )


def _mean(values: np.ndarray) -> np.ndarray:
    """Over tokens, the last axis, those without a value left out."""
    known = np.isfinite(values)
    return np.divide(
        np.where(known, values, 0).sum(-1),
        known.sum(-1),
        out=np.full(values.shape[:-1], np.nan),
        where=known.any(-1),
    )


def read(asr: Any, clip: Utterance, config: Config) -> Arrays:
    """One recording: `prob` [L, T] of the final token, `saturation` [T] (depth), `hit` [offset, L, T] and `hit_null` [L, T],
    `sound`, `meaning` [L, T] of all candidates, `sound_others`, `meaning_others` of those that are not the final token, and their
    nulls, the same candidates against another token of the text. NaN where a token has no value."""
    memory, _ = asr.model.encode(jaxasr.log_mel(first_window(clip), asr.config.n_mels)[None])
    prompt = asr.tokenizer.prompt(language(clip))
    ids = lens.write(asr, memory, prompt)
    reading, final = lens.reading(memory, prompt, ids, asr)
    seen = interventions.logit_lens(asr.model, reading, config.top_k, final=final)
    here = slice(len(prompt) - 1, len(prompt) - 1 + len(ids))
    top, ids = np.asarray(seen.ids)[:, 0, here], np.asarray(ids, int)
    hit, hit_null = ahead(top, ids)
    return {
        "prob": np.exp(np.asarray(seen.logprob)[:, 0, here]),
        "saturation": (np.asarray(seen.saturation)[0, here] + 1) / len(top),
        **{"hit": hit, "hit_null": hit_null},
        **_alike("meaning", top, ids, _cosine(asr, top, ids), _words(asr, ids, clip, config)),
        **_alike(
            "sound", top, ids, _sound(asr, top, ids, language(clip)), _words(asr, ids, clip, config)
        ),
    }


def ahead(
    top: Int[np.ndarray, "L T K"], ids: Int[np.ndarray, "T"]
) -> tuple[Float[np.ndarray, "O L T"], Float[np.ndarray, "L T"]]:
    """Whether the token itself, the next one and the one after are among the candidates; and, as null, the share of all tokens of
    the text further away that are. NaN past the end, and for a later token that is the token itself."""
    among = (top[:, :, :, None] == ids).any(2).astype(float)  # [L, T, T]
    places = np.arange(len(ids))
    hit = np.full((len(OFFSETS), *top.shape[:2]), np.nan)
    for row, offset in enumerate(OFFSETS):
        t = places[: len(ids) - offset]
        t = t[(ids[t + offset] != ids[t]) | (offset == 0)]
        hit[row][:, t] = among[:, t, t + offset]
    near = np.abs(places[:, None] - places) <= max(OFFSETS)
    said = (ids[:, None, None] == np.where(near, ids, -1)).any(
        -1
    )  # [j, t]: token j also stands near t
    return hit, _mean(np.where(said.T, np.nan, among))


def _alike(name: str, top: np.ndarray, ids: np.ndarray, alike: Any, whole: np.ndarray) -> Arrays:
    """`alike(candidates [L, K], token)` of every token and of one half the text away, over all candidates and over the others."""
    found = {
        f"{name}{kind}{null}": np.full(top.shape[:2], np.nan)
        for kind in ("", "_others")
        for null in ("", "_null")
    }
    far = np.roll(ids, len(ids) // 2)
    for t in np.flatnonzero(whole):
        for null, meant in (("", ids[t]), ("_null", far[t])):
            values = alike(top[:, t], meant)
            if null and meant == ids[t]:
                continue
            found[f"{name}{null}"][:, t] = _mean(values)
            found[f"{name}_others{null}"][:, t] = _mean(
                np.where(top[:, t] == ids[t], np.nan, values)
            )
    return found


def _words(asr: Any, ids: np.ndarray, clip: Utterance, config: Config) -> np.ndarray:
    """Which tokens are text with letters and, in languages that write spaces, begin a word."""
    texts, spaced = asr.tokenizer.token_texts(ids.tolist()), language(clip) not in WITHOUT_SPACES
    return np.array(
        [
            any(map(str.isalpha, text)) and (text[:1] == " " or not (spaced and config.whole_words))
            for text in texts
        ],
        bool,
    )


def _cosine(asr: Any, top: np.ndarray, ids: np.ndarray) -> Any:
    table, known = (
        asr.model.decoder.token_embedding[...],
        np.unique(np.concatenate([top.ravel(), ids])),
    )
    rows = np.asarray(
        table[known] - table.mean(0), np.float32
    )  # what all tokens share says nothing
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return lambda candidates, meant: (
        rows[np.searchsorted(known, candidates)] @ rows[np.searchsorted(known, meant)]
    )


def _sound(asr: Any, top: np.ndarray, ids: np.ndarray, code: str) -> Any:
    if not installed():
        return lambda candidates, meant: np.full(candidates.shape, np.nan)
    known = np.unique(np.concatenate([top.ravel(), ids])).tolist()
    said = dict(
        zip(known, phonemes([asr.tokenizer.token_texts([one])[0].strip() for one in known], code))
    )

    def rate(candidate: int, meant: int) -> float:
        return (
            phoneme_error_rate(said[candidate], said[meant])
            if said[meant] and said[candidate]
            else np.nan
        )

    return lambda candidates, meant: np.array(
        [[rate(int(one), int(meant)) for one in row] for row in candidates]
    )


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """The tests of `CLAIMS`, one number a recording."""
    depth = arrays.depth.values
    top, low, below = band(depth, 0.9, 1), band(depth, 0, 0.625), np.flatnonzero(depth < 0.78)
    late = np.flatnonzero(depth >= 0.78)
    sound = (
        arrays.sound_others_null - arrays.sound_others
    ).values  # more alike is higher, as for meaning
    meaning = (arrays.meaning_others - arrays.meaning_others_null).values
    following = (arrays.hit.sel(offset=1) - arrays.hit_null).values
    values = {
        "commits_late": _rise(arrays.prob.values, low, top),
        "saturates_late": arrays.saturation.values,
        "sounds_alike": _rise(sound, below, late),
        "means_alike": _rise(meaning, below, late),
        "looks_ahead_late": _rise(following, np.setdiff1d(np.arange(len(depth)), top), top),
    }
    findings = {name: CLAIMS[name].over(one, config.seed) for name, one in values.items()}
    if np.isnan(sound).all():
        findings["sounds_alike"] = CLAIMS["sounds_alike"].judge(None, MISSING)
    findings["earlier_than_qwen"] = CLAIMS["earlier_than_qwen"].judge(
        None, "one family of models; Qwen2-Audio cannot be loaded"
    )
    return Analysis(findings, _numbers(arrays))


def _rise(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return values[:, high].mean(1) - values[:, low].mean(1)


def _numbers(arrays: xr.Dataset) -> dict[str, Any]:
    """Means over recordings of all curves, over all and for each language."""
    codes = arrays.language.values
    groups = {
        "all": np.ones(len(codes), bool),
        **{str(code): codes == code for code in dict.fromkeys(codes)},
    }
    rows = {name: arrays.isel(example=np.flatnonzero(mask)) for name, mask in groups.items()}
    return {
        "depth": arrays.depth.values.round(3),
        **{
            name: {"n": one.sizes["example"], "tokens": int(one.n_tokens.sum())}
            | {str(key): one[key].mean("example").values.round(4) for key in one.data_vars}
            for name, one in rows.items()
        },
    }


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Any]:
    """The paper's three panels and the look-ahead, over all recordings; and probability and saturation for each language."""
    figure, axes = plots.panels(2, 2, width=4.6)
    depth = arrays.depth.values
    plots.curve(axes[0], depth, arrays.prob.values, "final token")
    axes[0].axvline(
        float(arrays.saturation.mean()),
        color=plots.ACCENT,
        linestyle="--",
        label="mean saturation layer",
    )
    for one, name in ((axes[1], "sound"), (axes[2], "meaning")):
        for kind, label, colour in (
            ("", "all candidates", plots.TEAL),
            ("_others", "other candidates", plots.BLUE),
        ):
            plots.curve(one, depth, arrays[f"{name}{kind}"].values, label, colour)
        plots.curve(
            one,
            depth,
            arrays[f"{name}_others_null"].values,
            "null: to another token",
            plots.GREY,
            linestyle=":",
        )
    for offset, label, colour in zip(
        OFFSETS, ("this token", "the next", "the one after"), plots.COLOURS
    ):
        plots.curve(axes[3], depth, arrays.hit.sel(offset=offset).values, label, colour)
    plots.curve(
        axes[3],
        depth,
        arrays.hit_null.values,
        "null: tokens further away",
        plots.GREY,
        linestyle=":",
    )
    titles = (
        "probability",
        "phoneme error rate to the final token",
        "cosine to the final token",
        f"among the top {config.top_k}",
    )
    for one, title in zip(axes, titles):
        one.set(title=title, xlabel="depth (share of decoder layers)")
        if one.lines:
            one.legend(frameon=False, fontsize=8)
    return {
        "token_selection": figure,
        **({"by_language": _by_language(arrays)} if len(set(arrays.language.values)) > 1 else {}),
    }


def _by_language(arrays: xr.Dataset) -> Any:
    figure, (one,) = plots.panels(1, 1, width=6, height=3.6)
    for place, code in enumerate(dict.fromkeys(arrays.language.values)):
        rows, colour = (
            arrays.isel(example=np.flatnonzero(arrays.language.values == code)),
            plots.COLOURS[place % len(plots.COLOURS)],
        )
        one.plot(
            rows.depth,
            rows.prob.mean("example"),
            "o-",
            markersize=3,
            color=colour,
            label=f"{code} (n {rows.sizes['example']})",
        )
        one.axvline(float(rows.saturation.mean()), color=colour, linestyle="--", linewidth=0.8)
    one.set(
        title="probability of the final token; dashed: mean saturation layer",
        xlabel="depth (share of decoder layers)",
    )
    one.legend(frameon=False, fontsize=8, ncols=2)
    return figure


STUDY = Study(
    title="When the decoder settles on a token",
    section="section 4.7, Fig. 2",
    about="The logit lens at every token that the model wrote: how probable the final token is at each layer, from which layer on it "
    "stays on top, and whether the candidates sound like it, mean the same, or already hold what comes next.",
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
    differs=(
        "similarity of meaning is the cosine in the model's own unembedding space, centred; the paper's embedding is not known",
        "layers are compared by relative depth: the paper's layer n of 32 is depth n/32",
        "nulls are ours: the same candidates against another token of the same text",
    ),
)
