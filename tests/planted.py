"""Makes synthetic layers for studies that fit probes. Their planted effect grows with depth."""

import numpy as np
import xarray as xr

from experiments.studies import probing
from experiments.studies.probing import ProbingSettings

DEPTHS = 4  # layers, besides the embedding
WIDTH = 8


def layers(
    labels: np.ndarray, groups: np.ndarray, effect: float, seed: int = 0, first: float = 0.0
) -> np.ndarray:
    """Makes activations [L + 1, N, D]: the sum of noise per row, noise per group, and the effect.

    The effect is a direction per class. Its length grows over layers, from `first * effect` to
    `effect`.
    """
    rng = np.random.default_rng(seed)
    class_of_row = np.unique(labels, return_inverse=True)[1]
    group_of_row = np.unique(groups, return_inverse=True)[1]
    group_noise = rng.normal(size=(group_of_row.max() + 1, WIDTH))[group_of_row]
    activations = rng.normal(size=(DEPTHS + 1, len(labels), WIDTH)) + group_noise
    for layer in range(DEPTHS + 1):
        share = first + (1 - first) * max(layer - 1, 0) / (DEPTHS - 1)
        activations[layer, np.arange(len(labels)), class_of_row] += effect * share
    return activations


def rows(kinds: list[str], n_groups: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes labels and groups, with `each` rows per group. All rows of a group have one label."""
    groups = np.repeat(np.arange(n_groups), each)
    return np.array(kinds)[groups % len(kinds)], np.array([f"speaker {n}" for n in groups])


def probe(
    question: str,
    labels: np.ndarray,
    groups: np.ndarray,
    effect: float,
    config: ProbingSettings,
    *,
    seed: int = 0,
    **baselines: int,
) -> xr.Dataset:
    """Probes planted layers. `baselines` gives the widths of uninformative features, by name."""
    rng = np.random.default_rng(seed + 1)
    uninformative = {
        name.replace("_", " "): rng.normal(size=(len(labels), width))
        for name, width in baselines.items()
    }
    activations = layers(labels, groups, effect, seed)
    return probing.probe_layers(question, activations, labels, groups, config, uninformative)
