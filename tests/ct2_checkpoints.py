"""Writes tiny CTranslate2 checkpoints, independently of the reader under test."""

import json
import struct
from pathlib import Path

import numpy as np
from tiny_tensors import TINY

from jaxasr.config import Config

# The number of each dtype in a file of CTranslate2.
_TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4, "bfloat16": 5}


def ct2_text(text: str) -> bytes:
    """Returns a string as CTranslate2 stores it."""
    raw = text.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


def _variable(name: str, array: np.ndarray) -> bytes:
    head = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
    return (
        ct2_text(name)
        + head
        + struct.pack("<BI", _TYPES[array.dtype.name], array.nbytes)
        + array.tobytes()
    )


def ct2_variables(tensors: dict[str, np.ndarray], config: Config = TINY) -> dict[str, np.ndarray]:
    """Returns the variables of a CTranslate2 model with these tensors."""

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

    variables: dict[str, np.ndarray] = {}

    def put(prefix: str, arrays: dict[str, np.ndarray]) -> None:
        variables.update({f"{prefix}/{name}": array for name, array in arrays.items()})

    for stack, layers in (("encoder", config.n_audio_layer), ("decoder", config.n_text_layer)):
        for i in range(layers):
            block, target = f"{stack}.blocks.{i}", f"{stack}/layer_{i}"
            put(f"{target}/self_attention", norm(f"{block}.attn_ln"))
            put(
                f"{target}/self_attention/linear_0",
                fused(f"{block}.attn", ("query", "key", "value")),
            )
            put(f"{target}/self_attention/linear_1", fused(f"{block}.attn", ("out",)))
            if stack == "decoder":
                put(f"{target}/attention", norm(f"{block}.cross_attn_ln"))
                for j, names in enumerate((("query",), ("key", "value"), ("out",))):
                    put(f"{target}/attention/linear_{j}", fused(f"{block}.cross_attn", names))
            put(f"{target}/ffn", norm(f"{block}.mlp_ln"))
            for j in (0, 1):
                put(
                    f"{target}/ffn/linear_{j}",
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
    return variables


def write_ct2_variables(
    folder: Path,
    variables: dict[str, np.ndarray],
    config: Config = TINY,
    version: int = 6,
    spec: str = "WhisperSpec",
    alias: bool = True,
) -> Path:
    """Writes a CTranslate2 folder. If `alias`, the output projection is stored as an alias of the
    embedding.
    """
    folder.mkdir(parents=True, exist_ok=True)
    body = b"".join(_variable(name, np.asarray(array)) for name, array in sorted(variables.items()))
    head = struct.pack("<I", version) + ct2_text(spec) + struct.pack("<II", 3, len(variables))
    tied = (
        struct.pack("<I", 1)
        + ct2_text("decoder/projection/weight")
        + ct2_text("decoder/embeddings/weight")
    )
    (folder / "model.bin").write_bytes(head + body + (tied if alias else struct.pack("<I", 0)))
    settings = {
        "alignment_heads": [[config.n_text_layer - 1, 0], [0, 1]],
        "suppress_ids": [3],
        "suppress_ids_begin": [4],
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def write_ct2(folder: Path, tensors: dict[str, np.ndarray], config: Config = TINY) -> Path:
    """Writes a CTranslate2 folder of these tensors."""
    return write_ct2_variables(folder, ct2_variables(tensors, config), config)
