"""E5 finds planted shifts and restored words, and finds nothing in nothing."""

import dataclasses
import itertools

import numpy as np
import pytest
import xarray as xr
from four_layers import FOUR_LAYERS

from experiments.data.corpora import Corpus, Utterance
from experiments.data.spoken_pairs import CARRIER, Pair, pairs, readings
from experiments.studies.claims import SUPPORTED, UNTESTABLE, WEAKER
from experiments.studies.context import effects, grid
from experiments.studies.context.judging import ALL_CLAIMS, CLAIMS
from experiments.studies.context.spoken_word import FITTING, ODD, OTHER, outcome, spellings
from experiments.studies.context.stimuli import MISSING, Job, passes_gate
from experiments.studies.e5_context import STUDY, Config

CONFIG = Config()
LISTED = grid.patches(
    FOUR_LAYERS, CONFIG.alphas, CONFIG.encoder_alphas, CONFIG.random_alphas, CONFIG.group_alpha, 3
)
N = 60  # sentences
N_SPEAKERS = 30  # of spliced sentences
IDLE = "decoder.attn_out 0"  # reads only tokens


def make_results(seed: int = 0, errors: float = 0.5, planted: bool = False) -> xr.Dataset:
    """Makes scores of 60 sentences and 60 spliced ones, with or without planted effects."""
    whole = make_scores(seed, errors, planted, ("odd", "fitting", "carrier"), spliced=False)
    spliced = make_scores(1000 + seed, errors, planted, ("odd", "fitting"), spliced=True)
    return xr.concat([whole, spliced], "example")


def make_scores(
    seed: int, errors: float, planted: bool, conditions: tuple[str, ...], spliced: bool
) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    rows = list(itertools.product(range(N), conditions))
    condition = np.array([name for _, name in rows])
    shift = rng.normal(size=(len(rows), len(LISTED)))
    labels = grid.labels(LISTED)
    noise, is_place = labels["kind"] == "noise", labels["unit"] == "place"
    restores = rng.random(shift.shape) < 0.002
    if planted:
        shift[:, noise & is_place] += 1
        shift[np.ix_(condition == "odd", labels["window"] == "context")] += (
            2 * noise[labels["window"] == "context"]
        )
        shift[np.ix_(condition == "odd", labels["unit"] == "group")] += 1
        planted_cells = np.isin(
            labels["place"], ["encoder.mlp_out 1", "decoder.cross_attn_out 1"]
        ) & np.isclose(labels["alpha"], 1.0)
        restores[:, planted_cells & noise] = (rng.random(len(rows)) < 0.95)[:, None]
    shift[:, (labels["unit"] == "none") | (labels["place"] == IDLE)] = 0
    restores[:, (labels["unit"] == "none") | (labels["place"] == IDLE)] = False
    is_error = np.array([i < errors * N for i, _ in rows])
    plain = np.where((condition == "odd") & ~is_error, ODD, FITTING)
    # Without an effect of context, fitting words are confused as often as odd ones.
    if not planted:
        plain = np.where((condition == "fitting") & is_error, ODD, plain)
    outcomes = np.where(restores, ODD, plain[:, None])
    if spliced:
        shift[:, ~grid.of_places(LISTED)] = np.nan
    coords = {name: ("cell", values) for name, values in labels.items()}
    return xr.Dataset(
        {
            "difference": (("example", "cell"), shift - 3.0),
            "outcome": (("example", "cell"), outcomes),
            "transcribed": ("example", plain),
            "spliced": ("example", np.full(len(rows), spliced)),
        },
        {
            "example": [f"{name}: {i} {spliced}" for i, name in rows],
            "condition": ("example", condition),
            "sentence": ("example", [f"sentence {i}" for i, _ in rows]),
            "voice": ("example", [f"speaker {i % N_SPEAKERS}" for i, _ in rows]),
            **coords,
        },
    )


def verdicts(data: xr.Dataset) -> dict[str, str]:
    findings = STUDY.analyse(data, CONFIG).findings
    return {key: finding.verdict for key, finding in findings.items()}


def test_planted_effects_are_found():
    data = make_results(planted=True)
    assert verdicts(data) == dict.fromkeys(ALL_CLAIMS, SUPPORTED)
    numbers = STUDY.analyse(data, CONFIG).numbers
    assert numbers["spliced"]["speakers"] == N_SPEAKERS
    assert numbers["spliced"]["odd_transcribed_as_fitting"] == 30
    assert numbers["places_without_effect"] == [IDLE]
    assert numbers["contextual_errors"] == 30


def test_nothing_is_found_in_nothing():
    """In at most 5 % of 40 runs of all claims together, and in at most 4 of 40 of each."""
    found = dict.fromkeys(ALL_CLAIMS, 0)
    for seed in range(40):
        for key, verdict in verdicts(make_results(seed)).items():
            found[key] += verdict in (SUPPORTED, WEAKER)
    assert max(found.values()) <= 4, found
    assert sum(found.values()) <= 0.05 * 40 * len(ALL_CLAIMS)


def test_without_errors_only_shifts_are_judged():
    data = make_results(errors=0)
    by_key = verdicts(data)
    assert {by_key[key] for key in by_key if key.startswith(("anywhere", "beyond"))} == {UNTESTABLE}
    assert set(STUDY.draw(data, CONFIG)) == {"places", "windows", "tries"}


