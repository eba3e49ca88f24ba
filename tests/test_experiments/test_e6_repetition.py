"""E6 finds the cross-attention where it was planted, and nothing where every place resolves loops alike."""

import numpy as np
import pytest
import xarray as xr

from experiments.studies.ablation import COMPONENTS, HEADS, KINDS, NUMBERS
from experiments.studies.e6_repetition import CLAIMS, CROSS, STUDY, Config, resolved
from experiments.studies.study import DOES_NOT, REPLICATES, UNTESTABLE
from interventions.edits import site_cells
from jaxasr import Config as Model

MODEL = Model(80, 1500, 66, 3, 4, 100, 448, 66, 3, 4)
SITES = (*COMPONENTS, *HEADS)
CELLS = site_cells(MODEL, SITES)


def arrays(stops: np.ndarray, cost: np.ndarray, words: float = 0.5) -> xr.Dataset:
    """`stops` [loop, kind, cell] and `cost` [clean, kind, cell]; of a share `words` of loops the words are known."""
    n, m = len(stops), len(cost)
    shape = (n + m, len(KINDS), len(CELLS["site"]))
    values = {name: np.zeros(shape) for name in NUMBERS}
    values["repetitive"][:n], values["length"] = 1 - stops, np.full(shape, 9.0)
    values["cer"][:n], values["wer"][n:] = np.where(stops, 0.5, 3), cost
    plain = {name: np.zeros(n + m) for name in NUMBERS}
    plain["repetitive"][:n], plain["cer"] = 1, np.where(np.arange(n + m) < words * n, 3.0, np.nan)
    return xr.Dataset(
        {name: (("example", "kind", "cell"), value) for name, value in values.items()}
        | {f"baseline_{name}": ("example", value) for name, value in plain.items()},
        {
            "example": np.arange(n + m),
            "of": ("example", ["loop"] * n + ["clean"] * m),
            "kind": list(KINDS),
            **{
                "site": ("cell", [SITES[i] for i in CELLS["site"]]),
                "layer": ("cell", CELLS["layer"]),
                "head": ("cell", CELLS["head"]),
            },
        },
    )


def here(site: str, layer: int, head: int = -1) -> np.ndarray:
    return (
        (CELLS["site"] == SITES.index(site)) & (CELLS["layer"] == layer) & (CELLS["head"] == head)
    )


def planted(n: int = 24) -> xr.Dataset:
    """Cross-attention of layer 2 and its head 1 resolve five loops in six, everything else one in ten; nothing costs."""
    rng = np.random.default_rng(0)
    stops = rng.random((n, 2, len(CELLS["site"]))) < 0.1
    stops[:, :, here(CROSS, 2) | here(HEADS[0], 2, 1)] = (np.arange(n) % 6 > 0)[:, None, None]
    return arrays(stops, np.zeros((12, 2, len(CELLS["site"]))))


def nothing(seed: int, rate: float = 0.3) -> xr.Dataset:
    """Every cell resolves a loop as often, and breaks clean speech."""
    rng = np.random.default_rng(seed)
    return arrays(
        rng.random((24, 2, len(CELLS["site"]))) < rate,
        rng.uniform(0, 0.4, (12, 2, len(CELLS["site"]))),
    )


def verdicts(data: xr.Dataset) -> dict[str, str]:
    return {name: found.verdict for name, found in STUDY.analyse(data, Config()).findings.items()}


def test_what_was_planted_is_found():
    assert verdicts(planted()) == dict.fromkeys(CLAIMS, REPLICATES)
    numbers = STUDY.analyse(planted(), Config()).numbers
    assert numbers["share_resolved"]["noise"]["cross_attn_out 2"] == pytest.approx(5 / 6, abs=1e-3)
    assert numbers["loops_with_known_words"] == 12


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_found_in_nothing(seed):
    assert verdicts(nothing(seed)) == dict.fromkeys(CLAIMS, DOES_NOT)


def test_fragile_loops_alone_are_no_finding():
    found = verdicts(
        nothing(0, rate=0.7)
    )  # every place resolves most loops: a large share, but no place in particular
    assert {found[name] for name in ("cross_attention", "any_layer", "one_layer", "one_head")} == {
        DOES_NOT
    }


def test_a_loop_is_resolved_only_when_something_better_is_written():
    data = planted(6)
    data.cer[0, 0, 0], data.repetitive[0, 0, 0] = 4.0, 0.0  # no loop, further from the words
    data.length[1, 0, 0], data.repetitive[1, 0, 0] = 0.0, 0.0  # nothing at all
    data.cer[5, 0, 0], data.repetitive[5, 0, 0] = 4.0, 0.0  # its words are not known
    assert resolved(data).values[[0, 1, 5], 0, 0].tolist() == [0, 0, 1]


def test_without_loops_there_is_a_reason_and_a_map_of_costs():
    silent = planted().isel(example=slice(24, None))
    found = STUDY.analyse(silent, Config()).findings
    assert {one.verdict for one in found.values()} == {UNTESTABLE}
    assert "none of the recordings" in found["one_head"].why
    [figure] = STUDY.draw(silent, Config()).values()
    assert (
        len([axes for axes in figure.axes if axes.get_title()]) == 6
    )  # two interventions of three maps


def test_without_heads_only_layers_are_judged():
    few = planted().isel(cell=np.flatnonzero(CELLS["head"] < 0))
    found = verdicts(few)
    assert found["one_head"] == found["cheap_head"] == UNTESTABLE
    assert found["one_layer"] == REPLICATES
