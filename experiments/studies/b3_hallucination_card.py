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
from experiments.studies.evidence import paired_evidence
from experiments.studies.hallucination_edits import (
    EDIT_TITLES,
    EditSettings,
    encode_first_window,
    identity,
    make_all_edits,
)
from experiments.studies.hallucination_rates import (
    CLAIMS,
    hallucination_rates,
    judge_cost,
    judge_filter,
    rate_interval,
    share_changed,
)
from experiments.studies.halves import CHOOSE, CONFIRM, halves
from experiments.studies.nonspeech import nonspeech_or_noise, one_per_source, source_of
from experiments.studies.recordings import clean_speech
from experiments.studies.selection import cross_validation_groups, language
from experiments.studies.study import Analysis, Settings, Study, choice
from interventions.figures import plots
from interventions.generation import sequence_sweep
from jaxasr import Recogniser
from jaxasr.taps import Edits

CONDITIONS = ("none", *EDIT_TITLES)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of B3. Edits are made from one half of the sources and tested on the other."""

    n_nonspeech: int = choice(
        400, "recordings without speech, one per source; half of the sources are held out"
    )
    n_clean: int = choice(260, "clean recordings; half of the speakers are held out")
    n_choose: int = choice(60, "recordings of each kind from which edits are made, at most")
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
        `recording` [example] is "nonspeech" or "clean", and `source` is the independent unit.
    """
    training, held_out = divide(asr, corpus, config)
    edits, reasons = make_all_edits(asr, training, config.edit_settings(), cache)
    clips = [clip for _, _, clip in held_out]
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
            "recording": ("example", [kind for kind, _, _ in held_out]),
            "source": ("example", [source for _, source, _ in held_out]),
        },
        {"untestable": reasons},
    )


def divide(
    asr: Recogniser, corpus: Corpus, config: Config
) -> tuple[dict[str, list[Utterance]], list[tuple[str, str, Utterance]]]:
    """Divides the recordings so that no source (speaker or sound) is in both parts.

    Returns:
        The recordings from which edits are made, by kind. Then the kind, the source and the
        recording of each held-out one.
    """
    sounds = one_per_source(nonspeech_or_noise(corpus, len(corpus)))[: config.n_nonspeech]
    speech = clean_speech(corpus, asr, config.n_clean, config.max_new_tokens)
    speakers = cross_validation_groups(speech)
    training: dict[str, list[Utterance]] = {}
    held_out: list[tuple[str, str, Utterance]] = []
    for kind, clips, sources in (
        ("nonspeech", sounds, [source_of(clip) for clip in sounds]),
        ("clean", speech, [speakers[clip.id] for clip in speech]),
    ):
        parts = halves(sources, config.seed)
        chosen = [clip for clip, part in zip(clips, parts) if part == CHOOSE]
        order = np.random.default_rng(config.seed).permutation(len(chosen))[: config.n_choose]
        training[kind] = [chosen[i] for i in order]
        rows = zip(sources, clips, parts)
        held_out += [(kind, source, clip) for source, clip, part in rows if part == CONFIRM]
    return training, held_out


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


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """Judges `CLAIMS` over held-out recordings."""
    rates, reasons = hallucination_rates(arrays), arrays.attrs.get("untestable", {})
    baseline = {name: values.sel(condition="none").values for name, values in rates.items()}
    findings = {"filter": judge_filter(arrays.sel(condition="none"), config.seed)}
    changed: dict[str, dict[str, float]] = {}
    for name in EDIT_TITLES:
        fewer, cheap = CLAIMS[f"{name}_fewer"], CLAIMS[f"{name}_cheap"]
        if name in reasons:
            findings[f"{name}_fewer"] = fewer.judge(None, reasons[name])
            findings[f"{name}_cheap"] = cheap.judge(None, reasons[name])
            continue
        # Every recording without speech has another source, so an exact test applies.
        prevented = paired_evidence(baseline["raw"], rates["raw"].sel(condition=name).values)
        floor = float(np.mean(baseline["raw"] - baseline["filtered"])) if prevented.n else None
        findings[f"{name}_fewer"] = fewer.judge(dataclasses.replace(prevented, floor=floor))
        cost = rates["wer"].sel(condition=name) - baseline["wer"]
        changed[name] = share_changed(cost.values)
        findings[f"{name}_cheap"] = judge_cost(cheap, cost, config.seed)
    intervals = {
        condition: {
            name: rate_interval(values.sel(condition=condition), config.seed)
            for name, values in rates.items()
        }
        for condition in CONDITIONS
    }
    held_out = {name: values.sizes["example"] for name, values in rates.items()}
    numbers = {"held_out": held_out, "card": intervals, "clean_texts_changed": changed}
    return Analysis(findings, numbers)


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
    intervals = [rate_interval(values.sel(condition=name), seed) for name in CONDITIONS]
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
        "all": {"max_new_tokens": 48},
        "here": {"n_nonspeech": 24, "n_clean": 20, "n_choose": 12, "max_new_tokens": 40},
        "builtin": {"n_nonspeech": 24, "n_clean": 16, "max_new_tokens": 48},
        "quick": {"n_nonspeech": 8, "n_clean": 4, "max_new_tokens": 32},
    },
    claims=CLAIMS,
    version=2,
)
