"""Mutates weight files as their formats store them: names, sizes, types and opcodes."""

import io
import json
import pickletools
import struct
import zipfile

import numpy as np

from attacks.json_mutations import change_value

CANARY = "code-was-run"  # name of the file that a hostile pickle writes if its code runs


def make_zip(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Returns a zip file of `members`."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name, raw in members.items():
            file.writestr(name, raw)
    return out.getvalue()


def mutate_safetensors(raw: bytes, rng: np.random.Generator) -> bytes:
    """Changes names, dtypes and sizes in the header, which is JSON after its length in 8 bytes."""
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    name, other = (str(rng.choice(list(header))) for _ in range(2))
    match rng.integers(5):
        case 0:
            header[name] = change_value(header[name], rng)
        case 1:
            header[name], header[other] = header[other], header[name]
        case 2:
            header[name + str(rng.choice(["", "x", "\x00", "." * 99]))] = header.pop(name)
        case 3 if "dtype" in header[name]:
            header[name]["dtype"] = str(
                rng.choice(["F16", "BF16", "F64", "I32", "U8", "BOOL", "F8_E4M3", "", "C64"])
            )
        case _:
            header = {
                name.replace(
                    "layers.0", f"layers.{rng.choice([1, 7, '01', '-1', '9' * 40])}"
                ): value
                for name, value in header.items()
            }
    encoded = json.dumps(header).encode("utf-8", "replace")
    length = len(encoded) if rng.random() < 0.9 else int(rng.choice([0, 1, 1 << 20, (1 << 63) - 1]))
    return struct.pack("<Q", length) + encoded + raw[8 + size :]


def mutate_ctranslate2(raw: bytes, rng: np.random.Generator) -> bytes:
    """Changes a name, rank, size or dtype. These precede the data of every variable."""
    # The name of a variable goes from byte `at` to NUL at byte `end`. Its rank follows in one byte,
    # and its dimensions in four bytes each.
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
            place = int(rng.integers(end + 1, min(end + 20, len(raw))))
            return raw[:place] + bytes([rng.integers(256)]) + raw[place + 1 :]
        case _:
            other = int(rng.choice(places))
            stop = raw.index(b"\0", other)
            return raw[:at] + raw[other:stop] + raw[end:]


# Pickle opcodes that call the function on the stack with a shell command, which writes `CANARY`.
_CALL_OPCODES = (
    b"X" + struct.pack("<I", len(f"echo > {CANARY}")) + f"echo > {CANARY}".encode() + b"\x85R"
)


# Pickle opcodes that import a function and call it.
_CODE_OPCODES = [
    b"cos\nsystem\n" + _CALL_OPCODES,
    b"cposix\nsystem\n" + _CALL_OPCODES,
    b"\x8c\x02os\x8c\x06system\x93" + _CALL_OPCODES,
    b"csubprocess\ngetoutput\n" + _CALL_OPCODES,
]


# Other pickle opcodes: single ones, invalid memo indices, long integers, nested tuples, marks.
_SNIPPETS = [
    *(bytes([opcode]) for opcode in b"N\x88]})(t\x85\x86\x8702RbaesuQ"),
    b"q\x01",
    b"h\x01",
    b"r\xff\xff\xff\x7f",
    b"J\xff\xff\xff\xff",
    b"ctorch\nFloatStorage\n",
    b".",
    b"\x8a\xff" + b"\x7f" * 255,
    b")q\x00" + b"".join(b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(40)),
    b"(" * 3000,
    b"t" * 3000,
    b"X\xff\xff\xff\x7f",
]


def mutate_torch(raw: bytes, rng: np.random.Generator) -> bytes:
    """Changes members of the zip, most often the opcodes of its pickle."""
    with zipfile.ZipFile(io.BytesIO(raw)) as file:
        members = {info.filename: file.read(info) for info in file.infolist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    compression = zipfile.ZIP_STORED
    match rng.integers(6):
        case 0:
            name = str(rng.choice(list(members)))
            members[name] = members[name][: rng.integers(len(members[name]) + 1)]
        case 1:
            members = {name: value for name, value in members.items() if rng.random() < 0.9}
        case 2 if rng.random() < 0.3:
            compression = zipfile.ZIP_DEFLATED
        case _:
            members[pickled] = _mutate_opcodes(members[pickled], rng)
    return make_zip(members, compression)


def _mutate_opcodes(data: bytes, rng: np.random.Generator) -> bytes:
    """Replaces, inserts, copies or moves some opcodes of a pickle."""
    places = [place for _, _, place in pickletools.genops(data)]
    parts = [data[a:b] for a, b in zip(places, [*places[1:], len(data)])]
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(1, len(parts)))
        snippet = (
            _CODE_OPCODES[rng.integers(len(_CODE_OPCODES))]
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
