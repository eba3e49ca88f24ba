"""E5 finds patches that restore a word where they were planted, and nothing where random moves do as well."""

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments.data.corpora import Utterance
from experiments.data.synthesis import pairs
from experiments.studies.e5_context import (
    CLAIMS,
    FITS,
    KINDS,
    ODD,
    OTHER,
    SITES,
    STUDY,
    UNTRIED,
    Config,
    outcome,
    sentences,
)
from experiments.studies.study import DOES_NOT, REPLICATES, UNTESTABLE
from interventions.edits import RandomDirection, site_cells
from jaxasr import Config as Model
from jaxasr.taps import At

CONFIG = Config()
CELLS = site_cells(Model(80, 1500, 66, 3, 4, 100, 448, 66, 3, 4), SITES, CONFIG.alphas)
SITE = np.array(SITES)[CELLS["site"]]


def arrays(
    noise: np.ndarray, astray: np.ndarray, errors: float = 0.5, swapped: float = 0.0
) -> xr.Dataset:
    """48 sentences said both ways; `errors` of the odd ones are heard as fitting. Patches make right what is 1 in `noise`, `astray`."""
    n, fitting = 48, np.arange(96) % 2 == 1
    wrong = np.arange(n) < errors * n
    before = np.empty(96, int)
    before[~fitting], before[fitting] = (
        np.where(wrong, FITS, ODD),
        np.where(np.arange(n) < swapped * n, ODD, FITS),
    )
    after = np.full((96, 2, len(SITE)), UNTRIED)
    tried = np.flatnonzero(~fitting)[wrong]
    after[tried] = np.stack([np.where(noise, ODD, OTHER), np.where(astray, ODD, FITS)], 1)
    after[1:20:2, 0] = FITS
    named = np.repeat([f"voice: {i}" for i in range(n)], 2)
    return xr.Dataset(
        {"before": ("example", before), "after": (("example", "kind", "cell"), after)},
        {
            **{
                "example": np.arange(96),
                "congruent": ("example", fitting),
                "pair": ("example", named),
                "kind": list(KINDS),
            },
            **{
                "site": ("cell", SITE),
                "layer": ("cell", CELLS["layer"]),
                "alpha": ("cell", CELLS["alpha"]),
            },
        },
    )


def planted() -> xr.Dataset:
    """One strength of one layer of each stack restores four in five; random moves one in a thousand."""
    rng = np.random.default_rng(0)
    noise, astray = rng.random((2, 24, len(SITE))) < 0.001
    for site in ("encoder.mlp_out", "decoder.cross_attn_out"):
        noise[:, (site == SITE) & (CELLS["layer"] == 1) & (CELLS["alpha"] == 1)] = (
            np.arange(24) % 5 > 0
        )[:, None]
    return arrays(noise, astray)


def verdicts(data: xr.Dataset) -> dict[str, str]:
    return {name: found.verdict for name, found in STUDY.analyse(data, CONFIG).findings.items()}


def test_what_was_planted_is_found():
    assert verdicts(planted()) == dict.fromkeys(CLAIMS, REPLICATES)
    numbers = STUDY.analyse(planted(), CONFIG).numbers
    assert numbers["odd"]["contextual_errors"] == 0.5
    assert numbers["best_patch"]["restores"] == pytest.approx(19 / 24)
    assert numbers["best_patch"]["breaks_clean"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_found_in_nothing(seed):
    noise, astray = (
        np.random.default_rng(seed).random((2, 24, len(SITE))) < 0.01
    )  # any of many restores most; so do random moves
    data = arrays(noise, astray, swapped=0.5)
    assert verdicts(data) == dict.fromkeys(CLAIMS, DOES_NOT)
    assert (
        STUDY.analyse(data, CONFIG).numbers["errors_patched"]["any_of_many"]["noise"]["either"]
        > 0.4
    )


def test_without_errors_only_their_number_is_judged():
    none = arrays(np.zeros((0, len(SITE))), np.zeros((0, len(SITE))), errors=0)
    found = verdicts(none)
    assert found.pop("context") == DOES_NOT
    assert set(found.values()) == {UNTESTABLE}
    assert STUDY.draw(none, CONFIG)


def test_texts_are_sorted_word_by_word():
    odd, fits = "He wrote a long ladder to his mother.", "He wrote a long letter to his mother."
    labels = {"target": "ladder", "expected": "letter"}
    assert sentences(Utterance("a", None, transcript=odd, labels=labels)) == (odd, fits)
    assert sentences(
        Utterance("b", None, transcript=fits, labels=labels | {"congruent": True})
    ) == (odd, fits)
    assert [
        outcome(text, odd, fits)
        for text in (" he wrote a long ladder, to his mother", fits, "He wrote.")
    ] == [ODD, FITS, OTHER]


def test_every_pair_differs_in_one_word():
    assert 4 * len(pairs()) >= 700  # in four voices as many as the paper has
    assert len({one.sentence for one in pairs()}) == len(pairs())
    for one in pairs():
        assert one.sentence.count("{}") == 1
        assert one.expected != one.target
        assert one.expected not in one.sentence.split()
        assert one.target not in one.sentence.split()


def test_astray_goes_as_far_as_a_patch():
    rng = np.random.default_rng(0)
    x, value = (jnp.asarray(rng.normal(size=(2, 5, 7)), jnp.float32) for _ in range(2))
    at = At(jnp.int32(1), jnp.tile(jnp.arange(5), (2, 1)), None, "decoder.mlp_out")
    moved = RandomDirection(0.5, value)(x, at) - x
    np.testing.assert_allclose(
        np.linalg.norm(moved, axis=-1), 0.5 * np.linalg.norm(value - x, axis=-1), rtol=1e-5
    )
    along = (
        (moved * (value - x)).sum(-1)
        / np.linalg.norm(moved, axis=-1)
        / np.linalg.norm(value - x, axis=-1)
    )
    assert np.abs(along).max() < 0.95
    assert not np.allclose(moved, RandomDirection(0.5, value, seed=1)(x, at) - x)
