"""Damaged and hostile checkpoints: a small random model in every format, and what may be done to it.

A checkpoint is `{file name: bytes}`. A mutation takes one with a random generator and returns another.
"""

import copy
import io
import json
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import checkpoints

from jaxasr.config import Config

Files = dict[str, bytes]
Mutation = Callable[[Files, np.random.Generator], Files]

_CONTROL = (
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
SMALL = Config(80, 9, 12, 3, 1, 256 + len(_CONTROL) + 1501, 11, 12, 2, 2)
CANARY = "code-was-run"  # what hostile pickles write, in the current directory


def _tokenizer_files() -> tuple[Files, Files]:
    """A byte-level BPE with Whisper's control tokens: as tokenizer.json, and as the files of older folders."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocab = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocab, []))
    inner.pre_tokenizer, inner.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    inner.add_special_tokens([AddedToken(f"<|{name}|>", special=True) for name in _CONTROL])
    added = {f"<|{name}|>": 256 + i for i, name in enumerate(_CONTROL)}
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
    """`{format: checkpoint}`."""
    tensors, (whole, older) = checkpoints.random_tensors(SMALL), _tokenizer_files()
    more = {
        "preprocessor_config.json": json.dumps(
            {"feature_size": 80, "n_fft": 400, "mel_filters": [[0.0, 1.0]]}
        ).encode()
    }
    writers: dict[str, Callable[[Path], Path]] = {
        "safetensors": lambda path: checkpoints.write_hf(path, tensors, SMALL),
        "sharded": lambda path: checkpoints.write_hf(path, tensors, SMALL, shards=2),
        "bin": lambda path: checkpoints.write_hf(path, tensors, SMALL, pickled=True),
        "bin-sharded": lambda path: checkpoints.write_hf(
            path, tensors, SMALL, shards=2, pickled=True
        ),
        "ctranslate2": lambda path: checkpoints.write_ct2(path, tensors, SMALL),
        "openai": lambda path: checkpoints.write_pt(path / "small.pt", tensors, SMALL).parent,
    }
    found = {}
    for form, write in writers.items():
        with tempfile.TemporaryDirectory() as folder:
            files = {path.name: path.read_bytes() for path in write(Path(folder)).iterdir()}
        found[form] = (
            files
            | (older if form in ("bin", "sharded") else whole)
            | (more if form != "openai" else {})
        )
    return found


def weights_of(files: Files, rng: np.random.Generator) -> str:
    """The name of one of the files that hold the tensors."""
    return str(
        rng.choice([name for name in files if name.endswith((".safetensors", ".bin", ".pt"))])
    )


# --- of bytes ---


def bits(files: Files, rng: np.random.Generator) -> Files:
    name = weights_of(files, rng)
    raw = bytearray(files[name])
    for _ in range(rng.integers(1, 9)):
        end = min(len(raw), 6000)
        at = int(
            rng.choice(
                [rng.integers(len(raw)), rng.integers(end), len(raw) - 1 - rng.integers(end)]
            )
        )
        raw[at] ^= 1 << rng.integers(8)
    return files | {name: bytes(raw)}


def cut(files: Files, rng: np.random.Generator) -> Files:
    name = str(rng.choice(list(files)))
    return files | {name: files[name][: rng.integers(len(files[name]))]}


def splice(files: Files, rng: np.random.Generator) -> Files:
    """A stretch is overwritten by another one, by zeros or by 0xFF, removed, or doubled."""
    name = weights_of(files, rng)
    raw, size = files[name], int(rng.choice([1, 2, 4, 8, 64, 1024]))
    at, other = (int(rng.integers(max(1, len(raw) - size))) for _ in range(2))
    filler = [raw[other : other + size], bytes(size), b"\xff" * size, b"", raw[at : at + size] * 2][
        rng.integers(5)
    ]
    return files | {name: raw[:at] + filler + raw[at + size :]}


def exchanged(files: Files, rng: np.random.Generator) -> Files:
    """One file holds what another one should, or is gone."""
    one, other = rng.choice(list(files), 2, replace=False)
    return (
        {k: v for k, v in files.items() if k != one}
        if rng.random() < 0.5
        else files | {one: files[other]}
    )


# --- of values ---

_ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2,
    3,
    1 << 31,
    1 << 70,
    10**400,
    1e308,
    -0.5,
    float("nan"),
    float("inf"),
]
_ODD += [
    "",
    "..",
    "/dev/zero",
    "a" * 5000,
    "\x00",
    "\ud800",
    [],
    {},
    [[]],
    {"a": {"a": []}},
    [0] * 3000,
    [[9, 9]],
    ["<|en|>"] * 9,
]


def _odd(rng: np.random.Generator) -> Any:
    return copy.deepcopy(_ODD[rng.integers(len(_ODD))])


def _places(value: Any, path: tuple = ()) -> list[tuple]:
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(place for key, child in inner for place in _places(child, (*path, key)))]


def _changed(value: Any, rng: np.random.Generator) -> Any:
    """A JSON value with one or two of its parts replaced, removed or renamed."""
    for _ in range(rng.integers(1, 3)):
        places = _places(value)
        shallow = [place for place in places if len(place) <= 2] if rng.random() < 0.5 else places
        *path, last = ("whole", *shallow[rng.integers(len(shallow))])
        holder: Any = {"whole": value}
        target = holder
        for key in path:
            target = target[key]
        match rng.integers(4):
            case 0 if isinstance(target, dict) and target is not holder:
                target[str(_odd(rng))[:40]] = target.pop(last)
            case 1 if target is not holder:
                del target[last]
            case _:
                target[last] = _odd(rng)
        value = holder["whole"]
    return value


def settings(files: Files, rng: np.random.Generator) -> Files:
    """A JSON file that says something odd, or is text of another kind."""
    name = str(rng.choice([name for name in files if name.endswith(".json")]))
    raw = json.dumps(_changed(json.loads(files[name]), rng)).encode("utf-8", "replace")
    if rng.random() < 0.1:
        raw = [b"[" * 200_000, b'{"a":' * 99_999, raw[: len(raw) // 2], b"\xff\xfe", b"", b"nan"][
            rng.integers(6)
        ]
    return files | {name: raw}


def dimensions(files: Files, rng: np.random.Generator) -> Files:
    """Other numbers of layers, heads and rows than the tensors have."""
    if "config.json" not in files or "d_model" not in json.loads(files["config.json"]):
        return structure(files, rng)
    said = json.loads(files["config.json"])
    key = str(rng.choice([key for key, value in said.items() if type(value) is int]))
    said[key] = int(
        rng.choice(
            [
                0,
                1,
                2,
                3,
                4,
                6,
                12,
                100,
                1500,
                8192,
                1 << 16,
                1 << 20,
                said[key] + 1,
                said[key] * 2,
                -said[key],
            ]
        )
    )
    return files | {"config.json": json.dumps(said).encode()}


def not_finite(files: Files, rng: np.random.Generator) -> Files:
    """One number, or a tensor, that is NaN, infinite, or so large that a product overflows."""
    name = weights_of(files, rng)
    raw, value = bytearray(files[name]), np.float32(rng.choice([np.nan, np.inf, -np.inf, 3e38]))
    count = int(rng.choice([1, 12]))
    at = 4 * int(rng.integers(len(raw) // 8, len(raw) // 4 - count - 200))
    at -= (at - (8 + int.from_bytes(raw[:8], "little"))) % 4 if name.endswith("safetensors") else 0
    raw[at : at + 4 * count] = value.tobytes() * count
    return files | {name: _with_checksums(bytes(raw)) if raw[:2] == b"PK" else bytes(raw)}


def _with_checksums(raw: bytes) -> bytes:
    """The zip written again, so that every checksum is right."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as file:
            members = {}
            for info in file.infolist():
                start = info.header_offset + 30 + len(info.filename)
                members[info.filename] = raw[start : start + info.file_size]
        return _zip(members)
    except (zipfile.BadZipFile, NotImplementedError):
        return raw


def _zip(members: Files, compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name, raw in members.items():
            file.writestr(name, raw)
    return out.getvalue()


# --- of the format's own structure ---


def structure(files: Files, rng: np.random.Generator) -> Files:
    name = weights_of(files, rng)
    raw = files[name]
    if name.endswith(".safetensors"):
        return files | {name: _safetensors(raw, rng)}
    return files | {name: _torch(raw, rng) if raw[:2] == b"PK" else _ctranslate2(raw, rng)}


def _safetensors(raw: bytes, rng: np.random.Generator) -> bytes:
    size = int.from_bytes(raw[:8], "little")
    said = json.loads(raw[8 : 8 + size])
    one, other = (str(rng.choice(list(said))) for _ in range(2))
    match rng.integers(5):
        case 0:
            said[one] = _changed(said[one], rng)
        case 1:
            said[one], said[other] = said[other], said[one]
        case 2:
            said[one + str(rng.choice(["", "x", "\x00", "." * 99]))] = said.pop(one)
        case 3 if "dtype" in said[one]:
            said[one]["dtype"] = str(
                rng.choice(["F16", "BF16", "F64", "I32", "U8", "BOOL", "F8_E4M3", "", "C64"])
            )
        case _:
            said = {
                name.replace(
                    "layers.0", f"layers.{rng.choice([1, 7, '01', '-1', '9' * 40])}"
                ): value
                for name, value in said.items()
            }
    header = json.dumps(said).encode("utf-8", "replace")
    length = len(header) if rng.random() < 0.9 else int(rng.choice([0, 1, 1 << 20, (1 << 63) - 1]))
    return struct.pack("<Q", length) + header + raw[8 + size :]


def _ctranslate2(raw: bytes, rng: np.random.Generator) -> bytes:
    """Changes sizes, types, ranks and names, which stand before every variable."""
    places = [i for i in range(len(raw) - 40) if raw[i : i + 8] in (b"encoder/", b"decoder/")]
    at = int(rng.choice(places))
    end = raw.index(b"\0", at)
    match rng.integers(5):
        case 0:
            head, value = (
                end + 2,
                struct.pack("<I", int(rng.choice([0, 1, 7, 1 << 16, (1 << 32) - 1]))),
            )
            return raw[:head] + value + raw[head + 4 :]
        case 1:
            return raw[: end + 1] + bytes([rng.integers(256)]) + raw[end + 2 :]
        case 2:
            word = rng.bytes(4)
            return raw[:at] + word + raw[at + 4 :]
        case 3:
            where = int(rng.integers(end + 1, min(end + 20, len(raw))))
            return raw[:where] + bytes([rng.integers(256)]) + raw[where + 1 :]
        case _:
            other = int(rng.choice(places))
            stop = raw.index(b"\0", other)
            return raw[:at] + raw[other:stop] + raw[end:]


_CALL = b"X" + struct.pack("<I", len(f"echo > {CANARY}")) + f"echo > {CANARY}".encode() + b"\x85R"
_RUN = [
    b"cos\nsystem\n" + _CALL,
    b"cposix\nsystem\n" + _CALL,
    b"\x8c\x02os\x8c\x06system\x93" + _CALL,
    b"csubprocess\ngetoutput\n" + _CALL,
]
_SNIPPETS = [
    b"N",
    b"\x88",
    b"]",
    b"}",
    b")",
    b"(",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
    b"0",
    b"2",
    b"R",
    b"b",
    b"a",
    b"e",
    b"s",
    b"u",
    b"Q",
]
_SNIPPETS += [
    b"q\x01",
    b"h\x01",
    b"r\xff\xff\xff\x7f",
    b"J\xff\xff\xff\xff",
    b"ctorch\nFloatStorage\n",
    b".",
    b"\x8a\xff" + b"\x7f" * 255,
]
_SNIPPETS += [
    b")q\x00" + b"".join(b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(40))
]
_SNIPPETS += [b"(" * 3000, b"t" * 3000, b"X\xff\xff\xff\x7f"]


def _torch(raw: bytes, rng: np.random.Generator) -> bytes:
    with zipfile.ZipFile(io.BytesIO(raw)) as file:
        members = {info.filename: file.read(info) for info in file.infolist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    compression = zipfile.ZIP_STORED
    match rng.integers(6):
        case 0:
            one = str(rng.choice(list(members)))
            members[one] = members[one][: rng.integers(len(members[one]) + 1)]
        case 1:
            members = {name: value for name, value in members.items() if rng.random() < 0.9}
        case 2 if rng.random() < 0.3:
            compression = zipfile.ZIP_DEFLATED
        case _:
            members[pickled] = _pickle(members[pickled], rng)
    return _zip(members, compression)


def _pickle(data: bytes, rng: np.random.Generator) -> bytes:
    import pickletools

    places = [place for _, _, place in pickletools.genops(data)]
    parts = [data[a:b] for a, b in zip(places, [*places[1:], len(data)])]
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(1, len(parts)))
        snippet = (
            _RUN[rng.integers(len(_RUN))]
            if rng.random() < 0.3
            else _SNIPPETS[rng.integers(len(_SNIPPETS))]
        )
        match rng.integers(4):
            case 0:
                parts[at] = snippet
            case 1:
                parts.insert(at, snippet)
            case 2:
                parts[at] = parts[int(rng.integers(len(parts)))]
            case _:
                parts.insert(at, parts.pop(int(rng.integers(len(parts)))))
    return b"".join(parts)


MUTATIONS: dict[str, Mutation] = {
    "bits": bits,
    "cut": cut,
    "splice": splice,
    "exchanged": exchanged,
    "settings": settings,
    "dimensions": dimensions,
    "not finite": not_finite,
    "structure": structure,
}
