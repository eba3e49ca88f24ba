"""Lists the cross-attention heads that follow the speech, as published for each checkpoint."""

from jaxasr.config import SIZES, Config

Heads = tuple[tuple[int, int], ...]  # (layer, head) pairs of cross-attention heads


def _parse_heads(text: str) -> Heads:
    return tuple(
        (int(layer), int(head)) for layer, head in (pair.split(".") for pair in text.split())
    )


# Checkpoint -> its alignment heads, written as layer.head. Source: openai/whisper
# `_ALIGNMENT_HEADS`.
ALIGNMENT_HEADS: dict[str, Heads] = {
    "tiny.en": _parse_heads("1.0 2.0 2.5 3.0 3.1 3.2 3.3 3.4"),
    "tiny": _parse_heads("2.2 3.0 3.2 3.3 3.4 3.5"),
    "base.en": _parse_heads("3.3 4.7 5.1 5.5 5.7"),
    "base": _parse_heads("3.1 4.2 4.3 4.7 5.1 5.2 5.4 5.6"),
    "small.en": _parse_heads(
        "6.6 7.0 7.3 7.8 8.2 8.5 8.7 9.0 9.4 9.8 9.10 10.0 10.1 10.2 10.3 10.6 10.11 11.2 11.4"
    ),
    "small": _parse_heads("5.3 5.9 8.0 8.4 8.7 8.8 9.0 9.7 9.9 10.5"),
    "medium.en": _parse_heads(
        "11.4 14.1 14.12 14.14 15.4 16.0 16.4 16.9 17.12 17.14 18.7 18.10 18.15 20.0 20.3 "
        "20.9 20.14 21.12"
    ),
    "medium": _parse_heads("13.15 15.4 15.15 16.1 20.0 23.4"),
    "large-v1": _parse_heads("9.19 11.2 11.4 11.17 22.7 22.11 22.17 23.2 23.15"),
    "large-v2": _parse_heads(
        "10.12 13.17 16.11 16.12 16.13 17.15 17.16 18.4 18.11 18.19 19.11 21.2 21.3 22.3 22.9 "
        "22.12 23.5 23.7 23.13 25.5 26.1 26.12 27.15"
    ),
    "large-v3": _parse_heads("7.0 10.17 12.18 13.12 16.1 17.14 19.11 21.4 24.1 25.6"),
    "large-v3-turbo": _parse_heads("2.4 2.11 3.3 3.6 3.11 3.14"),
}
ALIGNMENT_HEADS["turbo"] = ALIGNMENT_HEADS["large-v3-turbo"]


def published_heads(name: str, config: Config) -> Heads | None:
    """Returns the published alignment heads of a checkpoint, or None if there are none.

    Args:
        name: name of the checkpoint, such as "tiny.en". Under another name, a checkpoint gets the
            heads of the published size with the same dimensions, if only one size has them.
        config: dimensions of the checkpoint.

    Example:
        >>> published_heads("tiny", SIZES["tiny"])
        ((2, 2), (3, 0), (3, 2), (3, 3), (3, 4), (3, 5))
    """
    # Heads do not depend on dtypes. So both sides of the comparison get the default dtypes.
    dims = config.replace(dtype="float32", param_dtype="float32")
    if SIZES.get(name) == dims and name in ALIGNMENT_HEADS:
        return ALIGNMENT_HEADS[name]
    # Only the name distinguishes large-v1 and large-v2, which have the same dimensions.
    candidates = {heads for size, heads in ALIGNMENT_HEADS.items() if SIZES[size] == dims}
    return candidates.pop() if len(candidates) == 1 else None


def default_heads(config: Config) -> Heads:
    """Returns every cross-attention head in the upper half of the decoder's layers.

    openai/whisper uses these heads for a checkpoint without published ones.

    Example:
        >>> default_heads(SIZES["tiny"])[0]
        (2, 0)
    """
    return tuple(
        (layer, head)
        for layer in range(config.n_text_layer // 2, config.n_text_layer)
        for head in range(config.n_text_head)
    )


def all_heads(config: Config) -> Heads:
    """Returns every cross-attention head of the decoder, layer by layer.

    Example:
        >>> len(all_heads(SIZES["tiny"]))
        24
    """
    return tuple(
        (layer, head) for layer in range(config.n_text_layer) for head in range(config.n_text_head)
    )


def check_heads(config: Config, heads: Heads) -> Heads:
    """Returns `heads` after checking that the decoder has all of them.

    Raises:
        ValueError: `heads` is empty, or the decoder lacks one of the heads.

    Example:
        >>> check_heads(SIZES["tiny"], ((3, 5),))
        ((3, 5),)
    """
    outside = [
        pair
        for pair in heads
        if not (0 <= pair[0] < config.n_text_layer and 0 <= pair[1] < config.n_text_head)
    ]
    if outside or not heads:
        raise ValueError(
            f"heads: expected (layer, head) pairs within {config.n_text_layer} layers of "
            f"{config.n_text_head} heads, got {outside or 'none'}. Use asr.alignment_heads, or "
            "jaxasr.alignment.released_heads.default_heads(config)."
        )
    return heads
