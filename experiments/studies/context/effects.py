"""Summarises the patches of study E5: shifts of logits, restored words, and numbers of tries.

A shift is the change of logit(odd word) - logit(fitting word) by a patch. A positive shift moves
the model towards the word that is spoken. A contextual error is a recording of the odd word whose
most likely word at the gap is the fitting one. A patch restores it if the odd word becomes the most
likely one.
"""

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from experiments.studies.context.grid import mean_over
from experiments.studies.context.spoken_word import FITTING, ODD

_MIN_SHIFT = 1e-3  # smaller shifts are rounding errors


def of_speech(arrays: xr.Dataset, spliced: bool) -> xr.Dataset:
    """Returns the recordings whose words are spliced into real speech, or all others."""
    return arrays.isel(example=np.flatnonzero(arrays.spliced.values == spliced))


def shifts(arrays: xr.Dataset, condition: str = "odd") -> xr.DataArray:
    """Returns the shift of each patch of the recordings of a condition, [example, cell]."""
    chosen = arrays.isel(example=np.flatnonzero(arrays.condition.values == condition))
    values = np.full(chosen.difference.shape, np.nan)
    for stack in ("encoder", "decoder"):
        in_stack = chosen.part.values == stack
        [plain] = np.flatnonzero(in_stack & (chosen.unit.values == "none"))
        difference = chosen.difference.values
        values[:, in_stack] = difference[:, in_stack] - difference[:, [plain]]
    return chosen.difference.copy(data=values)


def acting(arrays: xr.Dataset) -> Bool[np.ndarray, "C"]:
    """Marks the patches of places that can change the logits.

    The first self-attention of the decoder reads only tokens. In lock-step its output is the same
    for noise, so that no patch of it acts.
    """
    largest = np.abs(shifts(arrays).values).max(0, initial=0.0)
    acts = {
        name: bool((largest[(arrays.place.values == name)] > _MIN_SHIFT).any())
        for name in set(arrays.place.values)
    }
    is_place = arrays.unit.values == "place"
    return is_place & np.array([acts[name] for name in arrays.place.values], bool)


def gains(arrays: xr.Dataset) -> xr.DataArray:
    """Subtracts the shift by a random move from the shift towards noise.

    Returns:
        [example, cell] for the recordings of the odd word, over the patches of acting places that
        were also tried in a random direction.
    """
    moved = shifts(arrays).isel(cell=np.flatnonzero(acting(arrays)))
    noise = moved.isel(cell=np.flatnonzero(moved.kind.values == "noise"))
    random = moved.isel(cell=np.flatnonzero(moved.kind.values == "random"))
    keys = list(zip(noise.place.values, noise.alpha.values))
    order = [keys.index(key) for key in zip(random.place.values, random.alpha.values)]
    matched = noise.isel(cell=order)
    return matched.copy(data=matched.values - random.values)


def mean_shift(arrays: xr.Dataset, condition: str = "odd", **labels: str) -> np.ndarray:
    """Averages the shifts of groups per recording, over the groups with the given labels."""
    chosen = arrays.unit.values == "group"
    for name, value in labels.items():
        chosen &= arrays[name].values == value
    return mean_over(shifts(arrays, condition).values, chosen)


def paired_conditions(arrays: xr.Dataset, first: str, second: str) -> Float[np.ndarray, "S"]:
    """Subtracts the mean shift of whole-recording noise in one condition from that in another."""
    by_sentence = []
    for condition in (first, second):
        values = mean_shift(arrays, condition, kind="noise", window="whole", part="encoder")
        sentences = arrays.sentence.values[arrays.condition.values == condition]
        by_sentence.append(dict(zip(sentences, values)))
    one, other = by_sentence
    return np.array([one[name] - other[name] for name in one if name in other], float)


def restored(arrays: xr.Dataset) -> xr.DataArray:
    """Marks the patches that restore each contextual error, over patches of acting places."""
    cells = np.flatnonzero(acting(arrays))
    odd = arrays.isel(example=np.flatnonzero(arrays.condition.values == "odd"))
    [plain] = np.flatnonzero((odd.unit.values == "none") & (odd.part.values == "decoder"))
    # The generated text and the most likely token both have to be the fitting word.
    errors = (odd.transcribed.values == FITTING) & (odd.outcome.values[:, plain] == FITTING)
    return odd.outcome.isel(example=np.flatnonzero(errors), cell=cells) == ODD


def by_any(is_restored: xr.DataArray, **labels: str) -> Bool[np.ndarray, "E"]:
    """Marks the errors that at least one of the patches with the given labels restores."""
    chosen = np.ones(is_restored.sizes["cell"], bool)
    for name, value in labels.items():
        chosen &= is_restored[name].values == value
    return np.asarray(is_restored.values[:, chosen].any(1))


def matched_strengths(is_restored: xr.DataArray) -> xr.DataArray:
    """Keeps the strengths at which both kinds were tried."""
    random = set(is_restored.alpha.values[is_restored.kind.values == "random"])
    return is_restored.isel(
        cell=np.flatnonzero([alpha in random for alpha in is_restored.alpha.values])
    )


def any_of_many(is_restored: Bool[np.ndarray, "E C"]) -> Float[np.ndarray, "E C"]:
    """Returns the chance that k patches, drawn without replacement, restore each error.

    Args:
        is_restored: whether each patch restores each error.

    Returns:
        Column k - 1 is the chance with k patches.

    Example:
        >>> any_of_many(np.array([[True, False, False, False]])).round(2).tolist()
        [[0.25, 0.5, 0.75, 1.0]]
    """
    n = is_restored.shape[1]
    failures = n - is_restored.sum(1, keepdims=True)
    tried = np.arange(n)[None]
    # The chance that draw k + 1 fails too, if all k draws before it failed.
    fails = np.clip((failures - tried) / (n - tried), 0, 1)
    return 1 - np.cumprod(fails, 1)
