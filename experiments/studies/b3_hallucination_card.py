"""B3: measures how three edits change hallucination and the word error rate.

Hallucination means here that a recording without speech gets words. The three edits mask heads,
steer the decoder's residual stream, or project directions out of the stream.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.data.corpora import Corpus, Utterance
from experiments.item_cache import Arrays, ItemCache
from experiments.studies.ablation import TEXT_MEASURES
from experiments.studies.claims import Claim, Finding
from experiments.studies.evidence import Evidence
from experiments.studies.hallucination_edits import (
    EDIT_TITLES,
    EditSettings,
    encode_first_window,
    identity,
    make_all_edits,
)
from experiments.studies.recordings import clean_speech, nonspeech_or_noise
from experiments.studies.selection import language
from experiments.studies.study import Analysis, Settings, Study, choice
from interventions.figures import plots
from interventions.generation import sequence_sweep
from interventions.stats.intervals import bootstrap
from interventions.stats.roc import auroc_interval
from jaxasr import Recogniser
from jaxasr.taps import Edits

CONDITIONS = ("none", *EDIT_TITLES)
# Default thresholds of openai/whisper.
NO_SPEECH_THRESHOLD = 0.6  # probability that there is no speech
LOGPROB_THRESHOLD = -1.0  # mean natural-log probability per token
COMPRESSION_THRESHOLD = 2.4  # compression ratio of the text
_CALM_WHISPER = "not asked; Calm-Whisper: over 75 % fewer by training 3 heads"


def _edit_claims(name: str, title: str) -> dict[str, Claim]:
    """Makes the claims that an edit prevents hallucinations, and that it spares clean speech."""
    return {
        f"{name}_fewer": Claim(
            f"{title.capitalize()}: fewer recordings without speech get words",
            _CALM_WHISPER if name == "mask" else "not asked",
            "per held-out recording without speech, whether it gets words without the edit, minus "
            "whether it gets words with it; before any filter",
        ),
        f"{name}_cheap": Claim(
            f"{title.capitalize()}: clean speech is transcribed as well as before",
            "not asked",
            "per held-out clean recording, change of the word error rate, below 0.02; both error "
            "rates are clipped at 1",
            null=0.02,
            side="below",
            min_units=8,  # as many as the preset "builtin" has
        ),
    }


CLAIMS = {
    "filter": Claim(
        "Whisper's filter rejects hallucinated texts more often than texts of clean speech",
        "not asked; the thresholds are openai/whisper's",
        "without an edit, area under the ROC curve of the filter's decisions: texts of recordings "
        "without speech against texts of clean speech",
        null=0.5,
    )
}
for _name, _title in EDIT_TITLES.items():
    CLAIMS |= _edit_claims(_name, _title)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of B3. Edits are made from one half of the recordings and tested on the other."""

    n_nonspeech: int = choice(400, "recordings without speech; edits are made from half of them")
    n_clean: int = choice(200, "clean recordings; edits are made from half of them")
    n_heads: int = choice(3, "masked heads, as many as Calm-Whisper tunes")
    rank: int = choice(
        4, "directions in which states of hallucinations differ most from states of clean speech"
    )
    depth: float = choice(
        0.5, "relative depth of the decoder layer that is edited; 0.5 is the middle"
    )
    strength: float = choice(
        1.0, "factor of the steering vector, which is the difference of the class means"
    )
    max_new_tokens: int = choice(224, "half of the decoder's context, as openai/whisper")
    decoding: str = choice(
        "greedy, no timestamps, no fallback, language given",
        "the same for all conditions; a fallback would hide hallucinations",
    )

    def edit_settings(self) -> EditSettings:
        """Returns the settings that the edits depend on."""
        names = [field.name for field in dataclasses.fields(EditSettings)]
        return EditSettings(**{name: getattr(self, name) for name in names})


