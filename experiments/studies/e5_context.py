"""E5: tests whether patching a module restores a spoken word that context overrides.

Each sentence exists with an expected word and with a target word, which sounds similar but does not
fit. In a contextual error, the target word is spoken and the expected word is transcribed. A
control is a sentence with the expected word that is transcribed correctly.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.data.corpora import Corpus, Utterance
from experiments.data.phonemes import ESPEAK_MISSING, espeak_installed
from experiments.data.spoken_pairs import spoken_pairs
from experiments.item_cache import Arrays, ItemCache
from experiments.studies.best_cell import best_cell
from experiments.studies.claims import Claim, Finding
from experiments.studies.context_edits import (
    EXPECTED,
    PATCH_KINDS,
    PATCHED_SITES,
    TARGET,
    UNTRIED,
    transcribe,
    transcribe_patched,
)
from experiments.studies.context_outcomes import (
    SITES_BY_STACK,
    mark_broken,
    mark_restored,
    patched_examples,
    summarize_outcomes,
)
from experiments.studies.evidence import Evidence
from experiments.studies.study import Analysis, Settings, Study, choice, paper
from interventions.edits import site_cells
from interventions.edits.cells import Coordinates
from interventions.figures import plots
from jaxasr import Recogniser

# Description of the tests that patch the encoder, the decoder, or either of the two.
_ANY_PATCH_TEST = (
    "per contextual error, whether any patch of {} restores the spoken word, minus whether any of "
    "as many random edits of equal size restores it"
)
CLAIMS = {
    "context": Claim(
        "Context overrides the spoken word",
        "in 153 of 700 sentences (21.9 %), only the target word is wrong",
        "per sentence and voice, whether the target word is transcribed as the expected one, minus "
        "whether the expected word is transcribed as the target",
        min_units=20,
    ),
    "encoder": Claim(
        "Patching the encoder restores the spoken word",
        "85.0 % of errors, by any of many patches",
        _ANY_PATCH_TEST.format("the encoder"),
    ),
    "decoder": Claim(
        "Patching the decoder restores the spoken word",
        "82.4 % of errors, by any of many patches",
        _ANY_PATCH_TEST.format("the decoder"),
    ),
    "anywhere": Claim(
        "Patching the encoder or the decoder restores the spoken word",
        "88.9 % of errors, by any of many patches",
        _ANY_PATCH_TEST.format("the encoder or the decoder"),
    ),
    "one_place": Claim(
        "A single patch restores the spoken word in many sentences",
        "not reported",
        "share of errors that the best patch restores, compared with 0.2; p compares this share "
        "with the largest share of any patch when each error's outcomes are permuted over patches",
        null=0.2,
    ),
}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of E5."""

    sentences: int = paper(
        700, "section 4.4: synthetic sentences with a phonetically ambiguous target"
    )
    voices: int = choice(4, "the paper does not state it; espeak-ng offers at most 6")
    n_errors: int = choice(700, "contextual errors to patch; the default patches all of them")
    n_clean: int = choice(100, "controls, which measure the damage of patches; the paper has none")
    alphas: tuple[float, ...] = choice(
        (0.25, 0.5, 0.75, 1.0, 1.5), "the paper varies the strength; its values were not found"
    )
    max_new_tokens: int = choice(32, "a sentence has at most 16 tokens")
    score: str = choice(
        "the text that is generated under every patch", "the paper also counts texts"
    )
    noise: str = choice(
        "length and level of the recording, one seed; the decoder reads the same tokens",
        "not found in the paper",
    )


