"""B1 finds heads that were planted, and nothing where all heads are alike."""

import numpy as np
import xarray as xr

from experiments.studies.ablation import HEADS, NUMBERS
from experiments.studies.b1_head_atlas import CLAIMS, STUDY, Config
from experiments.studies.study import REPLICATES, UNTESTABLE
from interventions.edits import site_cells
from jaxasr import Config as Model

CELLS = site_cells(Model(80, 1500, 66, 3, 4, 100, 448, 66, 3, 4), HEADS)
N = 20


def arrays(silent: np.ndarray, stops: np.ndarray, cost: np.ndarray) -> xr.Dataset:
    """[N, cell] each: no word without speech any more, no loop any more, the word error rate of clean speech."""
    shape = (3 * N, 1, len(CELLS["site"]))
    values = {name: np.zeros(shape) for name in NUMBERS}
    values["insertions"][:N, 0], values["repetitive"][N : 2 * N, 0] = 5 * (1 - silent), 1 - stops
    values["wer"][2 * N :, 0], values["length"] = cost, np.full(shape, 9.0)
    plain = {name: np.zeros(3 * N) for name in NUMBERS}
    plain["insertions"][:N] = 5
    return xr.Dataset(
        {name: (("example", "kind", "cell"), value) for name, value in values.items()}
        | {f"baseline_{name}": ("example", value) for name, value in plain.items()},
        {
            "example": np.arange(3 * N),
            "of": ("example", np.repeat(["nonspeech", "loop", "clean"], N)),
            "kind": ["zero"],
            **{
                "site": ("cell", [HEADS[i] for i in CELLS["site"]]),
                "layer": ("cell", CELLS["layer"]),
                "head": ("cell", CELLS["head"]),
            },
        },
    )


def planted() -> xr.Dataset:
    """Heads silence and stop loops in proportion; the last cell does both nearly always; nothing costs."""
    rng, share = np.random.default_rng(0), np.linspace(0, 0.5, len(CELLS["site"]))
    share[-1] = 0.95
    silent, stops = rng.random((2, N, len(share))) < share
    return arrays(silent, stops, np.zeros(silent.shape))


def nothing(seed: int) -> xr.Dataset:
    """All heads silence and stop loops as often, and every head costs."""
    rng = np.random.default_rng(seed)
    silent, stops = rng.random((2, N, len(CELLS["site"]))) < 0.3
    return arrays(silent, stops, rng.uniform(0, 0.3, silent.shape))


def verdicts(data: xr.Dataset) -> dict[str, str]:
    return {name: found.verdict for name, found in STUDY.analyse(data, Config()).findings.items()}


def test_what_was_planted_is_found():
    assert verdicts(planted()) == dict.fromkeys(CLAIMS, REPLICATES)
    numbers = STUDY.analyse(planted(), Config()).numbers
    assert numbers["heads"]["self 3.2"]["unlooped"] > 0.8
    assert numbers["plain"]["words_without_speech"] == 1


def test_nothing_is_found_in_nothing_but_by_chance():
    """The best of many heads is wrongly told apart once in twenty: more than three of twenty would be a mistake of the test (p 0.02)."""
    found = [verdicts(nothing(seed)) for seed in range(20)]
    assert max(sum(one[name] == REPLICATES for one in found) for name in CLAIMS) <= 3


def test_without_loops_the_rest_is_judged():
    few = planted()
    few = few.isel(example=np.flatnonzero(few.of.values != "loop"))
    found = verdicts(few)
    assert {name for name, verdict in found.items() if verdict == UNTESTABLE} == {
        "unloops",
        "unloops_cheaply",
        "same_heads",
    }
    assert STUDY.draw(few, Config())
