"""Loads a recogniser from a checkpoint, in a chosen precision."""

import os
from typing import Any, cast

from jaxasr.language.model import AudioLanguageModel
from jaxasr.language.recogniser import PromptedRecogniser
from jaxasr.language.tokenizer import LanguageTokenizer
from jaxasr.model import Whisper
from jaxasr.precision import precision_fields
from jaxasr.recogniser import Recogniser
from jaxasr.tokenizer import Tokenizer
from jaxasr.weights import WeightsError, assemble, read_checkpoint


def load(
    name: str | os.PathLike,
    *,
    dtype: str | None = None,
    param_dtype: str | None = None,
    precision: str | None = None,
    attention_kernel: str = "auto",
) -> Recogniser:
    """Loads a recogniser. `config.json` decides to which family of models it belongs.

    Args:
        name: one of the following, tried in this order: the path of a Hugging Face folder, a
            CTranslate2 folder or an OpenAI `.pt` file; a size such as `"tiny.en"` in an installed
            package; a name in the cache or on the hub of Hugging Face, such as
            `"openai/whisper-small"` or `"Qwen/Qwen2-Audio-7B"`.
        dtype: dtype of activations: "float32", "bfloat16" or "float16". None: "float32".
        param_dtype: dtype of weights; None: `dtype`.
        precision: a policy instead of the two dtypes: "float32", "high", "mixed" or "bfloat16".
            docs/precision.md compares them.
        attention_kernel: "auto" chooses the fastest kernel of the device. "xla", "cudnn" or
            "splash" is used without exception (see `jaxasr.fused_attention`).

    Returns:
        The model with its tokenizer and checkpoint: a `Recogniser` of a Whisper, or a
        `PromptedRecogniser` of an audio language model.

    Raises:
        WeightsError: the checkpoint is damaged, incomplete or unknown. It is a ValueError, and its
            message gives the remedy.
        ValueError: an unknown `precision` or `attention_kernel`, or `precision` with a dtype.

    Example:
        ```python
        asr = jaxasr.load("tiny.en", precision="mixed")
        ```
    """
    formats = _number_formats(dtype, param_dtype, precision)
    checkpoint = read_checkpoint(name)
    path, config = checkpoint.tokenizer_file, checkpoint.config
    if path is None:
        raise WeightsError(
            f"{checkpoint.source}: the weights are fine, but tokenizer.json (or vocab.json with "
            "merges.txt, or tekken.json) is missing. Copy the files of the same model into the "
            "folder, or use jaxasr.weights.assemble(jaxasr.weights.read_checkpoint(path)) for the "
            "bare model."
        )
    # Reading the tokenizer first takes less time if one of its files is wrong.
    if config.audio_language is None:
        tokenizer = Tokenizer.from_file(path, config.n_vocab)
        model = assemble(checkpoint, attention_kernel=attention_kernel, **formats)
        return Recogniser(cast(Whisper, model), tokenizer, checkpoint)
    tokenizer = LanguageTokenizer.from_file(path, config)
    model = assemble(checkpoint, attention_kernel=attention_kernel, **formats)
    # The declared type is that of most models. For `ask`, cast the result to PromptedRecogniser.
    prompted = PromptedRecogniser(cast(AudioLanguageModel, model), tokenizer, checkpoint)
    return cast(Recogniser, prompted)


def _number_formats(
    dtype: str | None, param_dtype: str | None, precision: str | None
) -> dict[str, Any]:
    """Returns the fields of a config that a policy or the two dtypes set."""
    if precision is None:
        dtype = dtype or "float32"
        return {"dtype": dtype, "param_dtype": param_dtype or dtype}
    if dtype is None and param_dtype is None:
        return precision_fields(precision)
    raise ValueError(
        f"precision: {precision!r} sets the dtypes of activations and weights; leave out dtype= "
        "and param_dtype=, or leave out precision=."
    )
