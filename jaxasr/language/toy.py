"""Writes tiny random audio language models, to try out code without gigabytes of weights."""

import os
from pathlib import Path

from flax import nnx
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from jaxasr.config import Config
from jaxasr.families import FAMILIES
from jaxasr.language.model import AudioLanguageModel
from jaxasr.language.prompts import FORMATS

_N_BYTES = 256  # the first tokens are single bytes
_MLP_WIDTH = 48  # of the encoder
_STACKED_WIDTH = 64  # the same where 4 frames of width 16 are stacked, which needs this width


def toy_config(family: str = "qwen2_audio") -> Config:
    """Returns a model with the structure of a family, 2 + 2 layers and windows of 2 s.

    Args:
        family: one of `jaxasr.families.FAMILIES`.

    Example:
        >>> from jaxasr.language.toy import toy_config
        >>> toy_config().n_audio_tokens
        50
    """
    form, control = FORMATS[family], _control_tokens(family)
    return Config(
        n_mels=80,
        n_audio_ctx=100,
        n_audio_state=16,
        n_audio_head=2,
        n_audio_layer=2,
        n_audio_mlp=_STACKED_WIDTH if FAMILIES[family].pool == "stack" else _MLP_WIDTH,
        n_vocab=_N_BYTES + len(control),
        n_text_ctx=512,
        n_text_state=32,
        n_text_head=4,
        n_text_layer=2,
        n_text_mlp=48,
        n_text_kv_head=2,
        tied=False,
        family=family,
        audio_token=_N_BYTES + control.index(form.audio),
        eos=(_N_BYTES + control.index(form.end),),
    )


def write_toy(folder: str | os.PathLike[str], family: str = "qwen2_audio", seed: int = 0) -> Path:
    """Writes a folder with random weights and a tokenizer of single bytes.

    Args:
        folder: a folder that does not exist or is empty.
        family: one of `jaxasr.families.FAMILIES`.
        seed: seed of the weights.

    Returns:
        The folder, for `jaxasr.load`.

    Raises:
        WeightsError: `folder` exists and is not an empty folder.

    Example:
        ```python
        from jaxasr.language.toy import write_toy

        toy = jaxasr.load(write_toy("toy"))
        toy.ask(audio[:32_000], "What is this?", max_new_tokens=5)
        ```
    """
    from jaxasr.weights import save

    model = AudioLanguageModel(toy_config(family), rngs=nnx.Rngs(seed))
    path = save(model, folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_control_tokens(family)))
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def _control_tokens(family: str) -> tuple[str, ...]:
    return (*FORMATS[family].control, "<|en|>")
