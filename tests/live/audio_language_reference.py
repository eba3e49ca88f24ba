"""Every site of an audio language model by transformers, through hooks on its modules."""

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
)
from transformers.models.llama import modeling_llama
from transformers.models.qwen2 import modeling_qwen2

from jaxasr import AudioLanguageModel, Config
from jaxasr.sites import LAYERED, of
from jaxasr.weights.assemble import parameters_by_name

_MODELING = {"qwen2_audio": modeling_qwen2, "voxtral": modeling_llama}
_MODELING["audioflamingo3"] = modeling_qwen2
# Per site: the module in the layer, and whether the site is its input or output. "" is the layer.
_ENCODER = {
    "resid_pre": ("", "in"),
    "attn.q": ("self_attn.q_proj", "out"),
    "attn.k": ("self_attn.k_proj", "out"),
    "attn.v": ("self_attn.v_proj", "out"),
    "attn.pattern": ("self_attn", "pattern"),
    "attn.z": ("self_attn.out_proj", "in"),
    "attn_out": ("self_attn.out_proj", "out"),
    "resid_mid": ("final_layer_norm", "in"),
    "mlp.pre": ("fc1", "out"),
    "mlp.post": ("fc2", "in"),
    "mlp_out": ("fc2", "out"),
    "resid_post": ("", "out"),
}
_DECODER = _ENCODER | {
    "attn.z": ("self_attn.o_proj", "in"),
    "attn_out": ("self_attn.o_proj", "out"),
    "resid_mid": ("post_attention_layernorm", "in"),
    "mlp.pre": ("mlp.gate_proj", "out"),
    "mlp.up": ("mlp.up_proj", "out"),
    "mlp.post": ("mlp.down_proj", "in"),
    "mlp_out": ("mlp.down_proj", "out"),
}
# Parts of the name of a parameter here -> the same part in transformers.
_RENAMED = (
    ("encoder.projector.fc1", "model.multi_modal_projector.{first}"),
    ("encoder.projector.fc2", "model.multi_modal_projector.linear_2"),
    ("encoder.positional_embedding", "model.audio_tower.embed_positions.weight"),
    ("encoder.ln_post", "model.audio_tower.layer_norm"),
    ("encoder.blocks", "model.audio_tower.layers.#"),
    ("encoder.", "model.audio_tower."),
    ("decoder.token_embedding", "model.language_model.embed_tokens.weight"),
    ("decoder.projection", "lm_head.weight"),
    ("decoder.blocks", "model.language_model.layers.#"),
    ("decoder.ln.", "model.language_model.norm."),
    ("language_model.layers.#.attn_ln", "language_model.layers.#.input_layernorm"),
    ("language_model.layers.#.mlp_ln", "language_model.layers.#.post_attention_layernorm"),
    ("language_model.layers.#.attn.out", "language_model.layers.#.self_attn.o_proj"),
    ("layers.#.attn_ln", "layers.#.self_attn_layer_norm"),
    ("layers.#.mlp_ln", "layers.#.final_layer_norm"),
    ("layers.#.mlp.fc", "layers.#.fc"),
    ("mlp.gate", "mlp.gate_proj"),
    ("mlp.up", "mlp.up_proj"),
    ("mlp.down", "mlp.down_proj"),
    ("#.attn.query", "#.self_attn.q_proj"),
    ("#.attn.key", "#.self_attn.k_proj"),
    ("#.attn.value", "#.self_attn.v_proj"),
    ("#.attn.out", "#.self_attn.out_proj"),
    (".kernel", ".weight"),
    (".scale", ".weight"),
)


def build(model: AudioLanguageModel, double: bool = False) -> torch.nn.Module:
    """Returns the model of transformers with the weights of `model`.

    Args:
        model: a random model.
        double: compute all in float64, also norms, softmax and rotary tables, which transformers
            otherwise keeps in float32.
    """
    with _float64_instead_of_float32(model.config) if double else contextlib.nullcontext():
        theirs = _make_model(model.config)
    state = _state(model)
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all("inv_freq" in name for name in missing), missing
    return theirs.double().eval() if double else theirs.eval()


