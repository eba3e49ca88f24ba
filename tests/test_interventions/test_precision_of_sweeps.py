"""Sweeps and attribution in 16 bits map and differentiate the attention of shared keys."""

import numpy as np
import pytest
from first_order_runs import METRIC, runs
from golden.tiny import TINY, checkpoint, tiny_state

import interventions as iv
from interventions.effects.first_order import attribution
from jaxasr.precision import precision_fields
from jaxasr.weights import assemble

CONFIG = TINY["80 mels"]
GRIDS = {
    "decoder.cross_attn.z": ("layer", "head", "position"),
    "decoder.resid_post": ("layer", "position"),
    "encoder.resid_post": ("layer", "time"),
}
OPTIONS = {"metric": METRIC, "window_s": 0.06}


def load(policy):
    return assemble(checkpoint(CONFIG, tiny_state(CONFIG)), **precision_fields(policy))


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


@pytest.mark.parametrize("policy", ["mixed", "bfloat16"])
@pytest.mark.parametrize("site", GRIDS)
def test_sweeps_of_shared_keys_agree_with_whole_passes(policy, site):
    model, (target, source) = load(policy), runs(CONFIG, 1)
    options = {"site": site, "over": GRIDS[site], **OPTIONS}
    resumed = iv.sweep(model, target, source, **options)
    whole = iv.sweep(model, target, source, reuse=False, **options)
    # Each pass rounds logits near 5 in its own way, so only correlation compares small effects.
    assert correlation(resumed, whole) > 0.95


@pytest.mark.parametrize("site", GRIDS)
def test_attribution_in_mixed_precision_is_near_float32(site):
    target, source = runs(CONFIG, 1)
    mixed, reference = (
        attribution(load(policy), target, source, site=site, over=GRIDS[site], **OPTIONS)
        for policy in ("mixed", "float32")
    )
    assert correlation(mixed, reference) > 0.99
