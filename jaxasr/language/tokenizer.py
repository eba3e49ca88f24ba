"""Encodes text for a language model, decodes its ids, and builds prompts with audio tokens."""

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import SupportsIndex

import tokenizers

from jaxasr import byte_level
from jaxasr.config import Config
from jaxasr.language.prompts import FORMATS, PromptFormat
from jaxasr.weights import files
from jaxasr.weights.errors import convert_errors, file_error
from jaxasr.weights.tokenizer_files import TEKKEN, VOCABULARY

_REMEDY = "Copy the tokenizer of the same model into the folder."


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageTokenizer:
    """The tokenizer of a language model.

    Attributes:
        inner: the tokenizer of the `tokenizers` library.
        n_vocab: number of tokens of the model.
        format: control tokens and texts of the family's prompts.
        audio_token: id of the token that stands for one step of encoded audio.
        pad: id that pads shorter prompts.
        end: id that ends a text if the files of the model name none.

    Example:
        ```python
        ids = lm_asr.tokenizer.chat(n_audio=25, text="What is this?")
        text = lm_asr.tokenizer.decode(ids, special=True)
        ```
    """

    inner: tokenizers.Tokenizer
    n_vocab: int
    format: PromptFormat
    audio_token: int
    pad: int
    end: int

    @classmethod
    def from_file(cls, path: Path, config: Config) -> "LanguageTokenizer":
        """Reads a tokenizer.

        Args:
            path: `tokenizer.json`, `tekken.json`, or `vocab.json` next to `merges.txt`.
            config: dimensions of the model.

        Raises:
            WeightsError: the file is damaged, lacks a control token of the family's prompts, or
                has another audio token than the model.
        """
        files.check_file(path)
        with convert_errors(path, "a tokenizer"):
            inner = _read(path)
        form = FORMATS[config.family]
        ids = {token: inner.token_to_id(token) for token in form.control}
        absent = [token for token, id_ in ids.items() if id_ is None]
        if absent:
            found = f"none of {', '.join(absent)}"
            raise file_error(path, f"the control tokens of {config.family}", found, _REMEDY)
        audio_token, pad, end = (ids[token] or 0 for token in (form.audio, form.pad, form.end))
        if audio_token != config.audio_token:
            expected = f"{form.audio} with the id {config.audio_token} of config.json"
            raise file_error(path, expected, audio_token, _REMEDY)
        largest = max(inner.get_vocab().values())
        if largest >= config.n_vocab:
            raise file_error(path, f"ids below {config.n_vocab}", largest, _REMEDY)
        return cls(inner, config.n_vocab, form, audio_token, pad, end)

    def encode(self, text: str) -> list[int]:
        """Encodes a text. It may spell control tokens, and none is added.

        Args:
            text: the text.

        Example:
            ```python
            ids = lm_asr.tokenizer.encode(" captain")
            ```
        """
        return self.inner.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[SupportsIndex], special: bool = False) -> str:
        """Decodes token ids to text.

        Args:
            ids: token ids.
            special: write control tokens. False: leave them out.

        Raises:
            ValueError: an id is outside the vocabulary.
        """
        return self.inner.decode(self._checked_ids(ids), skip_special_tokens=not special)

    def token_texts(self, ids: Iterable[SupportsIndex]) -> list[str]:
        r"""Decodes each token separately, for display.

        A byte that is only part of a character is written as in `\xe3`, and an id without a token
        as in `<155947>`.

        Args:
            ids: token ids.

        Raises:
            ValueError: an id is outside the vocabulary.
        """
        return [self._token_text(id_) for id_ in self._checked_ids(ids)]

    def plain(self, n_audio: int, text: str) -> list[int]:
        """Returns the ids of the audio and a text that the model continues.

        Args:
            n_audio: number of audio tokens.
            text: text after the audio.

        Raises:
            ValueError: the text contains the audio token.

        Example:
            ```python
            ids = lm_asr.tokenizer.plain(3, "The speaker is")
            ```
        """
        return self._fill(self.format.plain, n_audio, text)

    def chat(self, n_audio: int, text: str) -> list[int]:
        """Returns the ids of a chat in which a user asks about the audio.

        Args:
            n_audio: number of audio tokens.
            text: the question.

        Raises:
            ValueError: the text contains the audio token.

        Example:
            ```python
            ids = lm_asr.tokenizer.chat(3, "How many people speak?")
            ```
        """
        return self._fill(self.format.chat, n_audio, text)

    def transcription(self, n_audio: int, language: str | None) -> list[int]:
        """Returns the ids that request a transcription.

        Args:
            n_audio: number of audio tokens.
            language: code of the language. None: the model detects it.

        Example:
            ```python
            ids = lm_asr.tokenizer.transcription(3, "en")
            ```
        """
        form = self.format
        text = "" if language is None else form.language.format(language)
        return self._fill(form.transcription, n_audio, text)

    def _fill(self, template: str, n_audio: int, text: str) -> list[int]:
        if self.format.audio in text:
            raise ValueError(
                f"text: expected one without {self.format.audio}, which stands for the audio; got "
                f"{text!r}."
            )
        # `replace`, because a text may contain braces.
        ids = self.encode(template.replace("{}", text))
        at = ids.index(self.audio_token)
        return [*ids[:at], *[self.audio_token] * n_audio, *ids[at + 1 :]]

    @functools.cached_property
    def _added_tokens(self) -> dict[int, tokenizers.AddedToken]:
        return self.inner.get_added_tokens_decoder()

    def _token_text(self, id_: int) -> str:
        token = self.inner.id_to_token(id_)
        if token is None:
            return f"<{id_}>"
        # Added tokens are spelled as plain text, all others in the byte-level alphabet.
        return token if id_ in self._added_tokens else byte_level.decode_token(token)

    def _checked_ids(self, ids: Iterable[SupportsIndex]) -> list[int]:
        ids = [int(i) for i in ids]
        unknown = [i for i in ids if not 0 <= i < self.n_vocab]
        if unknown:
            raise ValueError(
                f"ids: expected token ids from 0 to {self.n_vocab - 1}, got {unknown[:5]}."
            )
        return ids


def _read(path: Path) -> tokenizers.Tokenizer:
    if path.name not in (TEKKEN, VOCABULARY):
        return tokenizers.Tokenizer.from_file(str(path))
    # Importing transformers takes seconds, so it is left to files that only it can convert.
    if path.name == TEKKEN:
        from transformers.integrations.mistral import convert_tekken_tokenizer  # pyright: ignore

        return convert_tekken_tokenizer(str(path)).backend_tokenizer
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path.parent, local_files_only=True).backend_tokenizer