def _make_model(c: Config) -> torch.nn.Module:
    text = {
        "vocab_size": c.n_vocab,
        "hidden_size": c.decoder.width,
        "intermediate_size": c.decoder.n_mlp,
        "num_hidden_layers": c.decoder.n_layer,
        "num_attention_heads": c.decoder.n_head,
        "num_key_value_heads": c.decoder.n_kv_head,
        "head_dim": c.decoder.d_head,
        "max_position_embeddings": c.n_text_ctx,
        "rms_norm_eps": c.norm_epsilon,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
        "tie_word_embeddings": c.tied,
        "bos_token_id": 1,
        "eos_token_id": list(c.eos),
        "pad_token_id": 0,
    }
    audio = {
        "num_mel_bins": c.n_mels,
        "d_model": c.encoder.width,
        "encoder_layers": c.encoder.n_layer,
        "encoder_attention_heads": c.encoder.n_head,
        "encoder_ffn_dim": c.encoder.n_mlp,
        "max_source_positions": c.n_audio_ctx,
    }
    if c.family == "qwen2_audio":
        config = Qwen2AudioConfig(
            audio_config={"model_type": "qwen2_audio_encoder", **audio},
            text_config={"model_type": "qwen2", **text},
            audio_token_index=c.audio_token,
        )
        make = Qwen2AudioForConditionalGeneration
    else:
        names = {"d_model": "hidden_size", "encoder_layers": "num_hidden_layers"}
        names |= {"encoder_attention_heads": "num_attention_heads"}
        names |= {"encoder_ffn_dim": "intermediate_size"}
        audio = {names.get(name, name): value for name, value in audio.items()}
        is_voxtral = c.family == "voxtral"
        make_config = VoxtralConfig if is_voxtral else AudioFlamingo3Config
        config = make_config(
            audio_config={"model_type": f"{c.family}_encoder", **audio},
            text_config={"model_type": "llama" if is_voxtral else "qwen2", **text},
            audio_token_id=c.audio_token,
        )
        make = (
            VoxtralForConditionalGeneration
            if is_voxtral
            else AudioFlamingo3ForConditionalGeneration
        )
    config._attn_implementation = "eager"
    return make(config)


def _state(model: AudioLanguageModel) -> dict[str, torch.Tensor]:
    state = {}
    first = "linear" if model.config.family == "qwen2_audio" else "linear_1"
    for parameter, array in parameters_by_name(model).items():
        name = parameter
        for ours, theirs in _RENAMED:
            name = name.replace(ours, theirs.format(first=first))
        values = np.asarray(array)
        layers = enumerate(values) if "#" in name else [(0, values)]
        for layer, value in layers:
            value = value.transpose() if parameter.endswith("kernel") else value
            state[name.replace("#", str(layer))] = torch.tensor(value)
    return state


@contextlib.contextmanager
def _float64_instead_of_float32(config: Config) -> Iterator[None]:
    """Replaces torch.float32 by float64 in the code of the language model."""
    module = _MODELING[config.family]
    names = {name: getattr(torch, name) for name in dir(torch)}
    wide = types.SimpleNamespace(**names | {"float32": torch.float64, "float": torch.float64})
    module.torch = wide
    try:
        yield
    finally:
        module.torch = torch


def reference(
    model: torch.nn.Module,
    config: Config,
    mel: np.ndarray,
    lengths: np.ndarray,
    tokens: np.ndarray,
    positions: np.ndarray,
) -> dict[str, np.ndarray]:
    """Returns `{site: [L, B, ...]}` in the precision of the model.

    Scores are before the mask. Values at padded positions are those of transformers, which differ
    from ours.
    """
    is_double = next(model.parameters()).dtype == torch.float64
    context = _float64_instead_of_float32(config) if is_double else contextlib.nullcontext()
    rotations: list[Any] = []
    with torch.no_grad(), _record(model, config) as outputs, context:
        handle = model.model.language_model.rotary_emb.register_forward_hook(
            lambda module, inputs, output: rotations.append(output)
        )
        model(**model_inputs(model, config, mel, lengths, tokens, positions), use_cache=False)
        handle.remove()
        acts = {
            site: np.stack(arrays) if site in LAYERED else arrays[0]
            for site, arrays in outputs.items()
        }
        cos, sin = (part.numpy()[:, :, None] for part in rotations[0])
    return _derive(acts, config, cos, sin)


