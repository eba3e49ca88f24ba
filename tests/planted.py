"""Made-up layers for studies that fit probes: what is planted in them grows with depth, and is the speaker's own."""

import numpy as np
import xarray as xr

from experiments.studies import probing
from experiments.studies.probing import Probing

DEPTHS = 4  # layers, beside the embedding
WIDTH = 8


def layers(
    labels: np.ndarray, groups: np.ndarray, effect: float, seed: int = 0, first: float = 0.0
) -> np.ndarray:
    """[L + 1, N, D]: noise of every row and of every group, and `effect` along one direction for each class, from `first` of it on."""
    rng = np.random.default_rng(seed)
    kinds, people = (
        np.unique(labels, return_inverse=True)[1],
        np.unique(groups, return_inverse=True)[1],
    )
    own = rng.normal(size=(people.max() + 1, WIDTH))[people]
    found = rng.normal(size=(DEPTHS + 1, len(labels), WIDTH)) + own
    for layer in range(DEPTHS + 1):
        share = first + (1 - first) * max(layer - 1, 0) / (DEPTHS - 1)
        found[layer, np.arange(len(labels)), kinds] += effect * share
    return found


def rows(kinds: list[str], n_groups: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and groups of `each` rows of every group; a group is of one kind, the kinds take turns."""
    groups = np.repeat(np.arange(n_groups), each)
    return np.array(kinds)[groups % len(kinds)], np.array([f"speaker {n}" for n in groups])


def asked(
    question: str,
    labels: np.ndarray,
    groups: np.ndarray,
    effect: float,
    config: Probing,
    *,
    seed: int = 0,
    **baselines: int,
) -> xr.Dataset:
    """`probed.ask` of planted layers; `baselines` name features of so many columns that know nothing."""
    rng = np.random.default_rng(seed + 1)
    empty = {
        name.replace("_", " "): rng.normal(size=(len(labels), width))
        for name, width in baselines.items()
    }
    return probing.ask(
        question, layers(labels, groups, effect, seed), labels, groups, config, empty
    )
