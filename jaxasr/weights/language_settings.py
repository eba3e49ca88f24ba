"""Reads and writes `config.json` of audio language models in transformers."""

from pathlib import Path
from typing import Any

from jaxasr.config import Config
from jaxasr.families import FAMILIES
from jaxasr.weights.checkpoint import Checkpoint, make_config
from jaxasr.weights.errors import file_error, short_repr

# Field of `Config` -> names of the setting; a file has one of them.
_AUDIO_KEYS = {
    "n_mels": ("num_mel_bins",),
    "n_audio_ctx": ("max_source_positions",),
    "n_audio_state": ("d_model", "hidden_size"),
    "n_audio_head": ("encoder_attention_heads", "num_attention_heads"),
    "n_audio_layer": ("encoder_layers", "num_hidden_layers"),
    "n_audio_mlp": ("encoder_ffn_dim", "intermediate_size"),
}
_TEXT_KEYS = {
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_position_embeddings",
    "n_text_state": "hidden_size",
    "n_text_head": "num_attention_heads",
    "n_text_layer": "num_hidden_layers",
    "n_text_mlp": "intermediate_size",
    "n_text_kv_head": "num_key_value_heads",
    "n_text_head_width": "head_dim",
}
# Values of settings that a file leaves out, from the configuration classes of transformers.
_AUDIO_DEFAULTS = {
    "n_mels": 128,
    "n_audio_ctx": 1500,
    "n_audio_state": 1280,
    "n_audio_head": 20,
    "n_audio_layer": 32,
    "n_audio_mlp": 5120,
}
_TEXT_DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen2_audio": {
        "vocab_size": 151_936,
        "max_position_embeddings": 32_768,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "intermediate_size": 22_016,
        "num_key_value_heads": 32,
        "head_dim": None,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "eos_token_id": None,
    },
    "voxtral": {
        "vocab_size": 131_072,
        "max_position_embeddings": 131_072,
        "hidden_size": 3072,
        "num_attention_heads": 32,
        "num_hidden_layers": 30,
        "intermediate_size": 8192,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e8,
        "eos_token_id": 2,
    },
}
_TEXT_DEFAULTS["audioflamingo3"] = _TEXT_DEFAULTS["qwen2_audio"]  # its text_config is a Qwen2, too
# Settings that change the arithmetic -> their only supported values, by part of config.json.
_REQUIRED_SETTINGS: dict[str, dict[str, Any]] = {
    "audio_config": {"activation_function": "gelu", "scale_embedding": False},
    "text_config": {
        "hidden_act": "silu",
        "use_sliding_window": False,
        "use_mrope": False,
        "attention_bias": False,
        "mlp_bias": False,
    },
    "": {"projector_hidden_act": "gelu", "projector_bias": True},
}
_MODEL_TYPES = {  # of `audio_config` and `text_config`
    "qwen2_audio": ("qwen2_audio_encoder", "qwen2"),
    "voxtral": ("voxtral_encoder", "llama"),
    "audioflamingo3": ("audioflamingo3_encoder", "qwen2"),
}
# Names of the setting with the id of the audio token.
_AUDIO_TOKEN_KEYS = {
    "qwen2_audio": ("audio_token_index", "audio_token_id"),
    "voxtral": ("audio_token_id",),
    "audioflamingo3": ("audio_token_id",),
}
_AUDIO_TOKEN_DEFAULTS = {"qwen2_audio": 151_646, "audioflamingo3": 151_669}
_ARCHITECTURES = {
    "qwen2_audio": "Qwen2AudioForConditionalGeneration",
    "voxtral": "VoxtralForConditionalGeneration",
    "audioflamingo3": "AudioFlamingo3ForConditionalGeneration",
}
# Settings of the projector that a file has.
_PROJECTOR_SETTINGS: dict[str, dict[str, Any]] = {
    "voxtral": {"projector_hidden_act": "gelu"},
    "audioflamingo3": {"projector_hidden_act": "gelu", "projector_bias": True},
}
_MAX_ROPE_THETA = 1e12


