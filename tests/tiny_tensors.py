"""Makes random tensors of a tiny Whisper, under the names of openai/whisper."""

import numpy as np

from jaxasr.config import Config

# Distinct sizes, so that a transposed axis does not fit: 2 and 3 layers, 3 and 2 heads.
TINY = Config(
    n_mels=5,
    n_audio_ctx=7,
    n_audio_state=12,
    n_audio_head=3,
    n_audio_layer=2,
    n_vocab=17,
    n_text_ctx=11,
    n_text_state=12,
    n_text_head=2,
    n_text_layer=3,
)


PROJECTIONS = ("query", "key", "value", "out")


def shapes(config: Config = TINY) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of openai/whisper's `Whisper(dims).state_dict()`."""
    d = config.n_audio_state
    sizes = {
        "encoder.positional_embedding": (config.n_audio_ctx, d),
        "encoder.conv1.weight": (d, config.n_mels, 3),
        "encoder.conv1.bias": (d,),
        "encoder.conv2.weight": (d, d, 3),
        "encoder.conv2.bias": (d,),
        "encoder.ln_post.weight": (d,),
        "encoder.ln_post.bias": (d,),
        "decoder.positional_embedding": (config.n_text_ctx, d),
        "decoder.token_embedding.weight": (config.n_vocab, d),
        "decoder.ln.weight": (d,),
        "decoder.ln.bias": (d,),
    }
    stacks = (
        ("encoder", config.n_audio_layer, ("attn",)),
        ("decoder", config.n_text_layer, ("attn", "cross_attn")),
    )
    for stack, layers, attentions in stacks:
        for layer in range(layers):
            block = f"{stack}.blocks.{layer}"
            for attention in attentions:
                sizes |= {f"{block}.{attention}.{p}.weight": (d, d) for p in PROJECTIONS}
                sizes |= {f"{block}.{attention}.{p}.bias": (d,) for p in PROJECTIONS if p != "key"}
            sizes |= {
                f"{block}.{ln}_ln.{leaf}": (d,)
                for ln in (*attentions, "mlp")
                for leaf in ("weight", "bias")
            }
            sizes |= {f"{block}.mlp.0.weight": (4 * d, d), f"{block}.mlp.0.bias": (4 * d,)}
            sizes |= {f"{block}.mlp.2.weight": (d, 4 * d), f"{block}.mlp.2.bias": (d,)}
    return sizes


def random_tensors(
    config: Config = TINY, dtype: type = np.float32, seed: int = 0
) -> dict[str, np.ndarray]:
    """Returns normally distributed tensors of a model."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes(config).items()}