def run(asr: Recogniser, corpus: Corpus, config: Config, cache: ItemCache) -> xr.Dataset:
    """Transcribes all recordings, and patches contextual errors and some controls.

    Returns:
        `before` [example]: outcome without an edit.
        `after` [example, kind, cell]: outcome under every patch; `UNTRIED` without a patch.
        The coordinate `congruent` [example] marks recordings of the expected word. The outcomes
        are constants of `experiments.studies.context_edits`.
    """
    clips = spoken_pairs(corpus, config.sentences, config.voices)
    texts = cache.each("E5 sentences", clips, functools.partial(transcribe, asr))
    before = np.array([int(item["outcome"]) for item in texts], int)
    congruent = np.array([bool(clip.label("congruent")) for clip in clips], bool)
    errors = np.flatnonzero((before == EXPECTED) & ~congruent)[: config.n_errors]
    controls = np.flatnonzero((before == EXPECTED) & congruent)[: config.n_clean]
    # A patch job has the row of a recording and a kind of patch. Controls get no random patches.
    patch_jobs = [(int(row), kind) for row in errors for kind in PATCH_KINDS]
    patch_jobs += [(int(row), "noise") for row in controls]

    def patch(patch_job: tuple[int, str]) -> Arrays:
        row, kind = patch_job
        return transcribe_patched(
            asr,
            clips[row],
            kind,
            alphas=config.alphas,
            max_new_tokens=config.max_new_tokens,
            seed=config.seed,
        )

    items = cache.each(
        "E5 patches",
        patch_jobs,
        patch,
        key=lambda patch_job: f"{patch_job[1]} {clips[patch_job[0]].id}",
    )
    cells = site_cells(asr.config, PATCHED_SITES, config.alphas)
    after = np.full((len(clips), len(PATCH_KINDS), len(cells["site"])), UNTRIED)
    for (row, kind), item in zip(patch_jobs, items):
        after[row, PATCH_KINDS.index(kind)] = item["outcome"]
    return _to_dataset(clips, congruent, before, after, cells)


def _to_dataset(
    clips: Sequence[Utterance],
    congruent: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    cells: Coordinates,
) -> xr.Dataset:
    pairs = [
        f"{clip.label('voice') or clip.speaker}: {clip.label('target')}/{clip.label('expected')}"
        for clip in clips
    ]
    return xr.Dataset(
        {"before": ("example", before), "after": (("example", "kind", "cell"), after)},
        {
            "example": [clip.id for clip in clips],
            "congruent": ("example", congruent),
            "pair": ("example", pairs),
            "kind": list(PATCH_KINDS),
            "site": ("cell", [PATCHED_SITES[number] for number in cells["site"]]),
            "layer": ("cell", cells["layer"]),
            "alpha": ("cell", cells["alpha"]),
        },
    )


def analyse(arrays: xr.Dataset, config: Config) -> Analysis:
    """Judges `CLAIMS`."""
    errors = patched_examples(arrays, congruent=False)
    findings = {"context": _judge_context(arrays, config.seed)}
    if errors.sizes["example"]:
        findings |= _judge_patches(mark_restored(errors), config.seed)
    else:
        missing = "" if espeak_installed() else f"; for more of them: {ESPEAK_MISSING}"
        reason = f"no contextual error among the sentences{missing}"
        findings |= {
            key: claim.judge(None, reason) for key, claim in CLAIMS.items() if key != "context"
        }
    return Analysis(findings, summarize_outcomes(arrays))


def _judge_context(arrays: xr.Dataset, seed: int) -> Finding:
    """Compares contextual errors with reverse errors.

    In a reverse error, the expected word is spoken and the target word is transcribed. Each pair is
    a sentence with the target word and the same sentence with the expected word, in one voice. A
    recording without a partner is dropped.
    """
    claim, congruent = CLAIMS["context"], arrays.congruent.values
    pairs, before = arrays.pair.values, arrays.before.values
    # TARGET is the reverse error of a congruent recording. EXPECTED is the contextual error.
    reverse_errors = dict(zip(pairs[congruent], before[congruent] == TARGET))
    context_errors = zip(pairs[~congruent], before[~congruent] == EXPECTED)
    differences = [
        float(error) - reverse_errors[pair]
        for pair, error in context_errors
        if pair in reverse_errors
    ]
    if not differences:
        return claim.judge(None, "no sentence is also spoken with the expected word")
    return claim.judge_mean(differences, seed)


