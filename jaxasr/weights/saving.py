"""Saves a model as a Hugging Face folder for `transformers` and `jaxasr.load`."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError

from jaxasr.config import SAMPLE_RATE, Config
from jaxasr.languages import LANGUAGES
from jaxasr.model import SpeechModel
from jaxasr.weights import (
    language_names,
    language_settings,
    tensor_files,
    tokenizer_files,
    whisper_names,
)
from jaxasr.weights.assemble import convert_layout, parameters_by_name, tensor_name
from jaxasr.weights.checkpoint import Checkpoint
from jaxasr.weights.errors import WeightsError

# Vocabulary sizes of released checkpoints. large-v3 and later have one more language token.
_ENGLISH_VOCAB, _MULTILINGUAL_VOCAB = 51_864, 51_865
# Class in transformers that prepares the inputs of each family.
_PROCESSORS = {
    "whisper": "WhisperProcessor",
    "qwen2_audio": "Qwen2AudioProcessor",
    "voxtral": "VoxtralProcessor",
    "audioflamingo3": "AudioFlamingo3Processor",
}


def save(
    model_or_asr: Any,
    folder: str | os.PathLike[str],
    *,
    checkpoint: Checkpoint | None = None,
    shard_bytes: int = 10_000_000_000,
) -> Path:
    """Saves weights, configuration and tokenizer as a Hugging Face folder.

    Keeps the dtype of every weight. Writes a temporary folder first, and renames it when it is
    complete.

    Args:
        model_or_asr: a model, or the recogniser that `jaxasr.load` returns.
        folder: a folder that does not exist or is empty.
        checkpoint: source of the tokenizer, alignment heads and suppressed tokens. None: the
            checkpoint of the recogniser. A model is then saved without them.
        shard_bytes: most bytes of a weight file. Larger models are saved as several files with an
            index. Every Whisper fits into one file of the default size.

    Returns:
        The folder.

    Raises:
        WeightsError: `folder` exists and is not an empty folder.
        OSError: the folder cannot be written.

    Example:
        ```python
        import jaxasr

        asr = jaxasr.load("tiny.en")
        folder = jaxasr.save(asr, "copy-of-tiny.en")
        ```
    """
    model = getattr(model_or_asr, "model", model_or_asr)
    checkpoint = checkpoint or getattr(model_or_asr, "checkpoint", None)
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WeightsError(
            f"{folder}: expected a new or empty folder to save into, found files. "
            "Remove it or give another name."
        )
    # The hidden folder next to the target is on the same disk, so that renaming it is atomic.
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        _write_files(model, partial, checkpoint, shard_bytes)
        partial.replace(folder)
    except BaseException as problem:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(problem, SafetensorError):  # for example, the disk is full
            remedy = "Free space, or save elsewhere. The incomplete folder was removed."
            raise OSError(
                f"{folder}: expected to write the weights there, got {problem}. {remedy}"
            ) from problem
        raise
    return folder


def _write_files(
    model: SpeechModel, folder: Path, checkpoint: Checkpoint | None, shard_bytes: int
) -> None:
    config = model.config
    is_whisper = config.audio_language is None
    tensors = ((_name_in_file(name, config), array) for name, array in _iterate_tensors(model))
    tensor_files.write(tensors, folder, shard_bytes)
    write_config = config_json if is_whisper else language_settings.config_json
    _write_json(folder / "config.json", write_config(config))
    write_generation = generation_json if is_whisper else language_settings.generation_json
    _write_json(folder / "generation_config.json", write_generation(config, checkpoint))
    _write_json(folder / "preprocessor_config.json", _make_preprocessor_json(config))
    if checkpoint is None or checkpoint.tokenizer_file is None:
        return
    if is_whisper:
        _write_tokenizer(checkpoint.tokenizer_file, folder / "tokenizer.json", config.n_vocab)
        _write_json(
            folder / "tokenizer_config.json",
            {"tokenizer_class": "WhisperTokenizer", "model_max_length": config.n_text_ctx},
        )
    else:
        for path in tokenizer_files.all_files(checkpoint.tokenizer_file.parent):
            shutil.copyfile(path, folder / path.name)


def _name_in_file(name: str, config: Config) -> str:
    if config.audio_language is None:
        return whisper_names.from_openai(name)
    return language_names.from_checkpoint(name, config.family)


def _write_tokenizer(source: Path, path: Path, n_vocab: int) -> None:
    if source.name == path.name:
        shutil.copyfile(source, path)
    else:
        path.write_text(tokenizer_files.read(source, n_vocab).to_str(), "utf-8")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def to_tensors(model: SpeechModel) -> dict[str, np.ndarray]:
    """Returns all tensors under OpenAI's names, in torch's layouts. This inverts `assemble`.

    Each tensor has the dtype of the model's parameter.

    Example:
        ```python
        from jaxasr.weights.saving import to_tensors

        to_tensors(asr.model)["encoder.conv1.weight"].shape  # (384, 80, 3)
        ```
    """
    return dict(_iterate_tensors(model))


def _iterate_tensors(model: SpeechModel) -> Iterator[tuple[str, np.ndarray]]:
    for parameter, array in parameters_by_name(model).items():
        name, array = tensor_name(parameter), np.asarray(jax.device_get(array))
        for i, layer in enumerate(array if "{}" in name else array[None]):
            yield name.format(i), np.ascontiguousarray(convert_layout(parameter, layer))


def _find_control_ids(config: Config) -> dict[str, int]:
    """Returns the ids of control tokens. They follow from the vocabulary size.

    Source: openai/whisper `tokenizer.py`.
    """
    # The order of ids is: text, end of text, start, languages, then the tokens of `names`.
    if config.n_vocab < _ENGLISH_VOCAB:  # a toy model without control tokens
        return dict.fromkeys(("eot", "sot"), config.n_vocab - 1)
    eot = 50_257 if config.n_vocab >= _MULTILINGUAL_VOCAB else 50_256
    n_languages = max(config.n_vocab - _MULTILINGUAL_VOCAB, 0) + 99
    first_task_id = eot + 2 + n_languages
    names = ("translate", "transcribe", "startoflm", "startofprev", "no_speech", "no_timestamps")
    return {"eot": eot, "sot": eot + 1, **{name: first_task_id + i for i, name in enumerate(names)}}


def config_json(config: Config) -> dict[str, Any]:
    """Returns `config.json` of a `WhisperForConditionalGeneration` with these dimensions.

    Example:
        >>> import jaxasr
        >>> config_json(jaxasr.SIZES["tiny.en"])["d_model"]
        384
    """
    ids = _find_control_ids(config)
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        **{key: getattr(config, field) for field, key in whisper_names.CONFIG_KEYS.items()},
        "num_hidden_layers": config.n_audio_layer,
        "encoder_ffn_dim": 4 * config.n_audio_state,
        "decoder_ffn_dim": 4 * config.n_text_state,
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": config.tied,
        "is_encoder_decoder": True,
        "decoder_start_token_id": ids["sot"],
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), ids["eot"]),
        "dtype": config.param_dtype,
    }


def generation_json(config: Config, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """Returns `generation_config.json`: control tokens, alignment heads and suppressed tokens.

    Args:
        config: dimensions of the model.
        checkpoint: source of the alignment heads and the suppressed tokens. None: neither.

    Example:
        >>> import jaxasr
        >>> generation_json(jaxasr.SIZES["tiny.en"], None)["decoder_start_token_id"]
        50257
    """
    ids = _find_control_ids(config)
    settings: dict[str, Any] = {
        "decoder_start_token_id": ids["sot"],
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), ids["eot"]),
        "max_length": config.n_text_ctx,
        "is_multilingual": config.n_vocab >= _MULTILINGUAL_VOCAB,
    }
    if config.n_vocab >= _ENGLISH_VOCAB:
        settings |= {
            "no_timestamps_token_id": ids["no_timestamps"],
            "prev_sot_token_id": ids["startofprev"],
            "max_initial_timestamp_index": 50,
        }
    if settings["is_multilingual"]:
        n_languages = ids["translate"] - ids["sot"] - 1
        settings["lang_to_id"] = {
            f"<|{code}|>": ids["sot"] + 1 + i
            for i, code in enumerate(list(LANGUAGES)[:n_languages])
        }
        settings["task_to_id"] = {task: ids[task] for task in ("transcribe", "translate")}
    if checkpoint is None:
        return settings
    if checkpoint.alignment_heads is not None:
        settings["alignment_heads"] = [list(pair) for pair in checkpoint.alignment_heads]
    if checkpoint.suppress_ids is not None:
        settings["suppress_tokens"] = list(checkpoint.suppress_ids)
    if checkpoint.suppress_ids_begin is not None:
        settings["begin_suppress_tokens"] = list(checkpoint.suppress_ids_begin)
    return settings


def _make_preprocessor_json(config: Config) -> dict[str, Any]:
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": _PROCESSORS[config.family],
        "feature_size": config.n_mels,
        "sampling_rate": 16_000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": -(-config.n_samples // SAMPLE_RATE),  # seconds, rounded up
        "padding_value": 0.0,
        "return_attention_mask": config.audio_language is not None,
    }
