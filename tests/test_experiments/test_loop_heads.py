"""The numbers and the figure of the loop experiment, from planted outcomes; and that the committed ones are what they say."""

import json
from pathlib import Path

import numpy as np
import xarray as xr

from experiments import loop_heads

RESULT = Path(__file__).parents[2] / "docs/results/loops/result.json"


def outcomes(n=12):
    """Head 1.2 of the first site stops every loop and head 0.0 of the second breaks clean speech; the last recording does not loop."""
    rng, dims, coords = (
        np.random.default_rng(0),
        ("site", "layer", "head", "example"),
        {"site": list(loop_heads.SITES)},
    )
    coords |= {"layer": [0, 1], "head": [0, 1, 2]}
    resolved = (rng.random((2, 2, 3, n)) < 0.2).astype(float)
    resolved[0, 1, 2] = 1
    wer = rng.random(n) * 0.1 + np.zeros((2, 2, 3, n))
    wer[1, 0, 0] += 0.5 + rng.random(n)
    looped = xr.Dataset(
        {
            "resolved": (dims, resolved),
            "baseline_loop": ("example", (np.arange(n) < n - 1).astype(float)),
        },
        coords,
    )
    return looped, xr.Dataset(
        {"wer": (dims, wer), "baseline_wer": ("example", wer[0, 0, 0])}, coords
    )


def test_a_head_that_stops_loops_and_one_that_costs(tmp_path):
    shown, summaries = loop_heads.summary(*outcomes())
    assert shown["stopped"]["mean"][0, 1, 2] == 1
    assert (shown["stopped"]["p_any"] < 0.05).sum() == 1
    assert shown["stopped"]["p_any"][0, 1, 2] < 0.05
    assert (shown["cost"]["p_any"] < 0.05).sum() == 1
    assert shown["cost"]["mean"][1, 0, 0] > 0.5
    assert summaries[0].n_examples == 11  # of 12
    loop_heads.draw({"zero": summaries}, tmp_path)
    assert (tmp_path / "heads.png").stat().st_size > 10_000


def test_committed_numbers_follow_from_the_committed_outcomes():
    found = json.loads(RESULT.read_text())
    for ablation in found["ablations"].values():
        resolved, loops = np.array(ablation["resolved"]), np.array(ablation["baseline_loops"]) == 1
        np.testing.assert_allclose(
            resolved[..., loops].mean(-1), ablation["stopped"]["mean"], atol=1e-4
        )
        cost = (np.array(ablation["wer"]) - ablation["baseline_wer"]).mean(-1)
        np.testing.assert_allclose(cost, ablation["cost"]["mean"], atol=2e-4)
        assert resolved.shape == (2, 4, 6, len(found["loops"]))
        assert ablation["stopped"]["mean"][0][0][2] > 0.75  # what docs/loops.md says of head 0.2
        assert ablation["cost"]["mean"][0][0][2] == 0
