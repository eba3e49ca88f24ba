"""B2 detects planted agreement, and none when estimates and exact changes are unrelated."""

import numpy as np
import pytest
import xarray as xr

from experiments.studies.b2_attribution import (
    CLAIMS,
    RESULT_VARIABLES,
    SITE_TYPES,
    STUDY,
    SWEPT_SITES,
    Config,
)
from experiments.studies.claims import SUPPORTED, UNDECIDED, UNTESTABLE


def make_results(agreement: dict[str, float], n: int = 10, seed: int = 0) -> xr.Dataset:
    """Makes results whose rank correlations are close to the `agreement` of each site type."""
    rng, types = np.random.default_rng(seed), [kind for kind, _ in SWEPT_SITES.values()]
    rho = np.array([agreement[kind] for kind in types]) + 0.02 * rng.normal(
        size=(n, len(SWEPT_SITES))
    )
    values = dict.fromkeys(RESULT_VARIABLES, rho) | {"cells": np.full(rho.shape, 40.0)}
    return xr.Dataset(
        {name: (("example", "site"), table) for name, table in values.items()},
        {"example": np.arange(n), "site": list(SWEPT_SITES), "type": ("site", types)},
    )


def verdicts(data: xr.Dataset) -> dict[str, str]:
    findings = STUDY.analyse(data, Config()).findings
    return {key: finding.verdict for key, finding in findings.items()}


def test_planted_agreement_is_detected():
    data = make_results(dict(zip(SITE_TYPES, (0.95, 0.97, 0.9, 0.88))))
    assert verdicts(data) == dict.fromkeys(CLAIMS, SUPPORTED)
    table = STUDY.analyse(data, Config()).numbers["table"]
    assert table["encoder.mlp_out"]["spearman"] == pytest.approx(0.88, abs=0.02)
    assert STUDY.draw(data, Config())


@pytest.mark.parametrize("seed", range(3))
def test_unrelated_rankings_do_not_replicate(seed):
    data = make_results(dict.fromkeys(SITE_TYPES, 0.0), seed=seed)
    assert verdicts(data) == dict.fromkeys(CLAIMS, UNDECIDED)


def test_one_badly_ranked_type_does_not_affect_the_others():
    data = make_results(dict(zip(SITE_TYPES, (0.95, 0.97, 0.9, 0.5))))  # the claims need 0.8
    assert verdicts(data) == {**dict.fromkeys(CLAIMS, SUPPORTED), SITE_TYPES[3]: UNDECIDED}


def test_two_recordings_give_no_verdict():
    data = make_results(dict.fromkeys(SITE_TYPES, 0.95), n=2)
    assert set(verdicts(data).values()) == {UNTESTABLE}
