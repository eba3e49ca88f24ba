"""Defines what all recognisers share: a model with its tokenizer and checkpoint."""

import dataclasses
import os
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float

from jaxasr import display
from jaxasr.audio import load_audio
from jaxasr.config import Config
from jaxasr.model import SpeechModel
from jaxasr.precision import precision_name
from jaxasr.weights import Checkpoint

# 16 kHz samples of any number, or the path of an audio file.
Audio = Float[np.ndarray, "_"] | str | os.PathLike
_Model = TypeVar("_Model", bound=SpeechModel)
_Tokenizer = TypeVar("_Tokenizer")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LoadedModel(Generic[_Model, _Tokenizer]):
    """A model with its tokenizer and checkpoint. `jaxasr.load` returns one of its subclasses.

    Attributes:
        model: the model, a pytree.
        tokenizer: converts between text and token ids.
        checkpoint: source of the weights.

    Example:
        >>> from jaxasr.loaded_model import LoadedModel
        >>> isinstance(asr, LoadedModel)
        True
    """

    model: _Model
    tokenizer: _Tokenizer
    checkpoint: Checkpoint

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.checkpoint.name}: {self.model.summary})"

    def _repr_html_(self) -> str:
        config = self.config
        rows = [
            ("checkpoint", self.checkpoint.name),
            ("family", config.family),
            ("source", self.checkpoint.source),
            *((name, _describe_stack(config, name)) for name in ("encoder", "decoder")),
            ("vocabulary", f"{config.n_vocab:,} tokens"),
            ("parameters", f"{self.model.n_parameters / 1e6:.1f} M in {config.param_dtype}"),
            ("activations", config.dtype),
            ("precision", precision_name(config)),
        ]
        return display.table((), rows)

    @property
    def config(self) -> Config:
        """Dimensions and dtypes of the model."""
        return self.model.config

    @property
    def sites(self) -> list[str]:
        """Names of the sites of the model, where activations can be read and edited."""
        return self.model.sites


def read_samples(audio: Audio) -> Float[np.ndarray, "_"]:
    """Returns samples as they are, and reads a file.

    Example:
        >>> from jaxasr.loaded_model import read_samples
        >>> read_samples(audio) is audio
        True
    """
    return load_audio(audio) if isinstance(audio, str | os.PathLike) else audio


def _describe_stack(config: Config, stack: str) -> str:
    shape = config.stack(stack)
    shared = f" ({shape.n_kv_head} of keys)" if shape.n_kv_head != shape.n_head else ""
    return f"{shape.n_layer} layers, {shape.n_head} heads{shared}, width {shape.width}"