def _judge_patches(is_restored: xr.DataArray, seed: int) -> dict[str, Finding]:
    """Judges the claims about stacks by noise patches minus random ones, and the best patch."""
    findings = {}
    for key, sites in SITES_BY_STACK.items():
        # The largest of zeros and ones is 1 if any cell restores the word.
        by_any = is_restored.isel(cell=np.isin(is_restored.site.values, sites)).max("cell")
        gain = by_any.sel(kind="noise") - by_any.sel(kind="random")
        findings[key] = CLAIMS[key].judge_mean(gain.values, seed)
    findings["one_place"] = _judge_best_patch(is_restored.sel(kind="noise"), seed)
    return findings


def _judge_best_patch(is_restored: xr.DataArray, seed: int) -> Finding:
    claim, n = CLAIMS["one_place"], is_restored.sizes["example"]
    if n < 2:  # no interval, but the number is reported
        return claim.judge(Evidence(float(is_restored.max()), np.nan, np.nan, n))
    _, evidence = best_cell(is_restored, seed)
    return claim.judge(evidence)


def draw(arrays: xr.Dataset, config: Config) -> dict[str, Figure]:
    """Draws maps over layers and strengths, with a column per site and a row per outcome."""
    is_restored = mark_restored(patched_examples(arrays, congruent=False))
    rows = {
        "to white noise: restored": is_restored.sel(kind="noise"),
        "random direction: restored": is_restored.sel(kind="random"),
        "to white noise: clean broken": mark_broken(patched_examples(arrays, congruent=True)),
    }
    figure, axes = plots.panels(len(rows), len(PATCHED_SITES), width=2.3, height=2.0)
    panels = iter(axes)
    for title, values in rows.items():
        means = _mean_over_examples(values)
        for site in PATCHED_SITES:
            # The cells of a site are sorted by layer, then by strength.
            grid = means[arrays.site.values == site].reshape(-1, len(config.alphas))
            strengths = [f"{alpha:g}" for alpha in config.alphas]
            image = plots.draw_heat_map(
                next(panels), grid, f"{site}\n{title}", 1.0, across=strengths
            )
    for panel in axes[-len(PATCHED_SITES) :]:
        panel.set_xlabel("strength α")
    axes[0].set_ylabel("layer")
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of sentences")
    return {"patches": figure}


def _mean_over_examples(values: xr.DataArray) -> np.ndarray:
    if not values.sizes["example"]:
        return np.full(values.sizes["cell"], np.nan)
    return values.mean("example").values


STUDY = Study(
    title="Whether context overrides the spoken word",
    section="section 4.4",
    about="In each sentence, one word is replaced by a similar-sounding word that does not fit. If "
    "the model transcribes the expected word instead, each module of encoder and decoder is "
    "patched towards its activation for white noise. The study counts the patches that restore the "
    "spoken word.",
    data="700 synthetic sentences; voices and texts were not published",
    settings=Config,
    run=run,
    analyse=analyse,
    draw=draw,
    presets={
        "here": {"sentences": 48, "voices": 3, "n_errors": 10, "n_clean": 4, "alphas": (0.5, 1.0)},
        "builtin": {"sentences": 32, "voices": 2, "n_errors": 10, "n_clean": 4},
        "quick": {"sentences": 8, "voices": 1, "n_errors": 2, "n_clean": 1, "alphas": (1.0,)},
    },
    claims=CLAIMS,
    differs=(
        "if the corpus has no such sentences, espeak-ng speaks 177 sentences of ours, with the "
        "target word and with the expected word",
        "random edits as null, the damage to controls and the share per patch are additions",
        "no person checked that the synthetic voice speaks the target word",
        "the output of a whole module is patched, not single heads",
    ),
)
