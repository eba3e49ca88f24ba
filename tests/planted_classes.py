"""Activations with planted classes, and the options with which tests of probes fit them."""

import numpy as np

N_LAYERS, N_ROWS, N_FEATURES, N_CLASSES = 2, 97, 7, 3
PENALTIES, SEEDS = (1.0, 0.01, 30.0), (0, 5)
# Fits of X with the same options and number of classes share one compiled program.
OPTIONS = {"penalties": PENALTIES, "seeds": SEEDS}


def plant_classes(
    n_layers: int, n_rows: int, n_features: int, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Makes activations [L, N, D] and class numbers [N].

    Layer 0 is noise. The distance between classes grows with the layer. Features differ in scale
    and offset.
    """
    rng = np.random.default_rng(0)
    y = np.arange(n_rows) % n_classes
    distances = 3 * np.arange(n_layers) / (n_layers - 1)
    centres = rng.normal(size=(n_classes, n_features))[y] * distances[:, None, None]
    noise = rng.normal(size=(n_layers, n_rows, n_features))
    scales = np.linspace(0.1, 5, n_features)
    return ((noise + centres) * scales + 3).astype(np.float32), y


X, Y = plant_classes(N_LAYERS, N_ROWS, N_FEATURES, N_CLASSES)
NAMES = np.array(["ant", "bee", "cat"])[Y]
