"""Lists how each family of audio language models builds on the encoder of Whisper."""

import dataclasses

WHISPER = "whisper"


@dataclasses.dataclass(frozen=True)
class AudioLanguageFamily:
    """What distinguishes one family of audio language models from another.

    Attributes:
        masks_frames: encoder frames after the end of the recording are masked as keys.
        pool: "mean" averages neighbouring frames, "stack" concatenates them.
        frames_per_token: encoder frames that become one audio token.
        norm_is_first: the final norm of the encoder comes before the pooling, not after it.
        projector_layers: linear layers from the encoder to the language model, with a GELU between
            two.
        projector_bias: whether these layers have a bias.
        qkv_bias: whether queries, keys and values of the language model have a bias.

    Example:
        >>> from jaxasr.families import FAMILIES
        >>> FAMILIES["voxtral"].frames_per_token
        4
    """

    masks_frames: bool
    pool: str
    frames_per_token: int
    norm_is_first: bool
    projector_layers: int
    projector_bias: bool
    qkv_bias: bool


# The names are those of `model_type` in transformers.
FAMILIES: dict[str, AudioLanguageFamily] = {
    "qwen2_audio": AudioLanguageFamily(
        masks_frames=True,
        pool="mean",
        frames_per_token=2,
        norm_is_first=False,
        projector_layers=1,
        projector_bias=True,
        qkv_bias=True,
    ),
    "voxtral": AudioLanguageFamily(
        masks_frames=False,
        pool="stack",
        frames_per_token=4,
        norm_is_first=True,
        projector_layers=2,
        projector_bias=False,
        qkv_bias=False,
    ),
    "audioflamingo3": AudioLanguageFamily(
        masks_frames=True,
        pool="mean",
        frames_per_token=2,
        norm_is_first=False,
        projector_layers=2,
        projector_bias=True,
        qkv_bias=True,
    ),
}

# Families of transformers whose layout is similar, and why they are not supported.
UNSUPPORTED: dict[str, str] = {
    "glmasr": "its encoder has rotary positions, which the shared encoder does not have",
    "voxtral_realtime": "its encoder is causal, with a sliding window and RMSNorm",
}
