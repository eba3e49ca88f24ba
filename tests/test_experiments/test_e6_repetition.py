"""E6 detects planted cross-attention, and nothing if all cells resolve loops equally often."""

import numpy as np
import pytest
import xarray as xr
from four_layers import FOUR_LAYERS

from experiments.studies.ablation import ABLATION_KINDS, COMPONENT_SITES, HEAD_SITES, TEXT_MEASURES
from experiments.studies.claims import SUPPORTED, UNDECIDED, UNTESTABLE
from experiments.studies.e6_repetition import CLAIMS, CROSS, STUDY, Config, mark_resolved
from interventions.edits import site_cells

SITES = (*COMPONENT_SITES, *HEAD_SITES)
CELLS = site_cells(FOUR_LAYERS, SITES)  # one per layer of a component, and one per head


def make_results(stopped: np.ndarray, wer: np.ndarray, with_words: float = 0.5) -> xr.Dataset:
    """Makes outcomes of loops and of clean speech.

    Args:
        stopped: bool [loop, kind, cell], whether the ablation of the cell stops the loop.
        wer: word error rates of clean speech [clean recording, kind, cell].
        with_words: share of loops whose words are known.
    """
    n_loops, n = len(stopped), len(stopped) + len(wer)
    shape = (n, len(ABLATION_KINDS), len(CELLS["site"]))
    values = {name: np.zeros(shape) for name in TEXT_MEASURES}
    values["loop"][:n_loops], values["length"] = 1 - stopped, np.full(shape, 9.0)
    values["cer"][:n_loops], values["wer"][n_loops:] = np.where(stopped, 0.5, 3), wer
    baseline = {name: np.zeros(n) for name in TEXT_MEASURES}
    baseline["loop"][:n_loops] = 1
    baseline["cer"] = np.where(np.arange(n) < with_words * n_loops, 3.0, np.nan)
    return xr.Dataset(
        {name: (("example", "kind", "cell"), value) for name, value in values.items()}
        | {f"baseline_{name}": ("example", value) for name, value in baseline.items()},
        {
            "example": np.arange(n),
            "recording": ("example", ["loop"] * n_loops + ["clean"] * len(wer)),
            "kind": list(ABLATION_KINDS),
            "site": ("cell", [SITES[i] for i in CELLS["site"]]),
            "layer": ("cell", CELLS["layer"]),
            "head": ("cell", CELLS["head"]),
        },
    )


def is_cell(site: str, layer: int, head: int = -1) -> np.ndarray:
    in_layer = (CELLS["site"] == SITES.index(site)) & (CELLS["layer"] == layer)
    return in_layer & (CELLS["head"] == head)


def planted_results(n: int = 24) -> xr.Dataset:
    """Layer 2's cross-attention and its head 1 resolve five loops in six, others one in ten."""
    stopped = np.random.default_rng(0).random((n, 2, len(CELLS["site"]))) < 0.1
    strong = is_cell(CROSS, 2) | is_cell(HEAD_SITES[0], 2, 1)
    stopped[:, :, strong] = (np.arange(n) % 6 > 0)[:, None, None]
    return make_results(stopped, np.zeros((12, 2, len(CELLS["site"]))))


def results_without_effect(seed: int, rate: float = 0.3) -> xr.Dataset:
    """Every cell resolves a loop equally often, and damages clean speech."""
    rng, n_cells = np.random.default_rng(seed), len(CELLS["site"])
    return make_results(rng.random((24, 2, n_cells)) < rate, rng.uniform(0, 0.4, (12, 2, n_cells)))


def verdicts(data: xr.Dataset) -> dict[str, str]:
    findings = STUDY.analyse(data, Config()).findings
    return {key: finding.verdict for key, finding in findings.items()}


def test_planted_cells_are_detected():
    assert verdicts(planted_results()) == dict.fromkeys(CLAIMS, SUPPORTED)
    numbers = STUDY.analyse(planted_results(), Config()).numbers
    assert numbers["share_resolved"]["noise"]["cross_attn_out 2"] == pytest.approx(5 / 6, abs=1e-3)
    assert numbers["loops_with_known_words"] == 12


@pytest.mark.parametrize("seed", range(3))
def test_equal_cells_do_not_replicate(seed):
    assert verdicts(results_without_effect(seed)) == dict.fromkeys(CLAIMS, UNDECIDED)


def test_fragile_loops_single_out_no_cell():
    """Every cell resolves seven loops in ten, so no cell resolves more than the others."""
    by_key = verdicts(results_without_effect(0, rate=0.7))
    keys = ("cross_attention", "any_layer", "one_layer", "one_head")
    assert {by_key[key] for key in keys} == {UNDECIDED}


def test_a_loop_is_resolved_only_by_a_better_text():
    data = planted_results(6)
    data.cer[0, 0, 0], data.loop[0, 0, 0] = 4.0, 0.0  # no loop, but more errors than before
    data.length[1, 0, 0], data.loop[1, 0, 0] = 0.0, 0.0  # an empty text
    data.cer[5, 0, 0], data.loop[5, 0, 0] = 4.0, 0.0  # unknown words
    assert mark_resolved(data).values[[0, 1, 5], 0, 0].tolist() == [0, 0, 1]


def test_without_loops_there_is_a_reason_and_a_map_of_costs():
    data = planted_results().isel(example=slice(24, None))  # without the 24 loops
    findings = STUDY.analyse(data, Config()).findings
    assert {finding.verdict for finding in findings.values()} == {UNTESTABLE}
    assert "none of the transcribed recordings" in findings["one_head"].why
    [figure] = STUDY.draw(data, Config()).values()
    maps = [axes for axes in figure.axes if axes.get_title()]
    assert len(maps) == 6  # three for each of two interventions


def test_without_heads_only_layers_are_judged():
    by_key = verdicts(planted_results().isel(cell=np.flatnonzero(CELLS["head"] < 0)))
    assert by_key["one_head"] == by_key["cheap_head"] == UNTESTABLE
    assert by_key["one_layer"] == SUPPORTED
