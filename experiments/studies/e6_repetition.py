"""E6: patches decoder layers and heads to resolve repetition loops, and measures the cost.

A loop is a generated text that repeats itself. A patch resolves a loop if the new text is neither
empty nor repetitive; `loop_outcomes.mark_resolved` has the exact rule. The cost of a patch is the
change of the word error rate of clean speech.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.data.corpora import Corpus, Utterance
from experiments.item_cache import ItemCache
from experiments.studies.ablation import (
    COMPONENT_SITES,
    HEAD_SITES,
    MEAN,
    NOISE,
    RANDOM_KINDS,
    ZERO,
    mean_edits,
)
from experiments.studies.loop_claims import CLAIMS
from experiments.studies.loop_figures import draw_maps, draw_parts
from experiments.studies.loop_numbers import loop_numbers, speech_cost
from experiments.studies.loop_outcomes import Outcomes, control_cells
from experiments.studies.loop_patches import Patcher, patch_loops
from experiments.studies.loop_verdicts import judge
from experiments.studies.loops.mining import generate_ids, mine_loops
from experiments.studies.loops.sources import ORIGINS
from experiments.studies.loops.types import (
    LEAST_COPYING,
    MOST_MOVEMENT,
    TextAttention,
    measure_type,
    read_attention,
)
from experiments.studies.nonspeech import source_of
from experiments.studies.recordings import clean_speech
from experiments.studies.study import Analysis, Settings, Study, choice, paper
from jaxasr import Recogniser

TYPE_MEASURES = ("period", "movement", "copying")  # numbers of `loops.types.measure_type`
COPIES = "self-attention copies"  # name of the group of loops
_N_TYPED = 8  # clean texts whose attention is compared with that of loops


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of E6."""

    n_loops: int = paper(102, "section 4.5: repetition-prone utterances")
    tries: int = choice(
        50_000, "inputs to search for loops; the paper does not state how its loops were found"
    )
    n_clean: int = choice(500, "clean utterances for the cost, which the paper did not measure")
    n_mean: int = choice(20, "further clean utterances, over which means are taken")
    kinds: tuple[str, ...] = paper(
        (NOISE, ZERO, MEAN), "section 4.5: white-noise patch and ablation; the mean is ours"
    )
    n_random: int = choice(
        len(RANDOM_KINDS), "seeds of random directions, the control of the white-noise patch"
    )
    heads: bool = paper(True, "section 4.5: every head after every layer")
    max_new_tokens: int = choice(
        448 - 8, "nearly the whole context of 448 tokens; the detector needs 48 tokens"
    )
    detector: str = choice(
        "an n-gram that occurs 4 times in a row (3 times from 6 tokens on), or a compression "
        "ratio > 2.4",
        "no rule was found in the paper",
    )
    noise: str = choice(
        "length and level of the recording, one seed; the decoder reads the same tokens",
        "not found in the paper; positions of recording and noise must agree",
    )


def run(asr: Recogniser, corpus: Corpus, config: Config, cache: ItemCache) -> xr.Dataset:
    """Ablates the decoder's layers and heads on loops, then some of them on clean speech.

    Every cell is ablated on the loops. The controls in random directions and the clean recordings
    get only the cells of `loop_outcomes.control_cells`.

    Returns:
        The dataset of `experiments.studies.ablation.to_dataset`, with coordinates along `example`:
        `recording` ("loop" or "clean"), `source`, `origin`, `sticky`, and `period`, `movement` and
        `copying` of `loops.types.measure_type`.
    """
    sites = COMPONENT_SITES + (HEAD_SITES if config.heads else ())
    loops = mine_loops(asr, corpus, config.n_loops, config.tries, cache, config.max_new_tokens)
    speech = clean_speech(corpus, asr, config.n_clean + config.n_mean, config.max_new_tokens)
    n_scored = max(0, min(config.n_clean, len(speech) - config.n_mean))
    clean, others = speech[:n_scored], speech[n_scored:]
    means = dict(mean_edits(asr, others, sites)) if MEAN in config.kinds and others else None
    kinds = [kind for kind in config.kinds if kind != MEAN or means is not None]

    patcher = Patcher(asr, sites, cache, "E6", config.max_new_tokens, seed=config.seed, means=means)

    def select_cells(arrays: xr.Dataset) -> list[int]:
        return control_cells(label_recordings(arrays, loops, "loop"), config.seed)

    patched = patch_loops(patcher, loops, clean, kinds, config.n_random, select_cells)
    types = _measure_types(asr, loops, others, config, cache)
    loop_part = label_recordings(patched.loops, loops, "loop").assign_coords(
        {name: ("example", values) for name, values in types.items()}
    )
    # The kinds without clean speech, the controls, are filled with NaN.
    speech_part = label_recordings(patched.speech, clean, "clean").reindex(
        kind=loop_part.kind.values
    )
    return xr.concat([loop_part, speech_part], "example", join="exact", coords="minimal")