def read_config(settings: dict[str, Any], path: Path) -> Config:
    """Returns the configuration in `config.json`. Omitted settings have transformers' defaults.

    Args:
        settings: content of the file.
        path: the file, for error messages.

    Raises:
        WeightsError: a setting has a value of the wrong kind, or one that is not supported.

    Example:
        >>> read_config({"model_type": "voxtral", "audio_token_id": 24}, Path("config.json")).family
        'voxtral'
    """
    family = settings["model_type"]
    audio, text = (_read_part(settings, key, path) for key in ("audio_config", "text_config"))
    _check_settings(family, settings, audio, text, path)
    text = _TEXT_DEFAULTS[family] | text
    dims = {
        field: next((audio[key] for key in keys if key in audio), _AUDIO_DEFAULTS[field])
        for field, keys in _AUDIO_KEYS.items()
    } | {field: text[key] for field, key in _TEXT_KEYS.items()}
    optional = ("n_text_kv_head", "n_text_head_width")  # null stands for the usual value
    dims = {field: n for field, n in dims.items() if n is not None or field not in optional}
    token = [settings[key] for key in _AUDIO_TOKEN_KEYS[family] if key in settings]
    config = make_config(
        dims,
        path,
        family=family,
        rope_theta=_read_number(text, "rope_theta", _MAX_ROPE_THETA, path),
        norm_epsilon=_read_number(text, "rms_norm_eps", 1.0, path),
        audio_token=token[0] if token else _AUDIO_TOKEN_DEFAULTS.get(family),
    )
    return _check_pooling(_without_usual_values(config), path)


def is_tied(settings: dict[str, Any]) -> bool:
    """Returns whether `config.json` asks for an output projection that is the token embedding.

    Example:
        >>> is_tied({"text_config": {"tie_word_embeddings": True}})
        True
    """
    text = settings.get("text_config") or {}
    return text.get("tie_word_embeddings", settings.get("tie_word_embeddings")) is True


def read_end_of_text(settings: dict[str, Any]) -> list[Any]:
    """Returns the values of `eos_token_id`, as a list.

    Args:
        settings: content of `config.json`, updated with that of `generation_config.json`.

    Example:
        >>> read_end_of_text({"model_type": "voxtral"})
        [2]
    """
    text = settings.get("text_config") or {}
    default = _TEXT_DEFAULTS[settings["model_type"]]["eos_token_id"]
    value = settings.get("eos_token_id", text.get("eos_token_id", default))
    return value if isinstance(value, list) else [] if value is None else [value]


def _read_part(settings: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    part = settings.get(key)
    if part is None:
        return {}
    if not isinstance(part, dict):
        raise file_error(path, f"an object under {key!r}", short_repr(part))
    rope = part.get("rope_parameters") or part.get("rope_scaling") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type")) not in (
        None,
        "default",
    ):
        raise file_error(path, "rotary positions of the type 'default'", short_repr(rope))
    return {key: value for key, value in rope.items() if key == "rope_theta"} | part


def _check_settings(
    family: str, settings: dict[str, Any], audio: dict[str, Any], text: dict[str, Any], path: Path
) -> None:
    types = _MODEL_TYPES[family]
    for key, part, required in (
        ("", settings, {}),
        ("audio_config", audio, {"model_type": types[0]}),
        ("text_config", text, {"model_type": types[1]}),
    ):
        for name, value in (required | _REQUIRED_SETTINGS[key]).items():
            if part.get(name, value) != value:
                expected = f"{name} = {value!r}" + (f" in {key}" if key else "")
                remedy = "A model with another value is not supported."
                raise file_error(path, expected, short_repr(part[name]), remedy)


