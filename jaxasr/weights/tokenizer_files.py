"""Reads the files of a tokenizer as transformers does.

`tokenizer.json` holds the whole tokenizer. Older folders have `vocab.json` and `merges.txt`, and
control tokens in `tokenizer_config.json` or `added_tokens.json`. CTranslate2 folders may have a
list of tokens in `vocabulary.json` or `vocabulary.txt`. A list cannot encode text, so this module
only compares it with a tokenizer.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from jaxasr.languages import LANGUAGES
from jaxasr.weights import files
from jaxasr.weights.errors import WeightsError, convert_errors, file_error

# Names of files. `tekken.json` is the format of Voxtral.
TOKENIZER, TEKKEN = "tokenizer.json", "tekken.json"
VOCABULARY, _MERGES = "vocab.json", "merges.txt"
_ALL_FILES = (
    *(TOKENIZER, TEKKEN, VOCABULARY, _MERGES),
    *("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"),
    *("chat_template.json", "chat_template.jinja"),
)
_TOKEN_LISTS = ("vocabulary.json", "vocabulary.txt")
N_TIMESTAMPS = 1501  # <|0.00|> to <|30.00|>; their ids follow those of the control tokens
_N_LANGUAGES = {51_864: 99, 51_865: 99, 51_866: 100}  # vocabulary size -> number of languages
# Names of the control tokens after those of languages, in the order of their ids.
_CONTROL_TOKENS_AFTER_LANGUAGES = (
    "translate",
    "transcribe",
    "startoflm",
    "startofprev",
    "nospeech",
    "notimestamps",
)
_MAX_TOKENIZER_BYTES = 1 << 25  # the largest released tokenizer has 4 MB
_REMEDY = "Give the tokenizer of the model: a tokenizer.json, or vocab.json with merges.txt."


def find(folder: Path) -> Path | None:
    """Returns the tokenizer file in the folder of a checkpoint, or None if there is none.

    Example:
        >>> find(Path("no-such-folder")) is None
        True
    """
    names = TOKENIZER, TEKKEN, VOCABULARY
    return next((folder / name for name in names if (folder / name).is_file()), None)


def all_files(folder: Path) -> list[Path]:
    """Returns all files of the tokenizer and its chat template in a folder.

    Example:
        >>> all_files(Path("no-such-folder"))
        []
    """
    return [folder / name for name in _ALL_FILES if (folder / name).is_file()]


def read(path: Path, n_vocab: int | None = None) -> tokenizers.Tokenizer:
    """Reads a tokenizer from `tokenizer.json`, or from `vocab.json` and `merges.txt`.

    Adds the tokens in `tokenizer_config.json` or `added_tokens.json`. If no file has control
    tokens, adds those of the released models with a vocabulary of `n_vocab` tokens.

    Args:
        path: `tokenizer.json` or `vocab.json`.
        n_vocab: size of the model's vocabulary. None: add no control tokens.

    Raises:
        WeightsError: the files are damaged, do not belong together, or are not a byte-level BPE.

    Example:
        ```python
        from jaxasr.weights import tokenizer_files

        tokenizer = tokenizer_files.read(asr.checkpoint.tokenizer_file)
        tokenizer.token_to_id("<|startoftranscript|>")  # 50257
        ```
    """
    files.check_file(path)
    if path.stat().st_size > _MAX_TOKENIZER_BYTES:
        expected = f"at most {_MAX_TOKENIZER_BYTES} bytes of a tokenizer"
        raise file_error(path, expected, path.stat().st_size, _REMEDY)
    tokenizer = _read_vocabulary(path) if path.name == VOCABULARY else _read_tokenizer_json(path)
    if not isinstance(tokenizer.model, models.BPE) or not isinstance(
        tokenizer.decoder, decoders.ByteLevel
    ):
        kind = f"{type(tokenizer.model).__name__} and {type(tokenizer.decoder).__name__}"
        raise file_error(path, "a byte-level BPE, as every Whisper has", kind, _REMEDY)
    _add_tokens(tokenizer, path.parent)
    if n_vocab in _N_LANGUAGES and tokenizer.token_to_id("<|startoftranscript|>") is None:
        _add_control_tokens(tokenizer, path, n_vocab)
    return tokenizer


def _read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    with convert_errors(path, "a tokenizer.json of the tokenizers library"):
        return tokenizers.Tokenizer.from_file(str(path))


def _read_vocabulary(path: Path) -> tokenizers.Tokenizer:
    merges = path.parent / _MERGES
    if not merges.is_file():
        raise file_error(merges, "the merges that belong to vocab.json", "none", _REMEDY)
    files.check_file(merges)
    with convert_errors(path, "the vocabulary and merges of a byte-level BPE"):
        model = models.BPE.from_file(str(path), str(merges))
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _add_tokens(tokenizer: tokenizers.Tokenizer, folder: Path) -> None:
    """Adds the tokens that the other files of `folder` name and the tokenizer lacks."""
    # The library gives each new token the next free id, so tokens are added in order of their ids.
    for id_, token, path in sorted(_read_added_tokens(folder), key=lambda entry: entry[0]):
        if tokenizer.token_to_id(token.content) is not None:
            continue
        add = tokenizer.add_special_tokens if token.special else tokenizer.add_tokens
        add([token])
        actual_id = tokenizer.token_to_id(token.content)
        if actual_id != id_:
            remedy = "Save the tokenizer again with transformers, which writes a tokenizer.json."
            raise file_error(
                path, f"{token.content!r} with the next free id, {actual_id}", id_, remedy
            )


def _add_control_tokens(tokenizer: tokenizers.Tokenizer, path: Path, n_vocab: int) -> None:
    languages = list(LANGUAGES)[: _N_LANGUAGES[n_vocab]]
    names = ["endoftext", "startoftranscript", *languages, *_CONTROL_TOKENS_AFTER_LANGUAGES]
    tokenizer.add_special_tokens([f"<|{name}|>" for name in names])
    # The vocabulary is text, control tokens and timestamps, in this order.
    first = n_vocab - N_TIMESTAMPS - len(names)
    ids = [tokenizer.token_to_id(f"<|{name}|>") for name in names]
    if ids != list(range(first, first + len(names))):
        expected = f"{first} tokens before the control tokens, for {n_vocab} tokens in all"
        raise file_error(path, expected, ids[0], _REMEDY)


def _read_added_tokens(folder: Path) -> Iterator[tuple[int, AddedToken, Path]]:
    """Yields the id, the token and the file of every token that is added to the vocabulary."""
    path = folder / "tokenizer_config.json"
    added = files.read_json(path).get("added_tokens_decoder") if path.is_file() else None
    if added:
        with convert_errors(path, "an added_tokens_decoder that maps ids to tokens"):
            yield from [(int(id_), AddedToken(**token), path) for id_, token in added.items()]
        return
    path = folder / "added_tokens.json"
    if not path.is_file():
        return
    special = _read_special_texts(folder)
    for content, id_ in files.read_json(path).items():
        is_special = content in special
        with convert_errors(path, "tokens with their ids"):
            yield int(id_), AddedToken(content, special=is_special, normalized=not is_special), path


def _read_special_texts(folder: Path) -> set[str]:
    """Returns the texts of the tokens in `special_tokens_map.json`."""
    path = folder / "special_tokens_map.json"
    entries = files.read_json(path) if path.is_file() else {}
    with convert_errors(path, "names of special tokens"):
        values = [
            token
            for entry in entries.values()
            for token in (entry if isinstance(entry, list) else [entry])
        ]
        return {value["content"] if isinstance(value, dict) else value for value in values}


def find_token_list(folder: Path) -> Path | None:
    """Returns the file with a list of tokens in a CTranslate2 folder, or None if there is none.

    Example:
        >>> find_token_list(Path("no-such-folder")) is None
        True
    """
    return next((folder / name for name in _TOKEN_LISTS if (folder / name).is_file()), None)


def check_token_list(path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    """Checks that the list of tokens in `path` is the vocabulary of `tokenizer`.

    Raises:
        WeightsError: the list differs. The message gives the first token that differs.

    Example:
        ```python
        from pathlib import Path

        from jaxasr.weights import tokenizer_files

        tokenizer = tokenizer_files.read(asr.checkpoint.tokenizer_file)
        Path("vocabulary.txt").write_text("!")  # token 0
        tokenizer_files.check_token_list(Path("vocabulary.txt"), tokenizer)
        ```
    """
    files.check_file(path)
    with convert_errors(path, "a list of tokens"):
        text = path.read_text("utf-8")
        tokens: list[Any] = json.loads(text) if path.suffix == ".json" else text.split("\n")
        wrong = [
            i for i, token in enumerate(tokens) if tokenizer.id_to_token(i) not in (token, None)
        ]
    if wrong:
        i = wrong[0]
        raise WeightsError(
            f"{path}: expected OpenAI's tokenizer for this vocabulary size, found {tokens[i]!r} "
            f"instead of {tokenizer.id_to_token(i)!r} as token {i}. {_REMEDY}"
        )
