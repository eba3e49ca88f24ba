"""B2 finds agreement where it was planted, and none where estimate and sweep have nothing to do with each other."""

import numpy as np
import pytest
import xarray as xr

from experiments.studies.b2_attribution import _NAMES, CLAIMS, SITES, STUDY, TYPES, Config
from experiments.studies.study import DOES_NOT, REPLICATES, UNTESTABLE


def arrays(agreement: dict[str, float], n: int = 10, seed: int = 0) -> xr.Dataset:
    rng, kinds = np.random.default_rng(seed), [kind for kind, _ in SITES.values()]
    rho = np.array([agreement[kind] for kind in kinds]) + 0.02 * rng.normal(size=(n, len(SITES)))
    names = dict.fromkeys(_NAMES, rho) | {"cells": np.full(rho.shape, 40.0)}
    coords = {"example": np.arange(n), "site": list(SITES), "type": ("site", kinds)}
    return xr.Dataset(
        {name: (("example", "site"), values) for name, values in names.items()}, coords
    )


def verdicts(data: xr.Dataset) -> dict[str, str]:
    return {name: found.verdict for name, found in STUDY.analyse(data, Config()).findings.items()}


def test_what_was_planted_is_found():
    planted = arrays(dict(zip(TYPES, (0.95, 0.97, 0.9, 0.88))))
    assert verdicts(planted) == dict.fromkeys(CLAIMS, REPLICATES)
    assert STUDY.analyse(planted, Config()).numbers["table"]["encoder.mlp_out"][
        "spearman"
    ] == pytest.approx(0.88, abs=0.02)
    assert STUDY.draw(planted, Config())


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_found_in_nothing(seed):
    assert verdicts(arrays(dict.fromkeys(TYPES, 0.0), seed=seed)) == dict.fromkeys(CLAIMS, DOES_NOT)


def test_a_type_that_is_ranked_badly_is_told_apart():
    found = verdicts(arrays(dict(zip(TYPES, (0.95, 0.97, 0.9, 0.5)))))
    assert found == {**dict.fromkeys(CLAIMS, REPLICATES), TYPES[3]: DOES_NOT}


def test_two_recordings_are_too_few():
    assert set(verdicts(arrays(dict.fromkeys(TYPES, 0.95), n=2)).values()) == {UNTESTABLE}
