"""Shapes of a Whisper checkpoint, and the table of released sizes."""

import dataclasses
from typing import Any

# Audio constants shared by every released checkpoint (openai/whisper `audio.py`).
SAMPLE_RATE = 16_000  # Hz
HOP = 160  # samples between mel frames: 10 ms
CHUNK_S = 30  # seconds in a window of the encoder
N_SAMPLES = SAMPLE_RATE * CHUNK_S  # 480,000 samples in a window
N_MEL_FRAMES = N_SAMPLES // HOP  # 3,000 mel frames in a window
SAMPLES_PER_FRAME = 2 * HOP  # 320 samples per encoder frame, because conv2 has stride 2
FRAMES_PER_S = SAMPLE_RATE // SAMPLES_PER_FRAME  # 50 encoder frames per second, 20 ms each

# Values of `Config.attention_kernel`. "auto" chooses one of the others by device and dtype.
ATTENTION_KERNELS = ("auto", "xla", "cudnn", "splash")


@dataclasses.dataclass(frozen=True)
class Config:
    """Dimensions and dtypes of a checkpoint.

    Dimensions are named as in openai/whisper's `ModelDimensions`. Encoder and decoder may differ in
    the number of layers and heads: turbo has 32 encoder layers and 4 decoder layers.

    Attributes:
        n_mels: mel bins.
        n_audio_ctx: encoder frames in a window.
        n_audio_state: width of the encoder.
        n_audio_head: attention heads per encoder layer.
        n_audio_layer: encoder layers.
        n_vocab: tokens.
        n_text_ctx: most tokens that the decoder can read, prompt included.
        n_text_state: width of the decoder, equal to that of the encoder.
        n_text_head: attention heads per decoder layer.
        n_text_layer: decoder layers.
        dtype: dtype of activations.
        param_dtype: dtype of weights.
        tied: whether the unembedding is the token embedding, as in every released model.
        products: dtype to which the inputs of matrix products are rounded; None: `dtype`.
        float32_products: precision of float32 products on an accelerator: "highest" or "high".
        attention_kernel: kernel of attention without a mask, for which no score or pattern is
            edited or read: "auto", "xla", "cudnn" or "splash" (see `jaxasr.fused_attention`).

    Raises:
        ValueError: encoder and decoder differ in width, a number of heads does not divide the
            width, or an unknown `float32_products` or `attention_kernel`.

    Example:
        >>> jaxasr.SIZES["large-v3-turbo"].n_text_layer
        4
    """

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int
    dtype: str = "float32"
    param_dtype: str = "float32"
    tied: bool = True
    products: str | None = None
    float32_products: str = "highest"
    attention_kernel: str = "auto"

    def __post_init__(self) -> None:
        if self.n_audio_state != self.n_text_state:
            raise ValueError(
                f"n_text_state: expected the encoder's width {self.n_audio_state}, because "
                f"cross-attention reads the encoder's output; got {self.n_text_state}."
            )
        for stack, width, n_head in (
            ("audio", self.n_audio_state, self.n_audio_head),
            ("text", self.n_text_state, self.n_text_head),
        ):
            if n_head < 1 or width % n_head:
                raise ValueError(
                    f"n_{stack}_head: expected a divisor of n_{stack}_state {width}, got {n_head}."
                )
        _check_choice("float32_products", self.float32_products, ("highest", "high"))
        _check_choice("attention_kernel", self.attention_kernel, ATTENTION_KERNELS)

    @property
    def product_dtype(self) -> str:
        """Dtype to which the inputs of matrix products are rounded."""
        return self.products or self.dtype

    @property
    def n_mel_frames(self) -> int:
        """Mel frames of 10 ms in a window: 3,000 in released models."""
        return 2 * self.n_audio_ctx

    @property
    def n_samples(self) -> int:
        """Samples in a window: 480,000 in released models, 30 s."""
        return HOP * self.n_mel_frames

    def replace(self, **changes: Any) -> "Config":
        """Returns a config with some fields changed."""
        return dataclasses.replace(self, **changes)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        expected = ", ".join(map(repr, choices))
        raise ValueError(f"{name}: expected one of {expected}, got {value!r}.")


def _make_config(
    width: int, n_head: int, layers: tuple[int, int], n_vocab: int, n_mels: int = 80
) -> Config:
    """Returns the config of a released size, with `layers` (encoder, decoder)."""
    return Config(
        n_mels=n_mels,
        n_audio_ctx=1500,
        n_audio_state=width,
        n_audio_head=n_head,
        n_audio_layer=layers[0],
        n_vocab=n_vocab,
        n_text_ctx=448,
        n_text_state=width,
        n_text_head=n_head,
        n_text_layer=layers[1],
    )


_N_MULTILINGUAL, _N_ENGLISH, _N_V3 = 51_865, 51_864, 51_866  # tokens in each vocabulary

SIZES: dict[str, Config] = {
    "tiny": _make_config(384, 6, (4, 4), _N_MULTILINGUAL),
    "tiny.en": _make_config(384, 6, (4, 4), _N_ENGLISH),
    "base": _make_config(512, 8, (6, 6), _N_MULTILINGUAL),
    "base.en": _make_config(512, 8, (6, 6), _N_ENGLISH),
    "small": _make_config(768, 12, (12, 12), _N_MULTILINGUAL),
    "small.en": _make_config(768, 12, (12, 12), _N_ENGLISH),
    "medium": _make_config(1024, 16, (24, 24), _N_MULTILINGUAL),
    "medium.en": _make_config(1024, 16, (24, 24), _N_ENGLISH),
    "large-v1": _make_config(1280, 20, (32, 32), _N_MULTILINGUAL),
    "large-v2": _make_config(1280, 20, (32, 32), _N_MULTILINGUAL),
    "large-v3": _make_config(1280, 20, (32, 32), _N_V3, 128),
    "large-v3-turbo": _make_config(1280, 20, (32, 4), _N_V3, 128),
    "distil-small.en": _make_config(768, 12, (12, 4), _N_ENGLISH),
    "distil-medium.en": _make_config(1024, 16, (24, 2), _N_ENGLISH),
    "distil-large-v2": _make_config(1280, 20, (32, 2), _N_MULTILINGUAL),
    "distil-large-v3": _make_config(1280, 20, (32, 2), _N_V3, 128),
    "distil-large-v3.5": _make_config(1280, 20, (32, 2), _N_V3, 128),
}
SIZES["turbo"] = SIZES["large-v3-turbo"]
