"""Tools refuse padded sources, and lengths that no recording of an audio language model has."""

import dataclasses

import numpy as np
import pytest
from language_runs import METRIC, model_of, runs_of

import interventions as iv

HEADS = {"site": "decoder.attn.z", "over": ("layer", "head"), "metric": METRIC}


def with_positions(run: iv.Run) -> iv.Run:
    n_rows, n_tokens = run.tokens.shape
    positions = np.tile(np.arange(n_tokens, dtype=np.int32) - 1, (n_rows, 1))
    return dataclasses.replace(run, positions=positions)


@pytest.mark.parametrize("tool", [iv.sweep, iv.attribution])
@pytest.mark.parametrize("name", ["target", "source"])
def test_padded_rows_are_refused(tool, name):
    runs = dict(zip(("target", "source"), runs_of()))
    runs[name] = with_positions(runs[name])
    with pytest.raises(ValueError, match=f"{name}: expected rows of equal length, got padded"):
        tool(model_of(), **runs, **HEADS)


@pytest.mark.parametrize("lengths", [[60, 60], [0, 29], [29.0, 30.0], [29]])
def test_impossible_lengths_are_refused(lengths):
    model, (target, source) = model_of(), runs_of()
    target = dataclasses.replace(target, lengths=np.array(lengths))
    senders, receivers = [iv.Node("decoder.attn.z", 1, 0)], [iv.Node("decoder.logits")]
    with pytest.raises(ValueError, match="lengths: expected"):
        iv.direct_logit_attribution(model, target, 3, 5)
    with pytest.raises(ValueError, match="lengths: expected"):
        iv.path_patch(model, target, source, senders=senders, receivers=receivers, metric=METRIC)
    for tool in (iv.sweep, iv.attribution):
        with pytest.raises(ValueError, match="lengths: expected"):
            tool(model, target, source, **HEADS)


@pytest.mark.parametrize("lengths", [[99, 1], [-1, 1], 3, [1.0, 1.0]])
def test_a_prefix_is_at_most_as_long_as_its_audio(lengths):
    prefix = runs_of()[0].encode(model_of()).memory
    with pytest.raises(ValueError, match="lengths: expected one integer from 0 to"):
        model_of().memory(prefix.xa, np.array(lengths))