def run(asr: Recogniser, corpus: Corpus, config: Config, cache: ItemCache) -> xr.Dataset:
    """Transcribes the held-out halves under every condition.

    Returns:
        `experiments.studies.ablation.TEXT_MEASURES` [example, condition], NaN for an edit that
        cannot be made. The attribute `untestable` has the reasons by edit. The coordinate
        `recording` [example] is "nonspeech" or "clean".
    """
    recordings = {
        "nonspeech": _shuffled(nonspeech_or_noise(corpus, config.n_nonspeech), config.seed),
        "clean": _shuffled(
            clean_speech(corpus, asr, config.n_clean, config.max_new_tokens), config.seed
        ),
    }
    training = {kind: clips[::2] for kind, clips in recordings.items()}
    edits, reasons = make_all_edits(asr, training, config.edit_settings(), cache)
    held_out = [(kind, clip) for kind, clips in recordings.items() for clip in clips[1::2]]
    clips = [clip for _, clip in held_out]
    items: dict[str, list[Arrays]] = {}
    # If no edit could be made, an edit that changes nothing gives the condition "none".
    for name, edit in (edits or {"identity": identity(asr)}).items():
        score = functools.partial(
            score_edits, asr, edits=edit, max_new_tokens=config.max_new_tokens
        )
        items[name] = cache.each(f"B3 {name}", clips, score)
    # `score_edits` also scores the text without an edit, which is the same for every edit.
    first_items = next(iter(items.values()))
    items["none"] = [
        {name: item[f"baseline_{name}"] for name in TEXT_MEASURES} for item in first_items
    ]
    missing = [dict.fromkeys(TEXT_MEASURES, np.nan)] * len(clips)
    values = {
        name: np.array(
            [[float(item[name]) for item in items.get(key, missing)] for key in CONDITIONS]
        )
        for name in TEXT_MEASURES
    }
    return xr.Dataset(
        {name: (("example", "condition"), array.T) for name, array in values.items()},
        {
            "example": [clip.id for clip in clips],
            "condition": list(CONDITIONS),
            "recording": ("example", [kind for kind, _ in held_out]),
        },
        {"untestable": reasons},
    )


def _shuffled(clips: list[Utterance], seed: int) -> list[Utterance]:
    return [clips[i] for i in np.random.default_rng(seed).permutation(len(clips))]


def score_edits(asr: Recogniser, clip: Utterance, edits: Edits, max_new_tokens: int) -> Arrays:
    """Transcribes a recording under `edits` and without them.

    Returns:
        `TEXT_MEASURES` of the edited text, and `baseline_...` of the text without edits.
    """
    language_code = language(clip) or "en"
    swept = sequence_sweep(
        asr,
        encode_first_window(asr, clip),
        np.asarray([asr.tokenizer.prompt(language_code)], np.int32),
        jax.tree.map(lambda x: jnp.asarray(x)[None], edits),  # one cell
        references=[clip.transcript],
        language=language_code,
        max_new_tokens=max_new_tokens,
    )
    names = [name for measure in TEXT_MEASURES for name in (measure, f"baseline_{measure}")]
    return {name: np.asarray(swept[name].values.item()) for name in names}


def is_filtered(arrays: xr.Dataset) -> xr.DataArray:
    """Marks texts that openai/whisper would drop as silence or decode again as repetitive."""
    seems_silent = arrays.no_speech_prob > NO_SPEECH_THRESHOLD
    is_unsure = arrays.avg_logprob < LOGPROB_THRESHOLD
    return (seems_silent & is_unsure) | (arrays.compression_ratio > COMPRESSION_THRESHOLD)


