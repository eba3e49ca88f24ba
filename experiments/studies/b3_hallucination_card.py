"""B3: what three edits do to hallucination and to word errors, on the same recordings with the same decoding: a card."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import jaxasr
from experiments.analyses import lens
from experiments.data.corpora import Corpus, Utterance
from experiments.item_cache import Arrays, Keep
from experiments.studies.ablation import HEADS, NUMBERS, written
from experiments.studies.recordings import clean, nonspeech
from experiments.studies.selection import first_window, language
from experiments.studies.study import Analysis, Claim, Evidence, Finding, Settings, Study, choice
from interventions.edits import Add, Project, Scale, only, site_cells
from interventions.figures import plots
from interventions.generation import sequence_sweep
from interventions.stats.intervals import bootstrap
from interventions.stats.roc import auroc
from jaxasr.taps import Edits, select

STREAM = "decoder.resid_post"
EDITS = {
    "mask": "heads set to zero",
    "steer": "mean-difference steering",
    "project": "projection out of a subspace",
}
CONDITIONS = ("none", *EDITS)
QUIET, UNSURE, REPEATED = (
    0.6,
    -1.0,
    2.4,
)  # openai/whisper: no-speech probability, mean log-probability, compression ratio
CLAIMS = {
    "filter": Claim(
        "Whisper's own filter keeps text away where nobody speaks, rather than where somebody does",
        "not asked; the thresholds are openai/whisper's",
        "without an edit, of a text without speech and one of clean speech: how often only the former is rejected, and half of the ties",
        0.5,
    )
} | {
    f"{name}_{what}": claim
    for name, title in EDITS.items()
    for what, claim in (
        ("fewer", Claim(
            f"{title.capitalize()}: fewer recordings without speech get words",
            "not asked; Calm-Whisper: over 75 % fewer by training 3 heads" if name == "mask" else "not asked",
            "per held-out recording without speech, words without the edit less words with it; before any filter",
        )),
        ("cheap", Claim(
            f"{title.capitalize()}: clean speech is written as well as before",
            "not asked",
            "per held-out clean recording, change of the word error rate (both at most 1), below 0.02",
            0.02, "below", 8,
        )),
    )
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of B3. Edits are made on one half of the recordings and judged on the other."""

    n_nonspeech: int = choice(400, "recordings without speech, half of them for making the edits")
    n_clean: int = choice(200, "clean recordings, half of them for making the edits")
    n_heads: int = choice(3, "as many as Calm-Whisper tunes")
    rank: int = choice(
        4, "directions in which hallucinating states differ most from those of clean speech"
    )
    depth: float = choice(
        0.5, "relative depth of the decoder's stream that is steered and projected, the middle"
    )
    strength: float = choice(
        1.0, "times the difference of means: a step as long as the classes are apart"
    )
    max_new_tokens: int = choice(224, "half of the decoder's context, as openai/whisper")
    decoding: str = choice(
        "greedy, no timestamps, no fallback, language given",
        "the same for all; a fallback hides the failure",
    )


def run(asr: Any, corpus: Corpus, config: Config, keep: Keep) -> xr.Dataset:
    """The numbers of every condition [example, condition] on the held-out halves, `of` "nonspeech" or "clean"."""
    speech = clean(corpus, asr, config.n_clean, config.max_new_tokens)
    drawn = {"nonspeech": nonspeech(corpus, config.n_nonspeech), "clean": speech}
    drawn = {
        of: [clips[i] for i in np.random.default_rng(config.seed).permutation(len(clips))]
        for of, clips in drawn.items()
    }
    made = {
        name: made_of(asr, {of: clips[::2] for of, clips in drawn.items()}, config, keep, name)
        for name in EDITS
    }
    clips = [(of, clip) for of, group in drawn.items() for clip in group[1::2]]
    parts = {}
    for name, edits in made.items():
        parts[name] = keep.each(
            f"B3 {name}",
            [clip for _, clip in clips],
            lambda clip, e=edits: under(asr, clip, e, config),
        )
    plain = [{part: one[f"baseline_{part}"] for part in NUMBERS} for one in parts["mask"]]
    rows = [plain, *parts.values()]
    values = {
        part: np.array([[float(one[part]) for one in column] for column in rows]).T
        for part in NUMBERS
    }
    return xr.Dataset(
        {name: (("example", "condition"), value) for name, value in values.items()},
        {
            "example": [clip.id for _, clip in clips],
            "condition": list(CONDITIONS),
            "of": ("example", [of for of, _ in clips]),
        },
    )


