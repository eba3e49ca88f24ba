"""E5 detects patches that restore a word, but not if random directions restore it as often."""

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from four_layers import FOUR_LAYERS

from experiments.data.corpora import Utterance
from experiments.data.spoken_pairs import pairs
from experiments.studies.claims import SUPPORTED, UNDECIDED, UNTESTABLE
from experiments.studies.context_edits import (
    EXPECTED,
    OTHER,
    PATCH_KINDS,
    PATCHED_SITES,
    TARGET,
    UNTRIED,
    outcome,
    sentences,
)
from experiments.studies.e5_context import CLAIMS, STUDY, Config
from interventions.edits import RandomDirection, site_cells
from jaxasr.taps import At

CONFIG = Config()
# Cells of patching a model with four layers per stack: one per site, layer and strength.
CELLS = site_cells(FOUR_LAYERS, PATCHED_SITES, CONFIG.alphas)
# The site of each cell.
SITE_OF_CELL = np.array(PATCHED_SITES)[CELLS["site"]]
N = 48  # sentences


def make_results(
    noise: np.ndarray, random: np.ndarray, errors: float = 0.5, swapped: float = 0.0
) -> xr.Dataset:
    """Makes outcomes of 48 sentences, each spoken with the target word and with the expected word.

    Args:
        noise: bool [error, cell], whether a patch towards white noise restores the target word.
        random: bool [error, cell], whether a move in a random direction restores it.
        errors: share of sentences whose target word is transcribed as the expected word.
        swapped: share of sentences whose expected word is transcribed as the target word.
    """
    congruent, is_error = np.arange(2 * N) % 2 == 1, np.arange(N) < errors * N
    before = np.empty(2 * N, int)
    before[~congruent] = np.where(is_error, EXPECTED, TARGET)
    before[congruent] = np.where(np.arange(N) < swapped * N, TARGET, EXPECTED)
    after = np.full((2 * N, 2, len(SITE_OF_CELL)), UNTRIED)
    restored = [np.where(noise, TARGET, OTHER), np.where(random, TARGET, EXPECTED)]
    after[np.flatnonzero(~congruent)[is_error]] = np.stack(restored, 1)
    after[1:20:2, 0] = EXPECTED  # ten congruent sentences remain right under every patch
    return xr.Dataset(
        {"before": ("example", before), "after": (("example", "kind", "cell"), after)},
        {
            "example": np.arange(2 * N),
            "congruent": ("example", congruent),
            "pair": ("example", np.repeat([f"voice: {i}" for i in range(N)], 2)),
            "kind": list(PATCH_KINDS),
            "site": ("cell", SITE_OF_CELL),
            "layer": ("cell", CELLS["layer"]),
            "alpha": ("cell", CELLS["alpha"]),
        },
    )


def planted_results() -> xr.Dataset:
    """One layer and strength per stack restores four words in five, other cells one in 1,000.

    There are 24 contextual errors, because `make_results` makes half of the sentences errors.
    """
    noise, random = np.random.default_rng(0).random((2, 24, len(SITE_OF_CELL))) < 0.001
    for site in ("encoder.mlp_out", "decoder.cross_attn_out"):
        cell = (site == SITE_OF_CELL) & (CELLS["layer"] == 1) & (CELLS["alpha"] == 1)
        noise[:, cell] = (np.arange(24) % 5 > 0)[:, None]
    return make_results(noise, random)


def verdicts(data: xr.Dataset) -> dict[str, str]:
    findings = STUDY.analyse(data, CONFIG).findings
    return {key: finding.verdict for key, finding in findings.items()}


def test_planted_patches_are_detected():
    assert verdicts(planted_results()) == dict.fromkeys(CLAIMS, SUPPORTED)
    numbers = STUDY.analyse(planted_results(), CONFIG).numbers
    assert numbers["incongruent"]["contextual_errors"] == 0.5
    assert numbers["best_patch"]["restores"] == pytest.approx(19 / 24)
    assert numbers["best_patch"]["breaks_clean"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_patches_no_better_than_random_moves_do_not_replicate(seed):
    """Taken together, the patches restore many errors, and so do the random directions."""
    noise, random = np.random.default_rng(seed).random((2, 24, len(SITE_OF_CELL))) < 0.01
    data = make_results(noise, random, swapped=0.5)
    assert verdicts(data) == dict.fromkeys(CLAIMS, UNDECIDED)
    shares = STUDY.analyse(data, CONFIG).numbers["errors_patched"]["any_of_many"]
    assert shares["noise"]["anywhere"] > 0.4


def test_without_errors_only_their_number_is_judged():
    data = make_results(
        np.zeros((0, len(SITE_OF_CELL))), np.zeros((0, len(SITE_OF_CELL))), errors=0
    )
    by_key = verdicts(data)
    assert by_key.pop("context") == UNDECIDED
    assert set(by_key.values()) == {UNTESTABLE}
    assert STUDY.draw(data, CONFIG)


def test_texts_are_compared_word_by_word():
    with_target = "He wrote a long ladder to his mother."
    with_expected = "He wrote a long letter to his mother."
    labels = {"target": "ladder", "expected": "letter"}
    odd = Utterance("a", None, transcript=with_target, labels=labels)
    congruent = Utterance("b", None, transcript=with_expected, labels=labels | {"congruent": True})
    for clip in (odd, congruent):
        assert sentences(clip) == (with_target, with_expected)
        assert outcome(" he wrote a long ladder, to his mother", clip) == TARGET
        assert outcome(with_expected, clip) == EXPECTED
        assert outcome("He wrote.", clip) == OTHER


def test_the_sentences_of_a_pair_differ_in_one_word():
    assert 4 * len(pairs()) >= 700  # in four voices, as many as the paper has
    assert len({pair.sentence for pair in pairs()}) == len(pairs())
    for pair in pairs():
        assert pair.sentence.count("{}") == 1
        assert pair.expected != pair.target
        assert {pair.expected, pair.target}.isdisjoint(pair.sentence.split())


def test_a_random_move_is_as_long_as_a_patch():
    rng = np.random.default_rng(0)
    x, value = (jnp.asarray(rng.normal(size=(2, 5, 7)), jnp.float32) for _ in range(2))
    at = At(jnp.int32(1), jnp.tile(jnp.arange(5), (2, 1)), None, "decoder.mlp_out")
    move, patch = np.asarray(RandomDirection(0.5, value)(x, at) - x), np.asarray(value - x)
    lengths = np.linalg.norm(move, axis=-1), np.linalg.norm(patch, axis=-1)
    np.testing.assert_allclose(lengths[0], 0.5 * lengths[1], rtol=1e-5)
    cosine = (move * patch).sum(-1) / lengths[0] / lengths[1]
    assert np.abs(cosine).max() < 0.95
    assert not np.allclose(move, RandomDirection(0.5, value, seed=1)(x, at) - x)
