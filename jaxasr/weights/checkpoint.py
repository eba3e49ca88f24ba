"""Holds a checkpoint of any format under OpenAI's tensor names and in torch's layouts."""

import dataclasses
import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxasr.alignment.released_heads import Heads
from jaxasr.config import HOP, SAMPLE_RATE, Config
from jaxasr.encoder import sinusoids
from jaxasr.weights import files
from jaxasr.weights.errors import convert_errors, file_error, short_repr

# Largest dimensions that a file may have. Every released model is far smaller. Because of these
# limits, a damaged file cannot exhaust the memory.
_MAX_DIMENSIONS = {
    "n_vocab": 1 << 20,
    "n_audio_ctx": 1 << 13,
    "n_text_ctx": 1 << 20,
    "n_text_mlp": 1 << 17,
    "n_audio_layer": 256,
    "n_text_layer": 256,
}
_MAX_OTHER_DIMENSION = 1 << 14  # largest value of all other dimensions
# Names of the token embedding and of an output projection that differs from the embedding.
EMBEDDING, PROJECTION = "decoder.token_embedding.weight", "decoder.projection.weight"


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read on demand.

    Attributes:
        shape: shape of the tensor.
        dtype: name of its type.
        read: reads the tensor as a NumPy array of `shape`.
        origin: its name in the file and the name of the file, for error messages. Empty: unknown.

    Example:
        >>> LazyTensor((2,), "float32", lambda: np.zeros(2, np.float32)).read()
        array([0., 0.], dtype=float32)
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]
    origin: str = ""


class Tensors(Mapping[str, np.ndarray]):
    """Tensors by name. Every look-up reads the tensor from disk again.

    Example:
        ```python
        from jaxasr.weights import read_checkpoint

        tensors = read_checkpoint("tiny.en").tensors
        tensors.shape("decoder.ln.weight")  # (384,), without reading the tensor
        tensors["decoder.ln.weight"]  # the array
        ```
    """

    def __init__(self, entries: Mapping[str, LazyTensor]):
        self.entries = dict(entries)

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self.entries[name]
        array = entry.read()
        assert array.shape == entry.shape, (name, array.shape, entry.shape)
        return array

    def __contains__(self, name: object) -> bool:
        return name in self.entries  # the method of `Mapping` would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor without reading it."""
        return self.entries[name].shape

    def describe(self, name: str) -> str:
        """Returns the shape of a tensor, with its name in the file if that is known."""
        entry = self.entries[name]
        return f"{list(entry.shape)}{f' ({entry.origin})' if entry.origin else ''}"

    @property
    def nbytes(self) -> int:
        """Number of bytes of all tensors in their own dtypes."""
        sizes = {"bfloat16": 2}  # np.dtype() does not know this name
        return sum(
            math.prod(entry.shape) * (sizes.get(entry.dtype) or np.dtype(entry.dtype).itemsize)
            for entry in self.entries.values()
        )


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The weights of a model and their metadata. Tensors are read on demand.

    Attributes:
        config: dimensions of the model.
        tensors: tensors under OpenAI's names (`encoder.blocks.0.attn.query.weight`), in torch's
            layouts (linear [out, in], convolution [out, in, width]).
        name: name of the checkpoint, such as "tiny.en".
        source: the file or folder that was read.
        format: "huggingface", "ctranslate2" or "openai".
        weight_files: files that hold the tensors.
        tokenizer_file: `tokenizer.json` or `vocab.json`. None: there is none.
        alignment_heads: (layer, head) pairs of the cross-attention heads that give word times.
            None: not in the files.
        suppress_ids: token ids that are never generated. None: not in the files.
        suppress_ids_begin: token ids that are never generated as the first token. None: not in the
            files.

    Example:
        >>> from jaxasr.weights import read_checkpoint
        >>> read_checkpoint("tiny.en").format
        'ctranslate2'
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
        """SHA-256 of the weight file, or of the joined digests of several weight files."""
        digests = [files.sha256(path) for path in self.weight_files]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def replace(self, **changes: Any) -> "Checkpoint":
        """Returns a copy of the checkpoint in which `changes` replace fields."""
        return dataclasses.replace(self, **changes)


