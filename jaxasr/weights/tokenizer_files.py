"""Reads the files in which a checkpoint carries its tokenizer, as transformers reads them.

`tokenizer.json` holds all of it. Older folders have `vocab.json` and `merges.txt`, and their control
tokens in `tokenizer_config.json` or `added_tokens.json`. CTranslate2 folders may have a list of
tokens, `vocabulary.json` or `vocabulary.txt`, which tells less: it can only be compared.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from jaxasr.languages import LANGUAGES
from jaxasr.weights import files
from jaxasr.weights.errors import WeightsError, damaged, reading

TOKENIZER = "tokenizer.json"
_VOCAB, _MERGES = "vocab.json", "merges.txt"
_LISTS = ("vocabulary.json", "vocabulary.txt")
N_TIMESTAMPS = 1501  # <|0.00|> to <|30.00|>, after the control tokens
_RELEASED = {51_864: 99, 51_865: 99, 51_866: 100}  # tokens -> languages
_AFTER_LANGUAGES = (
    "translate",
    "transcribe",
    "startoflm",
    "startofprev",
    "nospeech",
    "notimestamps",
)
_MAX_BYTES = 1 << 25  # the largest released tokenizer has 4 MB
_REMEDY = "Give the model's own tokenizer: a tokenizer.json, or vocab.json with merges.txt."


def find(folder: Path) -> Path | None:
    """Returns the file that a checkpoint's tokenizer is read from; None where it has none."""
    return next((folder / name for name in (TOKENIZER, _VOCAB) if (folder / name).is_file()), None)


def read(path: Path, n_vocab: int | None = None) -> tokenizers.Tokenizer:
    """Returns the tokenizer of a `tokenizer.json`, or of a `vocab.json` and the files beside it.

    Tokens that `tokenizer_config.json` or `added_tokens.json` add are part of it. Where no file has
    the control tokens, they are those of a released model with `n_vocab` tokens, if there is one.

    Raises:
        WeightsError: the files are damaged, do not belong together, or are no byte-level BPE.
    """
    files.check_file(path)
    if path.stat().st_size > _MAX_BYTES:
        raise damaged(
            path, f"at most {_MAX_BYTES} bytes of a tokenizer", path.stat().st_size, _REMEDY
        )
    inner = _from_vocabulary(path) if path.name == _VOCAB else _from_json(path)
    if not isinstance(inner.model, models.BPE) or not isinstance(inner.decoder, decoders.ByteLevel):
        kind = f"{type(inner.model).__name__} and {type(inner.decoder).__name__}"
        raise damaged(path, "a byte-level BPE, as every Whisper has", kind, _REMEDY)
    _add(inner, path.parent)
    if n_vocab in _RELEASED and inner.token_to_id("<|startoftranscript|>") is None:
        _add_control(inner, path, n_vocab)
    return inner


def _from_json(path: Path) -> tokenizers.Tokenizer:
    with reading(path, "a tokenizer.json of the tokenizers library"):
        return tokenizers.Tokenizer.from_file(str(path))


def _from_vocabulary(path: Path) -> tokenizers.Tokenizer:
    merges = path.parent / _MERGES
    if not merges.is_file():
        raise damaged(merges, "the merges that belong to vocab.json", "none", _REMEDY)
    files.check_file(merges)
    with reading(path, "the vocabulary and merges of a byte-level BPE"):
        model = models.BPE.from_file(str(path), str(merges))
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def _add(inner: tokenizers.Tokenizer, folder: Path) -> None:
    """Adds the tokens that the other files of `folder` name and the tokenizer does not have yet."""
    for id_, token, path in sorted(_added(folder), key=lambda found: found[0]):
        if inner.token_to_id(token.content) is not None:
            continue
        inner.add_special_tokens([token]) if token.special else inner.add_tokens([token])
        if (given := inner.token_to_id(token.content)) != id_:
            remedy = "Save the tokenizer again with transformers, which writes a tokenizer.json."
            raise damaged(path, f"{token.content!r} as the next token, {given}", id_, remedy)


def _add_control(inner: tokenizers.Tokenizer, path: Path, n_vocab: int) -> None:
    languages = list(LANGUAGES)[: _RELEASED[n_vocab]]
    names = ["endoftext", "startoftranscript", *languages, *_AFTER_LANGUAGES]
    inner.add_special_tokens([f"<|{name}|>" for name in names])
    first = n_vocab - N_TIMESTAMPS - len(names)
    found = [inner.token_to_id(f"<|{name}|>") for name in names]
    if found != list(range(first, first + len(names))):
        raise damaged(
            path, f"{first} words before the control tokens of {n_vocab} tokens", found[0], _REMEDY
        )


def _added(folder: Path) -> Iterator[tuple[int, AddedToken, Path]]:
    path = folder / "tokenizer_config.json"
    listed = files.read_json(path).get("added_tokens_decoder") if path.is_file() else None
    if listed:
        with reading(path, "added_tokens_decoder of ids to tokens"):
            yield from [(int(id_), AddedToken(**token), path) for id_, token in listed.items()]
        return
    path = folder / "added_tokens.json"
    special = _special(folder) if path.is_file() else set()
    for content, id_ in (files.read_json(path) if path.is_file() else {}).items():
        with reading(path, "tokens with their ids"):
            token = AddedToken(
                content, special=content in special, normalized=content not in special
            )
            yield int(id_), token, path


def _special(folder: Path) -> set[str]:
    """The tokens that `special_tokens_map.json` calls special."""
    path = folder / "special_tokens_map.json"
    named = files.read_json(path) if path.is_file() else {}
    with reading(path, "names of special tokens"):
        values = [
            v for value in named.values() for v in (value if isinstance(value, list) else [value])
        ]
        return {value["content"] if isinstance(value, dict) else value for value in values}


def vocabulary_list(folder: Path) -> Path | None:
    """Returns the list of tokens of a CTranslate2 folder; None where it has none."""
    return next((folder / name for name in _LISTS if (folder / name).is_file()), None)


def check_list(path: Path, inner: tokenizers.Tokenizer) -> None:
    """Raises `WeightsError` unless the list of tokens in `path` is the vocabulary of `inner`."""
    files.check_file(path)
    with reading(path, "a list of tokens"):
        text = path.read_text("utf-8")
        tokens: list[Any] = json.loads(text) if path.suffix == ".json" else text.split("\n")
        wrong = next(
            (i for i, token in enumerate(tokens) if inner.id_to_token(i) not in (token, None)), None
        )
    if wrong is not None:
        found = f"{tokens[wrong]!r} instead of {inner.id_to_token(wrong)!r} as token {wrong}"
        raise WeightsError(
            f"{path}: expected the tokens of OpenAI's tokenizer of this size, found {found}. {_REMEDY}"
        )