def _read_number(text: dict[str, Any], key: str, limit: float, path: Path) -> float:
    value = text[key]
    if type(value) not in (int, float) or not 0 < value <= limit:
        raise file_error(path, f"{key} above 0 and at most {limit:g}", short_repr(value))
    return float(value)


def _without_usual_values(config: Config) -> Config:
    """Returns an equal model in the shortest form, so that equal models have equal configs."""
    usual = {
        "n_audio_mlp": 4 * config.n_audio_state,
        "n_text_mlp": 4 * config.n_text_state,
        "n_text_kv_head": config.n_text_head,
        "n_text_head_width": config.n_text_state // config.n_text_head,
    }
    changes = {name: None for name, value in usual.items() if getattr(config, name) == value}
    return config.replace(**changes)


def _check_pooling(config: Config, path: Path) -> Config:
    family = FAMILIES[config.family]
    stacked = family.frames_per_token * config.n_audio_state
    # transformers stacks as many frames as fit into the MLP width of the encoder.
    if family.pool == "stack" and config.encoder.n_mlp != stacked:
        expected = (
            f"intermediate_size = {stacked} in audio_config, {family.frames_per_token} frames"
        )
        raise file_error(path, expected, config.encoder.n_mlp)
    return config


def config_json(config: Config) -> dict[str, Any]:
    """Returns `config.json` of an audio language model with these dimensions.

    Example:
        >>> from jaxasr.language.sizes import AUDIO_LANGUAGE_SIZES
        >>> config_json(AUDIO_LANGUAGE_SIZES["voxtral-mini-3b"])["text_config"]["head_dim"]
        128
    """
    family, shapes = config.family, {"audio": config.encoder, "text": config.decoder}
    values = {field: getattr(config, field) for field in (*_AUDIO_KEYS, *_TEXT_KEYS)} | {
        "n_audio_mlp": shapes["audio"].n_mlp,
        "n_text_mlp": shapes["text"].n_mlp,
        "n_text_kv_head": shapes["text"].n_kv_head,
        "n_text_head_width": shapes["text"].d_head,
    }
    names = 0 if family == "qwen2_audio" else -1  # of the two names of a setting
    audio = {keys[names]: values[field] for field, keys in _AUDIO_KEYS.items()}
    text = {key: values[field] for field, key in _TEXT_KEYS.items()}
    if config.n_text_head_width is None and _TEXT_DEFAULTS[family]["head_dim"] is None:
        del text["head_dim"]  # Qwen2 has no such setting
    audio_type, text_type = _MODEL_TYPES[family]
    return {
        "architectures": [_ARCHITECTURES[family]],
        "model_type": family,
        _AUDIO_TOKEN_KEYS[family][0]: config.audio_token,
        **_PROJECTOR_SETTINGS.get(family, {}),
        "audio_config": {"model_type": audio_type, **_REQUIRED_SETTINGS["audio_config"], **audio},
        "text_config": {
            "model_type": text_type,
            "hidden_act": "silu",
            **text,
            "rms_norm_eps": config.norm_epsilon,
            "rope_theta": config.rope_theta,
            "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
            "tie_word_embeddings": config.tied,
            "eos_token_id": _format_end_of_text(config),
        },
        "dtype": config.param_dtype,
    }


def generation_json(config: Config, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """Returns `generation_config.json`: the ids that end a text.

    Args:
        config: dimensions of the model.
        checkpoint: not used, because only Whisper keeps settings there.

    Example:
        >>> from jaxasr.language.sizes import AUDIO_LANGUAGE_SIZES
        >>> generation_json(AUDIO_LANGUAGE_SIZES["voxtral-mini-3b"], None)
        {'eos_token_id': 2}
    """
    del checkpoint
    return {"eos_token_id": _format_end_of_text(config)}


def _format_end_of_text(config: Config) -> list[int] | int | None:
    return list(config.eos) if len(config.eos) > 1 else next(iter(config.eos), None)
