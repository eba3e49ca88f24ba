"""Translates the names of a Whisper in transformers: those of tensors and of settings."""

import re
from pathlib import Path
from typing import Any

from jaxasr.config import Config
from jaxasr.weights.checkpoint import PROJECTION, make_config
from jaxasr.weights.errors import file_error, short_repr

# Field of `Config` -> key of config.json.
CONFIG_KEYS = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}
# Settings of config.json that change the arithmetic -> their only supported values.
_REQUIRED_SETTINGS = {"activation_function": "gelu", "scale_embedding": False}

# Names in transformers `modeling_whisper.py` -> names in openai/whisper `model.py`. They are whole
# names, names of final norms, and names of modules in a layer.
_WHOLE_NAMES = {
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "decoder.embed_tokens.weight": "decoder.token_embedding.weight",
}
HF_PROJECTION = "proj_out.weight"
_STACK_NORMS = {"encoder.layer_norm": "encoder.ln_post", "decoder.layer_norm": "decoder.ln"}
_LAYER_MODULES = {
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "final_layer_norm": "mlp_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
} | {
    f"{hf_module}.{projection}_proj": f"{module}.{name}"
    for hf_module, module in (("self_attn", "attn"), ("encoder_attn", "cross_attn"))
    for projection, name in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out"))
}
# The inverse of `_LAYER_MODULES`.
_HF_LAYER_MODULES = {module: hf_module for hf_module, module in _LAYER_MODULES.items()}


def to_openai(name: str) -> str:
    """Returns OpenAI's name of a tensor. Only removes the prefix `model.` of an unknown name.

    Args:
        name: name of the tensor in transformers.

    Example:
        >>> to_openai("model.decoder.layers.0.fc1.weight")
        'decoder.blocks.0.mlp.0.weight'
    """
    short_name = name.removeprefix("model.")
    if short_name in _WHOLE_NAMES:
        return _WHOLE_NAMES[short_name]
    stem, _, array_name = short_name.rpartition(".")
    if stem in _STACK_NORMS:
        return f"{_STACK_NORMS[stem]}.{array_name}"
    layer = re.fullmatch(r"(encoder|decoder)\.layers\.(0|[1-9]\d*)\.(.+)", stem)
    if layer and layer[3] in _LAYER_MODULES:
        return f"{layer[1]}.blocks.{layer[2]}.{_LAYER_MODULES[layer[3]]}.{array_name}"
    return short_name


def from_openai(name: str) -> str:
    """Returns the name of a tensor in transformers. This is the inverse of `to_openai`.

    Args:
        name: OpenAI's name of the tensor.

    Returns:
        The name, with the prefix `model.` unless the tensor is the output projection.

    Example:
        >>> from_openai("decoder.blocks.0.mlp.0.weight")
        'model.decoder.layers.0.fc1.weight'
    """
    if name == PROJECTION:
        return HF_PROJECTION
    for hf_name, openai_name in (_WHOLE_NAMES | _STACK_NORMS).items():
        if name == openai_name or name.startswith(openai_name + "."):
            return f"model.{hf_name}{name[len(openai_name) :]}"
    layer = re.fullmatch(r"(encoder|decoder)\.blocks\.(\d+)\.(.+)\.(weight|bias)", name)
    if not layer:
        return f"model.{name}"
    return f"model.{layer[1]}.layers.{layer[2]}.{_HF_LAYER_MODULES[layer[3]]}.{layer[4]}"


def read_config(settings: dict[str, Any], path: Path) -> Config:
    """Returns the configuration in `config.json`.

    Args:
        settings: content of the file.
        path: the file, for error messages.

    Raises:
        WeightsError: the file lacks a dimension, or the model is another one.

    Example:
        ```python
        import json

        from jaxasr.weights import whisper_names

        path = jaxasr.save(asr, "copy-of-tiny.en") / "config.json"
        whisper_names.read_config(json.loads(path.read_text()), path).n_text_layer  # 4
        ```
    """
    for key, value in _REQUIRED_SETTINGS.items():
        if settings.get(key, value) != value:
            found = short_repr(settings[key])
            raise file_error(path, f"{key} = {value!r}", found, "Give a Whisper checkpoint.")
    missing = sorted({key for key in CONFIG_KEYS.values() if key not in settings})
    if missing:
        found = f"none of {', '.join(missing)}"
        remedy = "Give the config.json of this checkpoint."
        raise file_error(path, "a Whisper configuration", found, remedy)
    return make_config({field: settings[key] for field, key in CONFIG_KEYS.items()}, path)
