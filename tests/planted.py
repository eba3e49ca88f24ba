"""Synthetic layers for studies of probes: class differences that grow with depth."""

import numpy as np
import xarray as xr

from experiments.studies import probing
from experiments.studies.probing import Probing

DEPTHS = 4  # layers after the embedding
WIDTH = 8


def layers(
    labels: np.ndarray, groups: np.ndarray, effect: float, seed: int = 0, first: float = 0.0
) -> np.ndarray:
    """Returns layers [L + 1, N, D] of noise per row and per group, and an effect per class.

    The effect is along one direction per class and grows from `first` of `effect` to all of it.
    """
    rng = np.random.default_rng(seed)
    class_of_row = np.unique(labels, return_inverse=True)[1]
    group_of_row = np.unique(groups, return_inverse=True)[1]
    group_noise = rng.normal(size=(group_of_row.max() + 1, WIDTH))[group_of_row]
    states = rng.normal(size=(DEPTHS + 1, len(labels), WIDTH)) + group_noise
    for layer in range(DEPTHS + 1):
        share = first + (1 - first) * max(layer - 1, 0) / (DEPTHS - 1)
        states[layer, np.arange(len(labels)), class_of_row] += effect * share
    return states


def rows(kinds: list[str], n_groups: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels and groups, `each` rows per group; groups alternate between the kinds."""
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
    """Runs `probing.ask` on planted layers.

    `baselines` name features of noise and their number of columns.
    """
    rng = np.random.default_rng(seed + 1)
    noise = {
        name.replace("_", " "): rng.normal(size=(len(labels), width))
        for name, width in baselines.items()
    }
    return probing.ask(
        question, layers(labels, groups, effect, seed), labels, groups, config, noise
    )
