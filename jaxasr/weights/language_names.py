"""Translates the names of tensors of audio language models in transformers."""

import re

from jaxasr.weights import whisper_names
from jaxasr.weights.checkpoint import PROJECTION

HF_PROJECTION = "language_model.lm_head.weight"
# Names in the checkpoint -> names in a `Checkpoint`. They are whole names, and modules.
_WHOLE_NAMES = {
    "language_model.model.embed_tokens.weight": "decoder.token_embedding.weight",
    "language_model.model.norm.weight": "decoder.ln.weight",
    HF_PROJECTION: PROJECTION,
}
_TWO_LAYERS = {"linear_1": "fc1", "linear_2": "fc2"}
_PROJECTORS = {
    "qwen2_audio": {"linear": "fc1"},
    "voxtral": _TWO_LAYERS,
    "audioflamingo3": _TWO_LAYERS,
}
_LAYER_MODULES = {
    "input_layernorm": "attn_ln",
    "post_attention_layernorm": "mlp_ln",
    "self_attn.q_proj": "attn.query",
    "self_attn.k_proj": "attn.key",
    "self_attn.v_proj": "attn.value",
    "self_attn.o_proj": "attn.out",
    "mlp.gate_proj": "mlp.gate",
    "mlp.up_proj": "mlp.up",
    "mlp.down_proj": "mlp.down",
}
_HF_LAYER_MODULES = {module: hf_module for hf_module, module in _LAYER_MODULES.items()}


def to_checkpoint(name: str, family: str) -> str:
    """Returns the name of a tensor in a `Checkpoint`. Keeps an unknown name.

    Args:
        name: name in the files of the hub, or in the memory of transformers from version 5 on.
        family: name of the family.

    Example:
        >>> to_checkpoint("language_model.model.layers.0.mlp.up_proj.weight", "voxtral")
        'decoder.blocks.0.mlp.up.weight'
    """
    name = re.sub(r"^model\.(?=audio_tower|multi_modal_projector|language_model)", "", name)
    name = re.sub(r"^lm_head(?=\.)", "language_model.lm_head", name)
    short_name = re.sub(r"^language_model\.(?!model\.|lm_head\.)", "language_model.model.", name)
    if short_name in _WHOLE_NAMES:
        return _WHOLE_NAMES[short_name]
    stem, _, array_name = short_name.rpartition(".")
    if stem.startswith("audio_tower."):
        return whisper_names.to_openai(short_name.replace("audio_tower", "encoder", 1))
    for hf_module, module in _PROJECTORS[family].items():
        if stem == f"multi_modal_projector.{hf_module}":
            return f"encoder.projector.{module}.{array_name}"
    layer = re.fullmatch(r"language_model\.model\.layers\.(0|[1-9]\d*)\.(.+)", stem)
    if layer and layer[2] in _LAYER_MODULES:
        return f"decoder.blocks.{layer[1]}.{_LAYER_MODULES[layer[2]]}.{array_name}"
    return name


def from_checkpoint(name: str, family: str) -> str:
    """Returns the name of a tensor in the files of the hub. This inverts `to_checkpoint`.

    Args:
        name: name in a `Checkpoint`.
        family: name of the family.

    Example:
        >>> from_checkpoint("decoder.blocks.0.mlp.up.weight", "voxtral")
        'language_model.model.layers.0.mlp.up_proj.weight'
    """
    for hf_name, whole_name in _WHOLE_NAMES.items():
        if name == whole_name:
            return hf_name
    stem, _, array_name = name.rpartition(".")
    for hf_module, module in _PROJECTORS[family].items():
        if stem == f"encoder.projector.{module}":
            return f"multi_modal_projector.{hf_module}.{array_name}"
    if name.startswith("encoder."):
        return whisper_names.from_openai(name).replace("model.encoder", "audio_tower", 1)
    layer = re.fullmatch(r"decoder\.blocks\.(\d+)\.(.+)", stem)
    assert layer, name
    return f"language_model.model.layers.{layer[1]}.{_HF_LAYER_MODULES[layer[2]]}.{array_name}"
