"""A model with four layers of three heads per stack, for cells of synthetic results."""

from jaxasr import Config

FOUR_LAYERS = Config(
    n_mels=80,
    n_audio_ctx=1500,
    n_audio_state=66,
    n_audio_head=3,
    n_audio_layer=4,
    n_vocab=100,
    n_text_ctx=448,
    n_text_state=66,
    n_text_head=3,
    n_text_layer=4,
)
