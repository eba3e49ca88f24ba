"""Lists the dimensions of released audio language models, from their published configurations."""

from jaxasr.config import SIZES, Config

AUDIO_LANGUAGE_SIZES: dict[str, Config] = {
    "qwen2-audio-7b": Config(
        n_mels=128,
        n_audio_ctx=1500,
        n_audio_state=1280,
        n_audio_head=20,
        n_audio_layer=32,
        n_vocab=156_032,
        n_text_ctx=8192,
        n_text_state=4096,
        n_text_head=32,
        n_text_layer=32,
        tied=False,
        family="qwen2_audio",
        n_text_mlp=11_008,
        audio_token=151_646,
        eos=(151_645, 151_643),
    ),
    "voxtral-mini-3b": Config(
        n_mels=128,
        n_audio_ctx=1500,
        n_audio_state=1280,
        n_audio_head=20,
        n_audio_layer=32,
        n_vocab=131_072,
        n_text_ctx=131_072,
        n_text_state=3072,
        n_text_head=32,
        n_text_layer=30,
        tied=False,
        family="voxtral",
        n_text_mlp=8192,
        n_text_kv_head=8,
        n_text_head_width=128,
        rope_theta=1e8,
        audio_token=24,
        eos=(2,),
    ),
    "audio-flamingo-3": Config(
        n_mels=128,
        n_audio_ctx=1500,
        n_audio_state=1280,
        n_audio_head=20,
        n_audio_layer=32,
        n_vocab=151_672,
        n_text_ctx=32_768,
        n_text_state=3584,
        n_text_head=28,
        n_text_layer=28,
        tied=False,
        family="audioflamingo3",
        n_text_mlp=18_944,
        n_text_kv_head=4,
        rope_theta=1e6,
        norm_epsilon=1e-6,
        audio_token=151_669,
        eos=(151_645, 151_643),
    ),
}
AUDIO_LANGUAGE_SIZES["qwen2-audio-7b-instruct"] = AUDIO_LANGUAGE_SIZES["qwen2-audio-7b"]

# All released models, Whispers first.
RELEASED: dict[str, Config] = SIZES | AUDIO_LANGUAGE_SIZES