def made_of(
    asr: Any, fit: dict[str, list[Utterance]], config: Config, keep: Keep, name: str
) -> Edits:
    """The edits of a condition, from the half that is not judged."""
    if name == "mask":
        return _mask(asr, fit, config, keep)
    layer = min(round(config.depth * asr.config.n_text_layer), asr.config.n_text_layer - 1)
    state = lambda clip: states(asr, clip, layer, config)  # noqa: E731
    found = {
        of: [one["states"] for one in keep.each(f"B3 states, {of}", clips, state)]
        for of, clips in fit.items()
    }
    grounded, lost = (np.concatenate(found[of]) for of in ("clean", "nonspeech"))
    if not len(lost):
        lost = grounded  # nothing was written where nobody speaks: there is no difference to steer along
    away = lost - grounded.mean(0)
    if name == "steer":
        return {
            STREAM: only(
                Add(jnp.asarray(-away.mean(0), jnp.float32), config.strength), layers=layer
            )
        }
    directions = np.linalg.svd(away, full_matrices=False)[2][: config.rank]
    return {STREAM: only(Project(jnp.asarray(directions, jnp.float32)), layers=layer)}


def _mask(asr: Any, fit: dict[str, list[Utterance]], config: Config, keep: Keep) -> Edits:
    """The heads whose ablation silences most recordings without speech, less what it costs on clean speech."""
    one = lambda clip: written(asr, clip, HEADS, "zero", config.max_new_tokens, config.seed)  # noqa: E731
    found = {of: keep.each(f"B3 heads, {of}", clips, one) for of, clips in fit.items()}
    silenced = np.mean(
        [
            (item["baseline_insertions"] > 0) - (item["insertions"] > 0).astype(float)
            for item in found["nonspeech"]
        ],
        0,
    )
    cost = np.mean(
        [
            np.minimum(item["wer"], 1) - np.minimum(item["baseline_wer"], 1)
            for item in found["clean"]
        ],
        0,
    )
    cells, chosen = (
        site_cells(asr.config, HEADS),
        np.argsort(-(silenced - cost), kind="stable")[: config.n_heads],
    )
    sizes = (asr.config.n_text_layer, asr.config.n_text_head)
    keeps = np.ones((len(HEADS), *sizes), np.float32)
    for cell in chosen:
        keeps[cells["site"][cell], cells["layer"][cell], cells["head"][cell]] = 0
    return {site: Kept(jnp.asarray(keeps[number])) for number, site in enumerate(HEADS)}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kept:
    """x ← factor[layer, head]·x at a site of heads: 0 masks one."""

    factor: Any

    def __call__(self, x: Any, at: Any) -> Any:
        return Scale(self.factor[at.layer][:, None])(x, at)


def states(asr: Any, clip: Utterance, layer: int, config: Config) -> Arrays:
    """`states` [1, D]: the stream after `layer`, mean over the text; [0, D] where no word is written."""
    prompt, memory = asr.tokenizer.prompt(language(clip) or "en"), _hear(asr, clip)
    ids = lens.write(asr, memory, prompt)[: config.max_new_tokens]
    if not any(map(str.isalnum, asr.tokenizer.decode(ids))):
        return {"states": np.zeros((0, asr.config.n_text_state), np.float32)}
    reading, _ = lens.reading(memory, prompt, ids, asr)
    stream = np.asarray(reading.decode(asr.model, readout=select(STREAM))[1][STREAM])[
        layer, 0, len(prompt) : len(prompt) + len(ids)
    ]
    return {"states": stream.mean(0, keepdims=True)}


def under(asr: Any, clip: Utterance, edits: Edits, config: Config) -> Arrays:
    """`NUMBERS` of the text under `edits`, and `baseline_...` without."""
    code = language(clip) or "en"
    prompt, cells = (
        np.asarray([asr.tokenizer.prompt(code)], np.int32),
        jax.tree.map(lambda x: jnp.asarray(x)[None], edits),
    )
    options = {
        "references": [clip.transcript],
        "language": code,
        "max_new_tokens": config.max_new_tokens,
    }
    swept = sequence_sweep(asr, _hear(asr, clip), prompt, cells, **options)
    one = {name: swept[name].values.item() for name in NUMBERS}
    return one | {f"baseline_{name}": swept[f"baseline_{name}"].values.item() for name in NUMBERS}


def _hear(asr: Any, clip: Utterance) -> Any:
    return asr.model.encode(jaxasr.log_mel(first_window(clip), asr.config.n_mels)[None])[0]