def test_without_a_voice_nothing_is_judged():
    data = make_results().isel(example=slice(0, 0))
    assert set(verdicts(data).values()) == {UNTESTABLE}
    assert STUDY.draw(data, CONFIG) == {}


def test_without_spliced_speech_the_other_claims_are_judged():
    data = effects.of_speech(make_results(planted=True), spliced=False)
    by_key = verdicts(data)
    assert {by_key[key] for key in CLAIMS} == {SUPPORTED}
    assert {by_key[key] for key in by_key if key not in CLAIMS} == {UNTESTABLE}


def test_sentences_of_one_speaker_are_one_unit():
    findings = STUDY.analyse(make_results(planted=True), CONFIG).findings
    for key in set(ALL_CLAIMS) - set(CLAIMS):
        evidence = findings[key].evidence
        assert evidence is not None
        assert evidence.n == N_SPEAKERS
        assert findings[key].claim.units == "speakers"


def test_tries_without_replacement_agree_with_simulation():
    is_restored = np.array([[True, True, False, False, False, False]])
    rng = np.random.default_rng(0)
    draws = np.array([rng.permutation(is_restored[0]) for _ in range(4000)])
    simulated = np.maximum.accumulate(draws, 1).mean(0)
    np.testing.assert_allclose(effects.any_of_many(is_restored)[0], simulated, atol=0.03)


def test_the_word_in_the_gap_decides():
    pair = Pair("The old man walked slowly with a wooden {}.", "stick", "steak")
    assert outcome("an old man walks slowly, with a wooden stake", pair) == ODD
    assert outcome("The old man walked slowly with a wooden stick.", pair) == FITTING
    assert outcome("The old man walked slowly with a wooden chair.", pair) == OTHER
    assert outcome("", pair) == OTHER
    assert outcome("Stake.", dataclasses.replace(pair, sentence="{}")) == ODD
    assert spellings("lice") == {"lice"}


def test_a_reading_passes_if_its_odd_word_is_recognised_without_context():
    assert passes_gate({"carrier": np.array(OTHER), "alone": np.array(ODD)})
    assert not passes_gate({"carrier": np.array(FITTING), "alone": np.array(OTHER)})
    assert passes_gate({"carrier": np.array(MISSING), "alone": np.array(MISSING)})


def test_recordings_of_a_corpus_are_joined_by_sentence_and_speaker():
    def clip(word: str, speaker: str, congruent: bool) -> Utterance:
        labels = {"target": "lice", "expected": "rice", "congruent": congruent}
        text = f"A bowl of white {word}."
        return Utterance(f"{speaker} {word}", None, speaker, text, labels=labels)

    clips = [
        clip(word, f"speaker {i}", congruent)
        for i in range(10)
        for word, congruent in (("lice", False), ("rice", True))
    ]
    joined = readings(Corpus("mine", "memory", tuple(clips)), [], 1)
    assert len(joined) == 10
    assert joined[0].pair == Pair("A bowl of white {}.", "rice", "lice")
    assert joined[0].fitting.id == "speaker 0 rice"
    assert Job(dataclasses.replace(joined[0], carrier=clips[0]), "carrier").pair.sentence == CARRIER


def test_windows_cover_the_word_and_its_context():
    whole, word, context, matched = grid.window_masks((1.0, 1.2), 3 * 16_000, 1500)
    assert np.flatnonzero(word).tolist() == list(range(48, 62))  # with two frames at both ends
    assert whole.all()
    assert not (word & context).any()
    assert (word | context).sum() == 150
    assert matched.sum() == word.sum()
    assert not (matched & ~context).any()
    assert not grid.window_masks(None, 16_000, 1500)[1:].any()


def test_the_sentences_of_a_pair_differ_in_one_word():
    assert len({pair.sentence for pair in pairs()}) == len(pairs()) >= 200
    for pair in pairs():
        assert pair.sentence.count("{}") == 1
        assert pair.expected != pair.target
        assert {pair.expected, pair.target}.isdisjoint(pair.sentence.split())


@pytest.mark.parametrize("kind", ["noise", "random"])
def test_every_place_has_its_strengths(kind: str):
    alphas = CONFIG.alphas if kind == "noise" else CONFIG.random_alphas
    places = [patch for patch in LISTED if patch.unit == "place" and patch.kind == kind]
    assert len(places) == 4 * 5 * len(alphas)
    assert {patch.alpha for patch in places} == set(alphas)
    assert all((patch.direction > 0) == (kind == "random") for patch in places)


def test_the_encoder_has_strengths_of_its_own():
    """Random moves have the same strengths as moves towards noise, so that they can be compared."""
    listed = grid.patches(FOUR_LAYERS, (0.1, 0.5, 1.0), (0.1, 0.5), (0.5, 1.0), 0.5, 3)
    places = [patch for patch in listed if patch.unit == "place"]
    for stack, noise, random in (
        ("encoder", {0.1, 0.5}, {0.5}),
        ("decoder", {0.1, 0.5, 1.0}, {0.5, 1.0}),
    ):
        for kind, expected in (("noise", noise), ("random", random)):
            chosen = [p for p in places if p.stack == stack and p.kind == kind]
            assert {patch.alpha for patch in chosen} == expected


@pytest.mark.parametrize("name", ["all", "here", "quick"])
def test_every_preset_has_random_moves_in_both_stacks(name: str):
    config = dataclasses.replace(CONFIG, **STUDY.presets[name])
    for alphas in (config.alphas, config.encoder_alphas):
        assert set(config.random_alphas) & set(alphas)
