"""Writes tiny random audio language models, independently of the readers under test."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

FAMILIES = ("qwen2_audio", "voxtral")
ALL_FAMILIES = (*FAMILIES, "audioflamingo3")
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>")
CONTROL = (*CONTROL, "<|audio_eos|>", "<|en|>", "<sound>")
# Ids of Voxtral's control tokens are fixed.
TEKKEN = {0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 11: "<pad>"}
TEKKEN |= {24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 34: "[TRANSCRIBE]"}
TEKKEN_WORDS = (b"la", b"lan", b"lang", b"en", b"in", b" th", b" the", b"er", b"is", b" w", b" wh")
TEKKEN_WORDS = (*TEKKEN_WORDS, b"at", b" what", b"Wh", b"What")
N_VOCAB = {"qwen2_audio": 256 + len(CONTROL), "voxtral": 256 + 35 + len(TEKKEN_WORDS)}
N_VOCAB["audioflamingo3"] = N_VOCAB["qwen2_audio"]
AUDIO_TOKEN = {"qwen2_audio": 259, "voxtral": 24, "audioflamingo3": 263}


def settings(family: str) -> dict[str, Any]:
    """Returns `config.json` of a model with a window of 2 s: 200 mel frames."""
    sizes = {"num_mel_bins": 80, "max_source_positions": 100}
    text = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": N_VOCAB[family],
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
    }
    if family == "qwen2_audio":
        audio = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2}
        return {
            "model_type": family,
            "audio_token_index": AUDIO_TOKEN[family],
            "audio_config": {
                "model_type": "qwen2_audio_encoder",
                "encoder_ffn_dim": 32,
                **audio,
                **sizes,
            },
            "text_config": {"model_type": "qwen2", "eos_token_id": 258, "rope_theta": 1e4, **text},
        }
    audio = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    types = {"voxtral": {"model_type": "llama", "head_dim": 12}}
    types["audioflamingo3"] = {"model_type": "qwen2", "eos_token_id": 258}
    return {
        "model_type": family,
        "audio_token_id": AUDIO_TOKEN[family],
        "audio_config": {
            "model_type": f"{family}_encoder",
            "intermediate_size": 64,
            **audio,
            **sizes,
        },
        "text_config": {**types[family], "rope_theta": 1e6, **text},
    }


def shapes(family: str) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of the tensors as transformers saves them."""
    audio, text = (settings(family)[f"{part}_config"] for part in ("audio", "text"))
    mlp = 32 if family == "qwen2_audio" else 64
    width, d_head = text["hidden_size"], text.get("head_dim", 8)
    sizes: dict[str, tuple[int, ...]] = {
        "audio_tower.conv1.weight": (16, 80, 3),
        "audio_tower.conv1.bias": (16,),
        "audio_tower.conv2.weight": (16, 16, 3),
        "audio_tower.conv2.bias": (16,),
        "audio_tower.embed_positions.weight": (audio["max_source_positions"], 16),
        "audio_tower.layer_norm.weight": (16,),
        "audio_tower.layer_norm.bias": (16,),
        "language_model.model.embed_tokens.weight": (text["vocab_size"], width),
        "language_model.model.norm.weight": (width,),
        "language_model.lm_head.weight": (text["vocab_size"], width),
    }
    if family == "qwen2_audio":
        sizes["multi_modal_projector.linear.weight"] = (width, 16)
        sizes["multi_modal_projector.linear.bias"] = (width,)
    else:
        n_pooled = 64 if family == "voxtral" else 16
        sizes["multi_modal_projector.linear_1.weight"] = (width, n_pooled)
        sizes["multi_modal_projector.linear_2.weight"] = (width, width)
    if family == "audioflamingo3":
        sizes |= {f"multi_modal_projector.linear_{i}.bias": (width,) for i in (1, 2)}
    for layer in range(2):
        block = f"audio_tower.layers.{layer}"
        for name, shape in {"fc1": (mlp, 16), "fc2": (16, mlp)}.items():
            sizes |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            sizes |= {f"{block}.{name}.{part}": (16,) for part in ("weight", "bias")}
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            sizes[f"{block}.self_attn.{name}.weight"] = (16, 16)
            if name != "k_proj":
                sizes[f"{block}.self_attn.{name}.bias"] = (16,)
        block = f"language_model.model.layers.{layer}"
        sizes |= {
            f"{block}.{name}.weight": (width,)
            for name in ("input_layernorm", "post_attention_layernorm")
        }
        for name, heads in (("q_proj", 4), ("k_proj", 2), ("v_proj", 2)):
            sizes[f"{block}.self_attn.{name}.weight"] = (heads * d_head, width)
            if family != "voxtral":
                sizes[f"{block}.self_attn.{name}.bias"] = (heads * d_head,)
        sizes[f"{block}.self_attn.o_proj.weight"] = (width, 4 * d_head)
        for name in ("gate_proj", "up_proj"):
            sizes[f"{block}.mlp.{name}.weight"] = (text["intermediate_size"], width)
        sizes[f"{block}.mlp.down_proj.weight"] = (width, text["intermediate_size"])
    return sizes


def random_tensors(family: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns random tensors. Norms have positive scales."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=shape) * 0.2 + ("norm" in name and "weight" in name)).astype(
            np.float32
        )
        for name, shape in shapes(family).items()
    }


def write(folder: Path, family: str, shards: int = 1, seed: int = 0) -> Path:
    """Writes a folder with weights, configuration and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings(family)))
    write_tensors(folder, random_tensors(family, seed), shards)
    (write_tekken if family == "voxtral" else write_qwen_tokenizer)(folder)
    return folder


def write_tensors(folder: Path, tensors: dict[str, np.ndarray], shards: int = 1) -> None:
    """Writes tensors as one file, or as several with an index."""
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    file_of, names = {}, list(tensors)
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        save_file({name: tensors[name] for name in names[i::shards]}, folder / file)
        file_of |= dict.fromkeys(names[i::shards], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": file_of}))


def write_qwen_tokenizer(folder: Path) -> None:
    """Writes a tokenizer of single bytes and control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(CONTROL))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "Qwen2Tokenizer",
                "pad_token": "<|endoftext|>",
                "eos_token": "<|im_end|>",
            }
        )
    )


def write_tekken(folder: Path) -> None:
    """Writes a tokenizer in Mistral's format, with the control tokens of Voxtral."""
    words = [bytes([i]) for i in range(256)] + list(TEKKEN_WORDS)
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(word).decode(), "token_str": None}
        for rank, word in enumerate(words)
    ]
    special = [
        {"rank": i, "token_str": TEKKEN.get(i, f"<SPECIAL_{i}>"), "is_control": True}
        for i in range(35)
    ]
    config = {
        "pattern": r"[^\r\n\p{L}\p{N}]?[\p{L}]+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+",
        "num_vocab_tokens": len(vocab),
        "default_vocab_size": len(vocab) + len(special),
        "default_num_special_tokens": len(special),
        "version": "v7",
    }
    tekken = {"config": config, "vocab": vocab, "special_tokens": special, "version": 1}
    (folder / "tekken.json").write_text(json.dumps(tekken | {"type": "Tekken"}))
