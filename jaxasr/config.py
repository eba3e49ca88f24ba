"""Shapes of a checkpoint, and the tables of released sizes."""

import dataclasses
from typing import Any, NamedTuple

from jaxasr.families import FAMILIES, WHISPER, AudioLanguageFamily

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


class StackShape(NamedTuple):
    """Dimensions of the encoder or the decoder.

    Attributes:
        n_layer: layers.
        width: width of the residual stream.
        n_head: attention heads per layer.
        n_kv_head: heads of keys and values; several query heads may share one.
        d_head: width of a head.
        n_mlp: hidden width of the MLP.

    Example:
        >>> jaxasr.SIZES["tiny.en"].decoder.d_head
        64
    """

    n_layer: int
    width: int
    n_head: int
    n_kv_head: int
    d_head: int
    n_mlp: int


@dataclasses.dataclass(frozen=True)
class Config:
    """Dimensions and dtypes of a checkpoint.

    Dimensions are named as in openai/whisper's `ModelDimensions`. Encoder and decoder may differ in
    the number of layers and heads: turbo has 32 encoder layers and 4 decoder layers. The fields
    from `family` on describe audio language models. Their stacks also differ in width, and their
    decoder is the language model. `encoder` and `decoder` have the dimensions of each stack.

    Attributes:
        n_mels: mel bins.
        n_audio_ctx: encoder frames in a window.
        n_audio_state: width of the encoder.
        n_audio_head: attention heads per encoder layer.
        n_audio_layer: encoder layers.
        n_vocab: tokens.
        n_text_ctx: most tokens that the decoder can read, prompt included.
        n_text_state: width of the decoder. In Whisper it is that of the encoder.
        n_text_head: attention heads per decoder layer.
        n_text_layer: decoder layers.
        dtype: dtype of activations.
        param_dtype: dtype of weights.
        tied: whether the unembedding is the token embedding, as in every released Whisper.
        products: dtype to which the inputs of matrix products are rounded; None: `dtype`.
        float32_products: precision of float32 products on an accelerator: "highest" or "high".
        attention_kernel: kernel of attention without a mask, for which no score or pattern is
            edited or read: "auto", "xla", "cudnn" or "splash" (see `jaxasr.fused_attention`).
        family: "whisper", or a name in `jaxasr.families.FAMILIES`, such as "qwen2_audio".
        n_audio_mlp: hidden width of the encoder's MLP. None: 4 times the width.
        n_text_mlp: hidden width of the decoder's MLP. None: 4 times the width.
        n_text_kv_head: heads of keys and values per decoder layer. None: `n_text_head`.
        n_text_head_width: width of a decoder head. None: `n_text_state / n_text_head`.
        rope_theta: base of the rotary positions.
        norm_epsilon: added to the mean square by the norms of the language model.
        audio_token: id of the token that stands for one step of encoded audio.
        eos: ids that end a text. Empty: the end-of-text of the released Whispers.

    Raises:
        ValueError: encoder and decoder of a Whisper differ in width, a number of heads does not
            divide the width, or an unknown `float32_products`, `attention_kernel` or `family`.

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
    family: str = WHISPER
    n_audio_mlp: int | None = None
    n_text_mlp: int | None = None
    n_text_kv_head: int | None = None
    n_text_head_width: int | None = None
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5
    audio_token: int | None = None
    eos: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check_choice("family", self.family, (WHISPER, *FAMILIES))
        _check_choice("float32_products", self.float32_products, ("highest", "high"))
        _check_choice("attention_kernel", self.attention_kernel, ATTENTION_KERNELS)
        _check_heads("audio", self.n_audio_state, self.n_audio_head)
        if self.n_text_head_width is None:
            _check_heads("text", self.n_text_state, self.n_text_head)
        if self.audio_language is None:
            _check_whisper(self)
        else:
            _check_audio_language_model(self)

    @property
    def audio_language(self) -> AudioLanguageFamily | None:
        """The family of an audio language model; None for Whisper."""
        return FAMILIES.get(self.family)

    @property
    def encoder(self) -> StackShape:
        """Dimensions of the encoder."""
        width, n_head = self.n_audio_state, self.n_audio_head
        n_mlp = self.n_audio_mlp or 4 * width
        return StackShape(self.n_audio_layer, width, n_head, n_head, width // n_head, n_mlp)

    @property
    def decoder(self) -> StackShape:
        """Dimensions of the decoder."""
        width, n_head = self.n_text_state, self.n_text_head
        return StackShape(
            self.n_text_layer,
            width,
            n_head,
            self.n_text_kv_head or n_head,
            self.n_text_head_width or width // n_head,
            self.n_text_mlp or 4 * width,
        )

    def stack(self, name: str) -> StackShape:
        """Returns the dimensions of `"encoder"` or `"decoder"`."""
        return self.encoder if name == "encoder" else self.decoder

    @property
    def n_audio_tokens(self) -> int:
        """Steps of encoded audio in a window: the frames of Whisper, or audio tokens."""
        family = self.audio_language
        return self.n_audio_ctx // (1 if family is None else family.frames_per_token)

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


def _check_heads(stack: str, width: int, n_head: int) -> None:
    if n_head < 1 or width % n_head:
        raise ValueError(
            f"n_{stack}_head: expected a divisor of n_{stack}_state {width}, got {n_head}."
        )


def _check_whisper(config: Config) -> None:
    if config.n_audio_state != config.n_text_state:
        raise ValueError(
            f"n_text_state: expected the encoder's width {config.n_audio_state}, because "
            f"cross-attention reads the encoder's output; got {config.n_text_state}."
        )
    names = "n_audio_mlp", "n_text_mlp", "n_text_kv_head", "n_text_head_width", "audio_token"
    given = [name for name in names if getattr(config, name) is not None]
    if given:
        raise ValueError(
            f"{given[0]}: expected None, because Whisper has no such dimension; got "
            f"{getattr(config, given[0])}. Name the family, such as family='qwen2_audio'."
        )


def _check_audio_language_model(config: Config) -> None:
    n_head, n_kv_head, d_head = config.decoder[2:5]
    if n_kv_head < 1 or n_head % n_kv_head:
        raise ValueError(
            f"n_text_kv_head: expected a divisor of n_text_head {n_head}, got {n_kv_head}."
        )
    if d_head % 2:
        raise ValueError(
            f"n_text_head_width: expected an even width, because rotary positions turn pairs of "
            f"numbers; got {d_head}."
        )
    if config.audio_token is None or not 0 <= config.audio_token < config.n_vocab:
        raise ValueError(
            f"audio_token: expected an id from 0 to {config.n_vocab - 1}, got {config.audio_token}."
        )


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