def hallucination_rates(arrays: xr.Dataset) -> dict[str, xr.DataArray]:
    """Computes three rates per recording and condition.

    Returns:
        Arrays [example, condition] by name.
        `raw`: 1 if a recording without speech gets words, else 0.
        `filtered`: 1 if a recording without speech gets words that pass Whisper's filter, else 0.
        `wer`: word error rate of clean speech, at most 1.
        All rates are NaN for an edit that cannot be made.
    """
    without_speech, clean = (
        arrays.isel(example=np.flatnonzero(arrays.recording.values == kind))
        for kind in ("nonspeech", "clean")
    )
    insertions = without_speech.insertions
    raw = (insertions > 0).astype(float).where(insertions.notnull())
    return {
        "raw": raw,
        "filtered": raw * ~is_filtered(without_speech),
        "wer": np.minimum(clean.wer, 1),
    }


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """Judges `CLAIMS` over held-out recordings."""
    rates, reasons = hallucination_rates(arrays), arrays.attrs.get("untestable", {})
    baseline = {name: values.sel(condition="none").values for name, values in rates.items()}
    findings = {"filter": _judge_filter(arrays.sel(condition="none"), config.seed)}
    for name in EDIT_TITLES:
        prevented = baseline["raw"] - rates["raw"].sel(condition=name).values
        cost = rates["wer"].sel(condition=name).values - baseline["wer"]
        for key, values in ((f"{name}_fewer", prevented), (f"{name}_cheap", cost)):
            if name in reasons:
                findings[key] = CLAIMS[key].judge(None, reasons[name])
            else:
                findings[key] = CLAIMS[key].judge_mean(values, config.seed)
    intervals = {
        condition: {
            name: _interval(values.sel(condition=condition), config.seed)
            for name, values in rates.items()
        }
        for condition in CONDITIONS
    }
    held_out = {name: values.sizes["example"] for name, values in rates.items()}
    return Analysis(findings, {"held_out": held_out, "card": intervals})


def _judge_filter(baseline: xr.Dataset, seed: int) -> Finding:
    """Tests whether the filter rejects hallucinated texts more often than texts of speech."""
    has_text = (baseline.recording.values == "clean") | (baseline.insertions.values > 0)
    texts = baseline.isel(example=np.flatnonzero(has_text))
    is_nonspeech = texts.recording.values == "nonspeech"
    if is_nonspeech.all() or not is_nonspeech.any():
        return CLAIMS["filter"].judge(None, "texts of one kind of recording only")
    rejected = is_filtered(texts).values.astype(float)
    area = auroc_interval(rejected, is_nonspeech, texts.example.values, seed=seed)
    return CLAIMS["filter"].judge(Evidence(*area))


def _interval(values: xr.DataArray, seed: int) -> list[float]:
    """Returns the mean and both ends of its interval; [] for fewer than two values."""
    if values.notnull().sum() < 2:
        return []
    interval = bootstrap(values, seed=seed)
    return [round(float(interval[name]), 4) for name in ("mean", "low", "high")]


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Figure]:
    """Draws bars of the three rates for every condition, with their intervals."""
    figure, axes = plots.panels(1, 3, width=3.4, height=3.0)
    titles = {
        "raw": "words without speech, raw",
        "filtered": "words without speech, filtered",
        "wer": "word error rate, clean speech",
    }
    rates: dict[str, Any] = hallucination_rates(arrays)
    for panel, (name, title) in zip(axes, titles.items()):
        _draw_bars(panel, rates[name], config.seed)
        panel.set_title(f"{title} (n {rates[name].sizes['example']})", fontsize=9)
        panel.set_ylim(0, None if name == "wer" else 1.05)
    axes[0].set_ylabel("share of recordings; mean rate")
    return {"card": figure}


def _draw_bars(axes: Axes, values: xr.DataArray, seed: int) -> None:
    intervals = [_interval(values.sel(condition=name), seed) for name in CONDITIONS]
    mean, low, high = np.array([interval or [np.nan] * 3 for interval in intervals]).T
    error = np.maximum([mean - low, high - mean], 0)  # matplotlib rejects negative lengths
    colours = [plots.GREY, plots.BLUE, plots.TEAL, plots.ACCENT]
    x = range(len(CONDITIONS))
    axes.bar(x, mean, 0.7, yerr=error, color=colours, ecolor=plots.INK)
    axes.set_xticks(x, CONDITIONS)


STUDY = Study(
    title="A hallucination card",
    section="beyond the paper (compare sections 4.2 and 4.5)",
    about="Three edits are compared with the unedited model: masked heads, a steered stream, and a "
    "subspace projected out. The card counts recordings without speech that get words, before and "
    "after Whisper's filter. It also gives the word error rate of clean speech.",
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
    claims=CLAIMS,
)