def label_recordings(arrays: xr.Dataset, clips: Sequence[Utterance], recording: str) -> xr.Dataset:
    """Adds the kind of recording, its source, and the origin and the stickiness of a loop."""
    # The label of a loop names its source. That of other recordings may name a file.
    is_loop = recording == "loop"
    labels = {
        "recording": [recording] * len(clips),
        "source": [str(clip.label("source")) if is_loop else source_of(clip) for clip in clips],
        "origin": [str(clip.label("origin") or "") for clip in clips],
        "sticky": [float(bool(clip.label("sticky"))) for clip in clips],
    }
    unknown = {name: np.full(len(clips), np.nan) for name in TYPE_MEASURES}
    return arrays.assign_coords(
        {name: ("example", np.array(values)) for name, values in (labels | unknown).items()}
    )


def _measure_types(
    asr: Recogniser,
    loops: Sequence[Utterance],
    speech: Sequence[Utterance],
    config: Config,
    cache: ItemCache,
) -> dict[str, np.ndarray]:
    """Measures the attention of loops; NaN without clean speech to compare it with."""
    if not loops or not speech:
        return {name: np.full(len(loops), np.nan) for name in TYPE_MEASURES}

    @functools.cache
    def clean_attention() -> list[TextAttention]:
        return [_attention_of(asr, clip, config.max_new_tokens) for clip in speech[:_N_TYPED]]

    def measure(clip: Utterance) -> dict[str, float]:
        ids = clip.label("ids")[: config.max_new_tokens]
        return measure_type(read_attention(asr, clip, ids), ids, clean_attention())

    items = cache.each("E6 types", loops, measure)
    return {name: np.array([item[name] for item in items], float) for name in TYPE_MEASURES}


def _attention_of(asr: Recogniser, clip: Utterance, max_new_tokens: int) -> TextAttention:
    return read_attention(asr, clip, generate_ids(asr, clip, max_new_tokens))


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """Judges `loop_claims.CLAIMS`."""
    loops, speech = (
        arrays.isel(example=np.flatnonzero(arrays.recording.values == kind))
        for kind in ("loop", "clean")
    )
    if not loops.sizes["example"]:
        reason = "none of the transcribed recordings makes this model loop"
        findings = {key: claim.judge(None, reason) for key, claim in CLAIMS.items()}
        return Analysis(findings, {"clean": speech_cost(speech)})
    outcomes = Outcomes.of(loops, config.seed)
    groups = _groups(loops)
    findings = judge(outcomes, speech, groups["sticky"], groups[COPIES], config.seed)
    return Analysis(findings, loop_numbers(outcomes, loops, speech, groups, config.seed))


def _groups(loops: xr.Dataset) -> dict[str, np.ndarray]:
    """Marks the loops of each origin and type, and those that are sticky or brittle."""
    sticky, known = loops.sticky.values > 0, loops.baseline_cer.notnull().values
    copies = loops.copying.values >= LEAST_COPYING
    stands = loops.movement.values <= MOST_MOVEMENT
    origins = {origin: loops.origin.values == origin for origin in ORIGINS}
    return {
        "sticky": sticky,
        "brittle": ~sticky,
        **origins,
        "words known": known,
        "words unknown": ~known,
        COPIES: copies,
        "cross-attention stands still": stands,
        "acoustic only": stands & ~copies,
        "induction only": copies & ~stands,
        "both": copies & stands,
        "neither": ~copies & ~stands,
    }


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Figure]:
    """Draws the shares of the parts, and maps of all cells."""
    loops = arrays.isel(example=np.flatnonzero(arrays.recording.values == "loop"))
    figures = {"repetition": draw_maps(arrays)}
    if not loops.sizes["example"]:
        return figures
    return {"parts": draw_parts(Outcomes.of(loops, config.seed), config.seed)} | figures


STUDY = Study(
    title="Where repetition loops are resolved",
    section="section 4.5",
    about="Recordings that make the model repeat itself are transcribed again with one part of one "
    "decoder layer changed: cross-attention, self-attention, MLP or a single head. The part is "
    "patched with its activation for white noise, set to zero, or set to its mean over clean "
    "speech. The control moves it as far as the white noise does, in random directions. The best "
    "layer and head are chosen on the sources of one half of the loops, and judged on the other "
    "half. The same changes on clean speech measure the cost.",
    data="102 repetition-prone utterances of Common Voice 16.1, Japanese and English",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "all": {"n_loops": 60, "tries": 4000, "n_clean": 120, "max_new_tokens": 56},
        "here": {"n_loops": 12, "tries": 60, "n_clean": 8, "n_mean": 4, "max_new_tokens": 56},
        "builtin": {"n_loops": 12, "tries": 40, "n_clean": 8, "n_mean": 4, "max_new_tokens": 56},
        "quick": {
            "n_loops": 2,
            "tries": 16,
            "n_clean": 2,
            "n_mean": 2,
            "n_random": 1,
            "kinds": (NOISE, ZERO),
            "heads": False,
            "max_new_tokens": 48,
        },
    },
    claims=CLAIMS,
    differs=(
        "a loop is resolved if the text is neither empty nor repetitive; the character error rate "
        "must also fall if the transcript is known",
        "layer and head are chosen on one half of the sources and judged on the other",
        "mean ablation, random directions of equal length, the cost on clean speech, and the types "
        "of loops are additions",
    ),
    counts=("n_loops", "tries"),
    version=2,
)