def make_config(dims: dict[str, Any], path: object, **others: Any) -> Config:
    """Returns the configuration with these dimensions.

    Args:
        dims: values by field of `Config`, as read from a file.
        path: the file, for error messages.
        others: fields of `Config` that are not dimensions.

    Raises:
        WeightsError: a dimension is outside its limits, or the dimensions contradict each other.

    Example:
        >>> import jaxasr
        >>> config = vars(jaxasr.SIZES["tiny"])
        >>> dims = {name: value for name, value in config.items() if name.startswith("n_")}
        >>> make_config(dims, "config.json").n_text_layer
        4
    """
    for name, value in dims.items():
        limit = _MAX_DIMENSIONS.get(name, _MAX_OTHER_DIMENSION)
        # `isinstance` would accept True, which is an int.
        if not (type(value) is int and 0 < value <= limit):
            raise file_error(path, f"{name} between 1 and {limit}", short_repr(value))
    with convert_errors(path, "the dimensions of a model"):
        return Config(**dims, **others)


def check_features(folder: Path, config: Config) -> None:
    """Checks that the checkpoint in `folder` expects the features that `log_mel` computes.

    Args:
        folder: folder of `preprocessor_config.json` or `processor_config.json`. Neither is
            required.
        config: dimensions of the checkpoint.

    Raises:
        WeightsError: the checkpoint expects other features.

    Example:
        >>> import jaxasr
        >>> check_features(Path("no-such-folder"), jaxasr.SIZES["tiny"])
    """
    expected = {
        "feature_size": config.n_mels,
        "sampling_rate": SAMPLE_RATE,
        "hop_length": HOP,
        "n_fft": 400,
    }
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        settings = files.read_json(path) if path.is_file() else {}
        settings = settings.get("feature_extractor", settings)
        for key, value in expected.items():
            if type(settings) is dict and settings.get(key, value) != value:
                raise file_error(
                    path,
                    f"{key} = {value}, the features of the family {config.family!r}",
                    short_repr(settings[key]),
                    "Other features are not supported.",
                )


def existing_heads(heads: Heads | None, config: Config, path: Path) -> Heads | None:
    """Returns those of `heads` that the decoder has, or None if it has none of them.

    The files of distilled models often name heads of their teacher, which has more layers. A
    warning names the heads that the decoder lacks.

    Args:
        heads: alignment heads in a file; None if there are none.
        config: dimensions of the model.
        path: the file, for the warning.

    Example:
        >>> import jaxasr
        >>> existing_heads(((3, 5),), jaxasr.SIZES["tiny"], Path("config.json"))
        ((3, 5),)
    """
    n_layer, n_head = config.n_text_layer, config.n_text_head
    absent = [list(head) for head in heads or () if head[0] >= n_layer or head[1] >= n_head]
    if not absent:
        return heads
    existing = tuple(head for head in heads or () if list(head) not in absent)
    replacement = f"the other {len(existing)}" if existing else "the default heads of this size"
    warnings.warn(
        f"{path}: alignment heads {absent} do not exist in {n_layer} layers of {n_head} heads; "
        f"{replacement} give the word times. Remove them from the file if they belong to another "
        "model.",
        stacklevel=2,
    )
    return existing or None


def with_positions(entries: dict[str, LazyTensor], config: Config) -> dict[str, LazyTensor]:
    """Adds the encoder's positional embedding if `entries` lack it.

    Some files leave out this embedding, because its values are fixed.

    Example:
        >>> import jaxasr
        >>> list(with_positions({}, jaxasr.SIZES["tiny"]))
        ['encoder.positional_embedding']
    """
    shape = (config.n_audio_ctx, config.n_audio_state)
    if shape[1] % 2:
        return entries  # sinusoids need an even number of channels
    positions = LazyTensor(shape, "float32", lambda: sinusoids(*shape))
    return {"encoder.positional_embedding": positions, **entries}


def tie_projection(entries: dict[str, LazyTensor], name: str) -> bool:
    """Returns whether the output projection equals the token embedding.

    Changes `entries` in place. Removes a projection that equals the embedding, and renames any
    other projection to `decoder.projection.weight`. If there is no embedding, the projection is
    used as the embedding.

    Args:
        entries: tensors of the checkpoint.
        name: name of the output projection in `entries`.

    Example:
        >>> embedding = LazyTensor((2,), "float32", lambda: np.zeros(2, np.float32))
        >>> tie_projection({EMBEDDING: embedding}, PROJECTION)  # without a projection
        True
    """
    projection = entries.pop(name, None)
    if projection is None:
        return True
    embedding = entries.setdefault(EMBEDDING, projection)
    if embedding is projection:
        return True
    if embedding.shape == projection.shape and np.array_equal(embedding.read(), projection.read()):
        return True
    entries[PROJECTION] = projection
    return False
