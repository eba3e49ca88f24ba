"""Divides the sources of recordings into a half to choose with and a half to confirm with."""

import hashlib
from collections.abc import Hashable, Iterable

import numpy as np

CHOOSE, CONFIRM = "choose", "confirm"


def halves(sources: Iterable[Hashable], seed: int = 0) -> np.ndarray:
    """Returns the half of each recording.

    Layers, heads, thresholds and directions come from the first half, values and verdicts from the
    second. A hash of the source decides, so that further recordings never move a source.

    Args:
        sources: the independent source of each recording, such as its speaker.
        seed: seed of the division.

    Returns:
        str [n], "choose" or "confirm". All recordings of a source are in the same half.

    Example:
        >>> halves(["ann", "bob", "ann"]).tolist()
        ['confirm', 'confirm', 'confirm']
    """
    return np.array([_half(str(source), seed) for source in sources], dtype="U7")


def _half(source: str, seed: int) -> str:
    digest = hashlib.blake2b(f"{seed} {source}".encode(), digest_size=1).digest()
    return (CHOOSE, CONFIRM)[digest[0] % 2]
