"""Lists the patches of study E5: places, groups of layers, and windows of time.

A place is the output of one module of one layer. A group is all modules of a third of the layers of
a stack. Groups of the encoder are also patched at some frames only. The kind "noise" moves an
activation towards white noise, "random" equally far in a random direction.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from experiments.studies.context.patches import ENCODER_SITES, PATCHED_SITES, decoder_sites
from jaxasr.audio import frame_to_seconds, n_frames
from jaxasr.config import Config

# Frames of a patch: all 30 s, those of the target word, all others of the recording, and as many
# of the others as the word has.
WINDOWS = ("whole", "word", "context", "matched")
THIRDS = ("lower", "middle", "upper")
STACKS = ("encoder", "decoder")
_MARGIN = 2  # frames of 20 ms that are added to both ends of the word
_RANDOM_WINDOWS = ("context",)  # of groups of the encoder that move in a random direction


@dataclasses.dataclass(frozen=True)
class Patch:
    """One patch.

    Attributes:
        unit: "place", "group" or "none". A patch of "none" has strength 0.
        stack: "encoder" or "decoder".
        sites: the patched sites.
        low: the lowest patched layer.
        high: the layer above the highest patched one.
        name: name of the place or group.
        kind: "noise" or "random".
        alpha: strength.
        direction: 0 for white noise, else the number of the random direction.
        window: one of `WINDOWS`.
    """

    unit: str
    stack: str
    sites: tuple[str, ...]
    low: int
    high: int
    name: str
    kind: str = "noise"
    alpha: float = 0.0
    direction: int = 0
    window: str = "whole"


def patches(
    config: Config,
    alphas: Sequence[float],
    encoder_alphas: Sequence[float],
    random_alphas: Sequence[float],
    group_alpha: float,
    n_random: int,
) -> list[Patch]:
    """Lists all patches of a recording.

    Args:
        config: the model's sizes.
        alphas: strengths of places that move towards noise.
        encoder_alphas: the same for places of the encoder.
        random_alphas: strengths of places that move in a random direction. A strength at which a
            place does not move towards noise is left out.
        group_alpha: strength of groups.
        n_random: number of random directions. Strengths and thirds use them in turn.
    """
    places = _places(config)
    groups = _groups(config)
    strengths = {"encoder": encoder_alphas, "decoder": alphas}
    return [
        *(Patch("none", stack, (), 0, 1, f"{stack}: none") for stack in STACKS),
        *(
            dataclasses.replace(place, alpha=alpha)
            for place in places
            for alpha in strengths[place.stack]
        ),
        *(
            dataclasses.replace(place, kind="random", alpha=alpha, direction=1 + i % n_random)
            for place in places
            for i, alpha in enumerate(random_alphas)
            if alpha in strengths[place.stack]
        ),
        *(
            dataclasses.replace(
                group,
                kind=kind,
                alpha=group_alpha,
                direction=(1 + i % n_random) * (kind == "random"),
                window=window,
            )
            for i, group in enumerate(groups)
            for kind, window in itertools.product(("noise", "random"), WINDOWS)
            if _is_tried(group.stack, kind, window)
        ),
    ]


def _is_tried(stack: str, kind: str, window: str) -> bool:
    if stack == "decoder":
        return window == "whole"
    return kind == "noise" or window in _RANDOM_WINDOWS


def _places(config: Config) -> list[Patch]:
    return [
        Patch("place", stack, (site,), layer, layer + 1, f"{site} {layer}")
        for stack, sites, n_layers in _stacks(config)
        for site in sites
        for layer in range(n_layers)
    ]


def _groups(config: Config) -> list[Patch]:
    return [
        Patch("group", stack, sites, int(layers[0]), int(layers[-1]) + 1, f"{stack} {third}")
        for stack, sites, n_layers in _stacks(config)
        for third, layers in zip(THIRDS, np.array_split(np.arange(n_layers), 3))
        if len(layers)  # a model of two layers has no upper third
    ]


def _stacks(config: Config) -> list[tuple[str, tuple[str, ...], int]]:
    return [
        ("encoder", ENCODER_SITES, config.n_audio_layer),
        ("decoder", decoder_sites(config), config.n_text_layer),
    ]


def cells(listed: Sequence[Patch]) -> dict[str, np.ndarray]:
    """Returns the coordinates of patches as arrays for `patches.score`."""
    sites = [[site in patch.sites for site in PATCHED_SITES] for patch in listed]
    numbers = {"low": "low", "high": "high", "kind": "direction"}
    return {
        "sites": np.array(sites, bool),
        "alpha": np.array([patch.alpha for patch in listed], np.float32),
        "window": np.array([WINDOWS.index(patch.window) for patch in listed], np.int32),
        **{
            name: np.array([getattr(patch, field) for patch in listed], np.int32)
            for name, field in numbers.items()
        },
    }


def labels(listed: Sequence[Patch]) -> dict[str, np.ndarray]:
    """Returns the names and numbers of patches, one array per attribute."""
    # xarray uses the names "stack" and "name" itself.
    fields = {name: name for name in ("unit", "kind", "alpha", "window", "low")}
    fields |= {"part": "stack", "place": "name"}
    return {
        label: np.array([getattr(patch, field) for patch in listed])
        for label, field in fields.items()
    }


def of_controls(listed: Sequence[Patch]) -> Bool[np.ndarray, "C"]:
    """Marks the patches of sentences in which any word fits: groups towards noise, and no patch."""
    return np.array(
        [
            patch.unit == "none"
            or (patch.unit == "group" and patch.kind == "noise" and patch.window == "whole")
            for patch in listed
        ]
    )


def of_places(listed: Sequence[Patch]) -> Bool[np.ndarray, "C"]:
    """Marks single places at the strengths at which random moves are tried too, and no patch."""
    random = {patch.alpha for patch in listed if patch.unit == "place" and patch.kind == "random"}
    return np.array(
        [
            patch.unit == "none" or (patch.unit == "place" and patch.alpha in random)
            for patch in listed
        ]
    )


def window_masks(
    word_s: tuple[float, float] | None, n_samples: int, n_audio_ctx: int
) -> Bool[np.ndarray, "W S"]:
    """Marks the frames of each of `WINDOWS`.

    Args:
        word_s: start and end of the target word, in seconds. None: not known; then the windows of
            the word and of its context are empty.
        n_samples: length of the recording.
        n_audio_ctx: frames of the encoder.

    Example:
        >>> whole, word, context, matched = window_masks((0.2, 0.4), 16_000, 1500)
        >>> int(word.sum()), int(context.sum()), int(matched.sum())
        (14, 36, 14)
    """
    frames, recorded = np.arange(n_audio_ctx), n_frames(n_samples)
    masks = np.zeros((len(WINDOWS), n_audio_ctx), bool)
    masks[0] = True
    if word_s is None:
        return masks
    first, last = (_nearest_frame(seconds) for seconds in word_s)
    first, last = max(0, first - _MARGIN), min(recorded, last + _MARGIN)
    masks[1] = (frames >= first) & (frames < last)
    masks[2] = (frames < recorded) & ~masks[1]
    masks[3] = _in_longer_part(frames, first, last, recorded)
    return masks


def _nearest_frame(seconds: float) -> int:
    return round(seconds / float(frame_to_seconds(1)))


def _in_longer_part(
    frames: np.ndarray, first: int, last: int, recorded: int
) -> Bool[np.ndarray, "S"]:
    """Marks as many frames as the word has, in the middle of the longer part of the context."""
    start, stop = (0, first) if first >= recorded - last else (last, recorded)
    length = min(last - first, stop - start)
    begin = start + (stop - start - length) // 2
    return (frames >= begin) & (frames < begin + length)


def mean_over(
    values: Float[np.ndarray, "N C"], chosen: Bool[np.ndarray, "C"]
) -> Float[np.ndarray, "N"]:
    """Averages the chosen patches of each recording; NaN if none is chosen."""
    return values[:, chosen].mean(1) if chosen.any() else np.full(len(values), np.nan)
