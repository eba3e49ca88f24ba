"""Makes layers with planted classes, for tests of probe banks."""

import numpy as np

# Layers, rows, features and classes of X and Y.
L, N, D, K = 2, 97, 7, 3
PENALTIES, SEEDS = (1.0, 0.01, 30.0), (0, 5)
OPTIONS = {"penalties": PENALTIES, "seeds": SEEDS}  # fits with these options share a program


def planted(layers: int, n: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes layers: layer 0 is noise, and classes separate with depth. Feature scales differ."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    centres = (
        rng.normal(size=(classes, width))[y] * (3 * np.arange(layers) / (layers - 1))[:, None, None]
    )
    return (
        (rng.normal(size=(layers, n, width)) + centres) * np.linspace(0.1, 5, width) + 3
    ).astype(np.float32), y


X, Y = planted(L, N, D, K)
