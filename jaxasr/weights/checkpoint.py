"""A checkpoint of any format, under one vocabulary: OpenAI's tensor names, torch's layouts, read one tensor at a time."""

import dataclasses
import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxasr.alignment.released_heads import Heads
from jaxasr.config import HOP, SAMPLE_RATE, Config
from jaxasr.weights import files
from jaxasr.weights.errors import damaged, reading, shown

# Far above every released model, far below what could exhaust a machine: the bounds within which a damaged file may err.
_LIMITS = {
    "n_vocab": 1 << 20,
    "n_audio_ctx": 1 << 13,
    "n_text_ctx": 1 << 16,
    "n_audio_layer": 256,
    "n_text_layer": 256,
}
_LIMIT = 1 << 14
EMBEDDING, PROJECTION = "decoder.token_embedding.weight", "decoder.projection.weight"


@dataclasses.dataclass(frozen=True)
class Lazy:
    """A tensor that is not read yet: `read()` gives a numpy array of `shape`."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


class Tensors(Mapping[str, np.ndarray]):
    """`{name: array}`; every look-up reads the tensor from disk, and nothing is kept."""

    def __init__(self, entries: Mapping[str, Lazy]):
        self.entries = dict(entries)

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self.entries[name]
        array = entry.read()
        assert array.shape == entry.shape, (name, array.shape, entry.shape)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.entries[name].shape

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as stored."""
        sizes = {"bfloat16": 2}
        return sum(
            math.prod(e.shape) * (sizes.get(e.dtype) or np.dtype(e.dtype).itemsize)
            for e in self.entries.values()
        )


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says about itself, and its tensors, read on demand.

    `tensors` has OpenAI names (`encoder.blocks.0.attn.query.weight`) and torch layouts (linear [out, in], conv [out, in, width]).
    `alignment_heads` are (layer, head) of the decoder's cross-attention. None means that the checkpoint does not say.
    """

    config: Config
    tensors: Tensors
    name: str
    source: Path
    format: str
    weight_files: tuple[Path, ...]
    tokenizer_file: Path | None = None
    alignment_heads: tuple[tuple[int, int], ...] | None = None
    suppress_ids: tuple[int, ...] | None = None
    suppress_ids_begin: tuple[int, ...] | None = None

    @property
    def sha256(self) -> str:
        """Digest of the weights: of the file, or of the digests of its parts in order when there are several."""
        digests = [files.sha256(path) for path in self.weight_files]
        return (
            digests[0]
            if len(digests) == 1
            else hashlib.sha256("".join(digests).encode()).hexdigest()
        )

    def replace(self, **changes: object) -> "Checkpoint":
        return dataclasses.replace(self, **changes)


def make_config(dims: dict[str, Any], path: object) -> Config:
    """The `Config` of dimensions read from `path`. Raises `WeightsError` unless they are plausible and fit together."""
    for name, value in dims.items():
        limit = _LIMITS.get(name, _LIMIT)
        if not (type(value) is int and 0 < value <= limit):
            raise damaged(path, f"{name} between 1 and {limit}", shown(value))
    with reading(path, "the dimensions of a Whisper"):
        return Config(**dims)


def check_features(folder: Path, config: Config) -> None:
    """Raises `WeightsError` when a folder's feature extractor differs from Whisper's, which all recordings go through."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        said = files.read_json(path) if path.is_file() else {}
        said = said.get("feature_extractor", said)
        expected = {
            "feature_size": config.n_mels,
            "sampling_rate": SAMPLE_RATE,
            "hop_length": HOP,
            "n_fft": 400,
        }
        for key, value in expected.items():
            if type(said) is dict and said.get(key, value) != value:
                raise damaged(
                    path,
                    f"{key} = {value}, Whisper's own features",
                    shown(said[key]),
                    "Other features are not supported.",
                )


def known_heads(heads: Heads | None, config: Config, path: Path) -> Heads | None:
    """Returns the alignment heads that the decoder has; None where it has none of them.

    Distilled models often carry those of their teacher, which has more layers: a warning names them.
    """
    n_layer, n_head = config.n_text_layer, config.n_text_head
    absent = [list(head) for head in heads or () if head[0] >= n_layer or head[1] >= n_head]
    if not absent:
        return heads
    kept = tuple(head for head in heads or () if list(head) not in absent)
    used = f"the other {len(kept)} give" if kept else "the default heads of this size give"
    warnings.warn(
        f"{path}: alignment heads {absent} do not exist in {n_layer} layers of {n_head} heads; {used} "
        "the word times. Remove them from the file if they belong to another model.",
        stacklevel=2,
    )
    return kept or None


def sinusoids(length: int, channels: int) -> Float[np.ndarray, "length channels"]:
    """The encoder's positions, float32, which some files leave out (openai/whisper `model.py:sinusoids`)."""
    step = np.log(10_000) / (channels // 2 - 1) if channels > 2 else 0.0
    scaled = np.arange(length)[:, None] * np.exp(-step * np.arange(channels // 2))[None]
    return np.concatenate([np.sin(scaled), np.cos(scaled)], axis=1).astype(np.float32)


def with_positions(entries: dict[str, Lazy], config: Config) -> dict[str, Lazy]:
    """Adds the encoder's fixed positions when the file has none."""
    shape = (config.n_audio_ctx, config.n_audio_state)
    if shape[1] % 2:
        return entries  # there are none of odd width
    return {
        "encoder.positional_embedding": Lazy(shape, "float32", lambda: sinusoids(*shape)),
        **entries,
    }


def tie(entries: dict[str, Lazy], name: str) -> bool:
    """Returns whether the output projection `name` is the token embedding.

    Renames it to `decoder.projection.weight` where it is not, and leaves it out where it is. An
    embedding that the file leaves out is the projection. Reads both to compare them.
    """
    projection = entries.pop(name, None)
    embedding = entries.setdefault(EMBEDDING, projection) if projection else None
    if projection is None or embedding is projection:
        return True
    if embedding.shape == projection.shape and np.array_equal(embedding.read(), projection.read()):
        return True
    entries[PROJECTION] = projection
    return False
