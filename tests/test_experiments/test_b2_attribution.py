"""B2 detects planted agreement, and none when estimates and exact changes are unrelated."""

from collections import Counter

import numpy as np
import pytest
import xarray as xr

from experiments.studies.attribution_claims import (
    CLAIMS,
    OTHER_SPEAKER,
    SITE_TYPES,
    SWEPT_SITES,
    WHITE_NOISE,
)
from experiments.studies.b2_attribution import RESULT_VARIABLES, STUDY, Config
from experiments.studies.claims import CONTRADICTED, SUPPORTED, UNTESTABLE, WEAKER

CORRUPTIONS = [WHITE_NOISE, OTHER_SPEAKER]
GOOD = dict(zip(SITE_TYPES, (0.95, 0.97, 0.9, 0.88)))
SITES_OF_LAST_TYPE = [site for site, (kind, _) in SWEPT_SITES.items() if kind == SITE_TYPES[3]]


def make_results(
    agreement: dict[str, float], n: int = 20, seed: int = 0, spread: float = 0.02, lost: float = 0.0
) -> xr.Dataset:
    """Makes results whose rank correlations are close to the `agreement` of each site type.

    `lost` is the mean difference between the two corruptions.
    """
    rng, types = np.random.default_rng(seed), [kind for kind, _ in SWEPT_SITES.values()]
    mean = np.array([agreement[kind] for kind in types])
    speaker_effect = spread * rng.normal(size=(n, 1, 1))
    rho = mean + speaker_effect + spread * rng.normal(size=(n, len(CORRUPTIONS), len(types)))
    rho[:, 1] -= lost
    values = dict.fromkeys(RESULT_VARIABLES, rho.clip(-1, 1))
    return xr.Dataset(
        {name: (("example", "corruption", "site"), table) for name, table in values.items()},
        {
            "example": np.arange(n),
            "speaker": ("example", [f"speaker {i}" for i in range(n)]),
            "corruption": CORRUPTIONS,
            "site": list(SWEPT_SITES),
            "type": ("site", types),
        },
    )


def verdicts(data: xr.Dataset) -> dict[str, str]:
    findings = STUDY.analyse(data, Config()).findings
    return {key: finding.verdict for key, finding in findings.items()}


def test_planted_agreement_is_detected():
    data = make_results(GOOD)
    assert verdicts(data) == dict.fromkeys(CLAIMS, SUPPORTED)
    table = STUDY.analyse(data, Config()).numbers["table"]
    assert table[OTHER_SPEAKER]["encoder.mlp_out"]["spearman"] == pytest.approx(0.88, abs=0.02)
    assert STUDY.draw(data, Config())


def test_unrelated_rankings_contradict_the_claims():
    found = verdicts(make_results(dict.fromkeys(SITE_TYPES, 0.0), spread=0.1))
    assert {found[site] for site in SWEPT_SITES} == {CONTRADICTED}


def test_an_agreement_at_the_null_is_rarely_supported():
    counts = Counter()
    for seed in range(60):
        null = make_results(dict.fromkeys(SITE_TYPES, 0.8), seed=seed, spread=0.1, lost=0.05)
        counts.update(verdicts(null).values())
    assert counts[SUPPORTED] + counts[WEAKER] <= 0.05 * counts.total()


def test_one_badly_ranked_type_does_not_affect_the_others():
    found = verdicts(make_results(GOOD | {SITE_TYPES[3]: 0.5}))  # the claims need 0.8
    expected = dict.fromkeys(SITES_OF_LAST_TYPE, CONTRADICTED)
    assert found == dict.fromkeys(CLAIMS, SUPPORTED) | expected


def test_a_worse_ranking_under_the_second_corruption_is_found():
    assert verdicts(make_results(GOOD, lost=0.07))["any_corruption"] == CONTRADICTED


def test_recordings_of_one_speaker_count_once():
    data = make_results(GOOD)
    of_five = data.assign_coords(speaker=("example", np.arange(20) % 5))
    finding = STUDY.analyse(of_five, Config()).findings["small_before_large"]
    assert (finding.evidence.n, finding.verdict) == (5, UNTESTABLE)


def test_sites_and_corruptions_that_were_left_out_give_no_verdict():
    data = make_results(GOOD).isel(corruption=[0], site=slice(0, 7))
    found = verdicts(data)
    missing = {*list(SWEPT_SITES)[7:], "small_before_large", "any_corruption"}
    assert {key for key, verdict in found.items() if verdict == UNTESTABLE} == missing
    assert STUDY.draw(data, Config())


def test_two_recordings_give_no_verdict():
    assert set(verdicts(make_results(GOOD, n=2)).values()) == {UNTESTABLE}