def model_inputs(
    model: torch.nn.Module,
    config: Config,
    mel: np.ndarray,
    lengths: np.ndarray,
    tokens: np.ndarray,
    positions: np.ndarray,
) -> dict[str, torch.Tensor]:
    """Returns the arguments of a forward pass of transformers."""
    inputs = {
        "input_ids": torch.tensor(tokens).long(),
        "input_features": torch.tensor(mel).to(next(model.parameters()).dtype),
        "attention_mask": torch.tensor(positions >= 0).long(),
        "position_ids": torch.tensor(np.maximum(positions, 0)).long(),
    }
    if config.family == "qwen2_audio":
        is_audio = np.arange(config.n_mel_frames) < np.asarray(lengths)[:, None]
        inputs["feature_attention_mask"] = torch.tensor(is_audio).long()
    if config.family == "audioflamingo3":
        is_audio = np.arange(config.n_mel_frames) < np.asarray(lengths)[:, None]
        inputs["input_features_mask"] = torch.tensor(is_audio).long()
    return inputs


def _derive(
    acts: dict[str, np.ndarray], config: Config, cos: np.ndarray, sin: np.ndarray
) -> dict[str, np.ndarray]:
    """Adds the sites that no module of transformers returns, and splits heads."""
    for site in [site for site in acts if site.endswith((".q", ".k", ".v", ".z"))]:
        shape = config.stack(site.split(".")[0])
        acts[site] = acts[site].reshape(*acts[site].shape[:3], -1, shape.d_head)
    for name in "qk":
        x = acts[f"decoder.attn.{name}"]
        first, second = np.split(x, 2, -1)
        turned = np.concatenate([-second, first], -1)
        acts[f"decoder.attn.{name}_rot"] = x * cos + turned * sin
    for stack, suffix in (("encoder", ""), ("decoder", "_rot")):
        q, k = (acts[f"{stack}.attn.{name}{suffix}"] for name in "qk")
        k = np.repeat(k, q.shape[-2] // k.shape[-2], axis=-2)
        scores = np.einsum("lbthd,lbshd->lbhts", q, k) / np.sqrt(q.shape[-1])
        acts[f"{stack}.attn.scores"] = scores.astype(q.dtype)
    n_rows = acts["encoder.embed"].shape[0]
    for site in ("encoder.pool", "encoder.project"):
        acts[site] = acts[site].reshape(n_rows, -1, acts[site].shape[-1])
    for site in ("encoder.conv1", "encoder.conv2"):
        acts[site] = acts[site].swapaxes(1, 2)
    return {site: acts[site] for site in of(config)}


@contextlib.contextmanager
def _record(model: torch.nn.Module, config: Config) -> Iterator[dict[str, list[np.ndarray]]]:
    """Collects the activations of every site that a module receives or returns."""
    tower, language = model.model.audio_tower, model.model.language_model
    projector = model.model.multi_modal_projector
    pools = projector.linear_1 if config.family == "voxtral" else tower.layer_norm
    places = [
        ("encoder.conv1", tower.conv1, "out"),
        ("encoder.conv2", tower.conv2, "out"),
        ("encoder.embed", tower.layers[0], "in"),
        ("encoder.ln_post", tower.layer_norm, "out"),
        ("encoder.pool", pools, "in"),
        ("encoder.project", projector, "out"),
        ("decoder.embed", language.layers[0], "in"),
        ("decoder.ln", language.norm, "out"),
        ("decoder.logits", model.lm_head, "out"),
    ]
    stacks = [("encoder", tower.layers, _ENCODER), ("decoder", language.layers, _DECODER)]
    for stack, layers, sites in stacks:
        for site, (name, part) in sites.items():
            places += [(f"{stack}.{site}", layer.get_submodule(name), part) for layer in layers]
    outputs: dict[str, list[np.ndarray]] = {}

    def hook(site: str, part: str) -> Any:
        def record(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            inputs = args[0] if args else kwargs["hidden_states"]
            result = output[0] if isinstance(output, tuple) else output
            value = {"in": inputs, "out": result}.get(part)
            value = output[1] if part == "pattern" else value
            outputs.setdefault(site, []).append(value.numpy().copy())

        return record

    hooked = [(module, hook(site, part)) for site, module, part in places]
    handles = [module.register_forward_hook(f, with_kwargs=True) for module, f in hooked]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