def filtered(arrays: xr.Dataset) -> xr.DataArray:
    """Whether openai/whisper would have kept no text: probably no speech and unsure of it, or too repetitive."""
    return ((arrays.no_speech_prob > QUIET) & (arrays.avg_logprob < UNSURE)) | (
        arrays.compression_ratio > REPEATED
    )


def card(arrays: xr.Dataset) -> dict[str, xr.DataArray]:
    """[example, condition]: `raw` and `kept` (whether words are written, before and after the filter), `wer` at most 1."""
    quiet, speech = (
        arrays.isel(example=np.flatnonzero(arrays.of.values == of)) for of in ("nonspeech", "clean")
    )
    raw = (quiet.insertions > 0).astype(float)
    return {"raw": raw, "kept": raw * ~filtered(quiet), "wer": np.minimum(speech.wer, 1)}


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """The tests of `CLAIMS`."""
    found = card(arrays)
    plain = {name: values.sel(condition="none").values for name, values in found.items()}
    findings = {"filter": _filters(arrays.sel(condition="none"), config.seed)}
    for name in EDITS:
        less = plain["raw"] - found["raw"].sel(condition=name).values
        more = found["wer"].sel(condition=name).values - plain["wer"]
        findings |= {f"{name}_fewer": CLAIMS[f"{name}_fewer"].over(less, config.seed)}
        findings |= {f"{name}_cheap": CLAIMS[f"{name}_cheap"].over(more, config.seed)}
    table = {
        str(name): {
            part: _shown(values.sel(condition=name), config.seed) for part, values in found.items()
        }
        for name in CONDITIONS
    }
    return Analysis(
        findings,
        {
            "held_out": {name: values.sizes["example"] for name, values in found.items()},
            "card": table,
        },
    )


def _filters(plain: xr.Dataset, seed: int) -> Finding:
    """Of the texts that are there: a filter that rejects all alike is none."""
    there = plain.isel(
        example=np.flatnonzero((plain.of.values == "clean") | (plain.insertions.values > 0))
    )
    quiet = there.of.values == "nonspeech"
    if quiet.all() or not quiet.any():
        return CLAIMS["filter"].judge(
            None, "no text where nobody speaks, or none where somebody does"
        )
    return CLAIMS["filter"].judge(
        Evidence(
            *auroc(filtered(there).values.astype(float), quiet, there.example.values, seed=seed)
        )
    )


def _shown(values: xr.DataArray, seed: int) -> list[float]:
    """Mean and interval."""
    if values.sizes["example"] < 2:
        return []
    interval = bootstrap(values, seed=seed)
    return [round(float(interval[name]), 4) for name in ("mean", "low", "high")]


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Any]:
    """Bars of the three rates for every condition, with their intervals."""
    figure, axes = plots.panels(1, 3, width=3.4, height=3.0)
    titles = (
        "words without speech, raw",
        "words without speech, filtered",
        "word error rate, clean speech",
    )
    for one, (values, title) in zip(axes, zip(card(arrays).values(), titles)):
        shown = [
            _shown(values.sel(condition=name), config.seed) or [np.nan] * 3 for name in CONDITIONS
        ]
        mean, low, high = np.array(shown).T
        spread = np.maximum([mean - low, high - mean], 0)
        one.bar(
            range(len(CONDITIONS)),
            mean,
            0.7,
            yerr=spread,
            color=[plots.GREY, plots.BLUE, plots.TEAL, plots.ACCENT],
            ecolor=plots.INK,
        )
        one.set_xticks(range(len(CONDITIONS)), CONDITIONS)
        one.set_title(f"{title} (n {values.sizes['example']})", fontsize=9)
        one.set_ylim(0, None if one is axes[2] else 1.05)
    axes[0].set_ylabel("share of recordings; mean rate")
    return {"card": figure}


STUDY = Study(
    title="A hallucination card",
    section="beyond the paper (compare sections 4.2 and 4.5)",
    about="How often words are written where nobody speaks, before and after Whisper's own filter, and how many word errors clean speech "
    "has: without an edit, with masked heads, with the stream steered, and with a subspace projected out.",
    data="not asked by the paper",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "here": {"n_nonspeech": 24, "n_clean": 20, "max_new_tokens": 40},
        "builtin": {"n_nonspeech": 24, "n_clean": 16, "max_new_tokens": 48},
        "quick": {"n_nonspeech": 8, "n_clean": 4, "max_new_tokens": 32},
    },
)
