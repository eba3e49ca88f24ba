"""Mutates small random checkpoints, one of each format.

A checkpoint is `{file name: bytes}`. A mutation takes a checkpoint and a random generator, and
returns another checkpoint.
"""

import io
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import checkpoints

from attacks.format_mutations import (
    CANARY as CANARY,
    make_zip,
    mutate_ctranslate2,
    mutate_safetensors,
    mutate_torch,
)
from attacks.json_mutations import change_value
from jaxasr.config import Config

Files = dict[str, bytes]
Mutation = Callable[[Files, np.random.Generator], Files]

_CONTROL_TOKENS = (
    "endoftext",
    "startoftranscript",
    "en",
    "translate",
    "transcribe",
    "startoflm",
    "startofprev",
    "nospeech",
    "notimestamps",
)
# A tiny model. Its vocabulary has 256 bytes, the control tokens and 1,501 timestamps.
SMALL_CONFIG = Config(
    n_mels=80,
    n_audio_ctx=9,
    n_audio_state=12,
    n_audio_head=3,
    n_audio_layer=1,
    n_vocab=256 + len(_CONTROL_TOKENS) + 1501,
    n_text_ctx=11,
    n_text_state=12,
    n_text_head=2,
    n_text_layer=2,
)


def _tokenizer_files() -> tuple[Files, Files]:
    """Returns a tokenizer in two forms: as tokenizer.json, and as the files of older folders."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocab = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocab, []))
    inner.pre_tokenizer, inner.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    inner.add_special_tokens([AddedToken(f"<|{name}|>", special=True) for name in _CONTROL_TOKENS])
    added = {f"<|{name}|>": 256 + i for i, name in enumerate(_CONTROL_TOKENS)}
    older = {
        "vocab.json": vocab,
        "added_tokens.json": added,
        "special_tokens_map.json": {"additional_special_tokens": list(added)},
    }
    parts = {name: json.dumps(value).encode() for name, value in older.items()} | {
        "merges.txt": b"#version: 0.2\n"
    }
    return {"tokenizer.json": inner.to_str().encode()}, parts


def originals() -> dict[str, Files]:
    """Returns an undamaged checkpoint of each format."""
    tensors = checkpoints.random_tensors(SMALL_CONFIG)
    tokenizer_json, older_files = _tokenizer_files()
    features = {
        "preprocessor_config.json": json.dumps(
            {"feature_size": 80, "n_fft": 400, "mel_filters": [[0.0, 1.0]]}
        ).encode()
    }
    writers: dict[str, Callable[[Path], Path]] = {
        "safetensors": lambda path: checkpoints.write_hf(path, tensors, SMALL_CONFIG),
        "sharded": lambda path: checkpoints.write_hf(path, tensors, SMALL_CONFIG, shards=2),
        "bin": lambda path: checkpoints.write_hf(path, tensors, SMALL_CONFIG, pickled=True),
        "bin-sharded": lambda path: checkpoints.write_hf(
            path, tensors, SMALL_CONFIG, shards=2, pickled=True
        ),
        "ctranslate2": lambda path: checkpoints.write_ct2(path, tensors, SMALL_CONFIG),
        "openai": lambda path: (
            checkpoints.write_pt(path / "small.pt", tensors, SMALL_CONFIG).parent
        ),
    }
    files_of = {}
    for form, write in writers.items():
        with tempfile.TemporaryDirectory() as folder:
            files = {path.name: path.read_bytes() for path in write(Path(folder)).iterdir()}
        files_of[form] = (
            files
            | (older_files if form in ("bin", "sharded") else tokenizer_json)
            | (features if form != "openai" else {})
        )
    return files_of


def choose_weight_file(files: Files, rng: np.random.Generator) -> str:
    """Returns the name of a random file of tensors."""
    return str(
        rng.choice([name for name in files if name.endswith((".safetensors", ".bin", ".pt"))])
    )


def flip_bits(files: Files, rng: np.random.Generator) -> Files:
    """Flips some bits of a weight file, most often near its beginning and its end."""
    name = choose_weight_file(files, rng)
    raw = bytearray(files[name])
    end = min(len(raw), 6000)  # bytes at each end, which hold the headers
    for _ in range(rng.integers(1, 9)):
        at = int(
            rng.choice(
                [rng.integers(len(raw)), rng.integers(end), len(raw) - 1 - rng.integers(end)]
            )
        )
        raw[at] ^= 1 << rng.integers(8)
    return files | {name: bytes(raw)}


def truncate(files: Files, rng: np.random.Generator) -> Files:
    """Truncates a file."""
    name = str(rng.choice(list(files)))
    return files | {name: files[name][: rng.integers(len(files[name]))]}


def splice(files: Files, rng: np.random.Generator) -> Files:
    """Overwrites, removes or repeats a run of bytes."""
    name = choose_weight_file(files, rng)
    raw, size = files[name], int(rng.choice([1, 2, 4, 8, 64, 1024]))
    at, other = (int(rng.integers(max(1, len(raw) - size))) for _ in range(2))
    filler = [raw[other : other + size], bytes(size), b"\xff" * size, b"", raw[at : at + size] * 2][
        rng.integers(5)
    ]
    return files | {name: raw[:at] + filler + raw[at + size :]}


def exchange_files(files: Files, rng: np.random.Generator) -> Files:
    """Removes a file, or replaces it by another one."""
    name, other = rng.choice(list(files), 2, replace=False)
    return (
        {k: v for k, v in files.items() if k != name}
        if rng.random() < 0.5
        else files | {name: files[other]}
    )


def change_settings(files: Files, rng: np.random.Generator) -> Files:
    """Changes values of a JSON file, or replaces it by other text."""
    name = str(rng.choice([name for name in files if name.endswith(".json")]))
    raw = json.dumps(change_value(json.loads(files[name]), rng)).encode("utf-8", "replace")
    if rng.random() < 0.1:
        raw = [b"[" * 200_000, b'{"a":' * 99_999, raw[: len(raw) // 2], b"\xff\xfe", b"", b"nan"][
            rng.integers(6)
        ]
    return files | {name: raw}


def change_dimensions(files: Files, rng: np.random.Generator) -> Files:
    """Changes a dimension in the configuration."""
    if "config.json" not in files or "d_model" not in json.loads(files["config.json"]):
        return change_structure(files, rng)
    config = json.loads(files["config.json"])
    key = str(rng.choice([key for key, value in config.items() if type(value) is int]))
    sizes = [0, 1, 2, 3, 4, 6, 12, 100, 1500, 8192, 1 << 16, 1 << 20]
    related = [config[key] + 1, config[key] * 2, -config[key]]
    config[key] = int(rng.choice([*sizes, *related]))
    return files | {"config.json": json.dumps(config).encode()}


def spoil_numbers(files: Files, rng: np.random.Generator) -> Files:
    """Replaces numbers by NaN, infinity, or values so large that a product overflows."""
    name = choose_weight_file(files, rng)
    raw, value = bytearray(files[name]), np.float32(rng.choice([np.nan, np.inf, -np.inf, 3e38]))
    count = int(rng.choice([1, 12]))
    # `at` is the first byte of the numbers, in the second half of the file, which has no header.
    at = 4 * int(rng.integers(len(raw) // 8, len(raw) // 4 - count - 200))
    # In safetensors, float32 numbers start after 8 bytes and a header of any length.
    at -= (at - (8 + int.from_bytes(raw[:8], "little"))) % 4 if name.endswith("safetensors") else 0
    raw[at : at + 4 * count] = value.tobytes() * count
    return files | {name: _with_checksums(bytes(raw)) if raw[:2] == b"PK" else bytes(raw)}


def _with_checksums(raw: bytes) -> bytes:
    """Writes the zip file again, so that every checksum matches its changed member."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as file:
            members = {}
            for info in file.infolist():
                # The header of a zip member has 30 bytes and the name.
                start = info.header_offset + 30 + len(info.filename)
                members[info.filename] = raw[start : start + info.file_size]
        return make_zip(members)
    except (zipfile.BadZipFile, NotImplementedError):
        return raw


def change_structure(files: Files, rng: np.random.Generator) -> Files:
    """Changes names, sizes or opcodes of a weight file, as its format stores them."""
    name = choose_weight_file(files, rng)
    raw = files[name]
    if name.endswith(".safetensors"):
        return files | {name: mutate_safetensors(raw, rng)}
    return files | {
        name: mutate_torch(raw, rng) if raw[:2] == b"PK" else mutate_ctranslate2(raw, rng)
    }


MUTATIONS: dict[str, Mutation] = {
    "bits": flip_bits,
    "cut": truncate,
    "splice": splice,
    "exchanged": exchange_files,
    "settings": change_settings,
    "dimensions": change_dimensions,
    "not finite": spoil_numbers,
    "structure": change_structure,
}
