"""Builds the Whisper model of `transformers` from OpenAI's weights, as the reference for jaxasr."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from jaxasr.config import Config

# Maps each part of a parameter name of OpenAI to that of `transformers`.
_PART_NAMES = {
    "blocks": "layers",
    "attn": "self_attn",
    "cross_attn": "encoder_attn",
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "out": "out_proj",
    "attn_ln": "self_attn_layer_norm",
    "cross_attn_ln": "encoder_attn_layer_norm",
    "mlp_ln": "final_layer_norm",
    "ln_post": "layer_norm",
    "ln": "layer_norm",
    "token_embedding": "embed_tokens",
    "positional_embedding": "embed_positions.weight",
}


def hf_name(name: str) -> str:
    """Converts the name of a parameter in an OpenAI checkpoint to that in `transformers`.

    Example:
        >>> hf_name("decoder.blocks.0.attn.query.weight")
        'model.decoder.layers.0.self_attn.q_proj.weight'
    """
    name = name.replace("mlp.0", "fc1").replace("mlp.2", "fc2")
    return "model." + ".".join(_PART_NAMES.get(part, part) for part in name.split("."))


def hf_config(config: Config) -> WhisperConfig:
    """Converts a config to the format of `transformers`.

    Raises:
        ValueError: encoder and decoder differ in width, which `transformers` does not support.
    """
    if config.n_audio_state != config.n_text_state:
        raise ValueError(
            f"config: expected encoder and decoder of the same width, got {config.n_audio_state} "
            f"and {config.n_text_state}; transformers supports one d_model."
        )
    return WhisperConfig(
        vocab_size=config.n_vocab,
        num_mel_bins=config.n_mels,
        d_model=config.n_text_state,
        encoder_layers=config.n_audio_layer,
        encoder_attention_heads=config.n_audio_head,
        encoder_ffn_dim=4 * config.n_audio_state,
        decoder_layers=config.n_text_layer,
        decoder_attention_heads=config.n_text_head,
        decoder_ffn_dim=4 * config.n_text_state,
        max_source_positions=config.n_audio_ctx,
        max_target_positions=config.n_text_ctx,
        # These ids have no effect here. Only training uses the padding id, and only the method
        # `generate` of `transformers` uses the others.
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


def build(
    config: Config, state: Mapping[str, np.ndarray], attention: str = "eager"
) -> WhisperForConditionalGeneration:
    """Builds a float32 torch model.

    Args:
        config: shapes of the model.
        state: weights by OpenAI's names, in the layout of torch.
        attention: "eager", which can return attention patterns, or "sdpa", which is faster.

    Raises:
        RuntimeError: a tensor is missing, unknown or of the wrong shape.
    """
    model = WhisperForConditionalGeneration._from_config(
        hf_config(config), attn_implementation=attention
    )
    tensors = {
        hf_name(name): torch.from_numpy(np.array(array, np.float32))
        for name, array in state.items()
    }
    tensors["proj_out.weight"] = tensors["model.decoder.embed_tokens.weight"]
    model.load_state_dict(tensors, strict=True)
    return model.eval().requires_grad_(False)


def cache_argument(decoder: torch.nn.Module, cache: Any) -> dict[str, Any]:
    """Returns a cache as a decoder's keyword argument. transformers 5.24 renamed the argument."""
    parameters = inspect.signature(decoder.forward).parameters
    return {"cache" if "cache" in parameters else "past_key_values": cache}
