"""Encodes text to token ids, decodes ids to text, and builds decoder prompts."""

import dataclasses
import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import SupportsIndex

import tokenizers

from jaxasr import byte_level
from jaxasr.languages import LANGUAGES, WITHOUT_SPACES, language_code
from jaxasr.special_tokens import NOTES, SYMBOLS, Special as Special, find_special
from jaxasr.weights import tokenizer_files
from jaxasr.weights.tokenizer_files import N_TIMESTAMPS as N_TIMESTAMPS
from jaxasr.word_split import Piece, join_to_words, split_on_characters

# Values of the option `task`.
TASKS = ("transcribe", "translate")
SECONDS_PER_TIMESTAMP = 0.02
# Most tokens of previous text in a prompt. With <|startofprev|> they take half of the 448 positions
# (openai/whisper `decoding.py`).
MAX_PREVIOUS = 223
_ENGLISH_EOT = 50_256  # <|endoftext|> of .en checkpoints, which use GPT-2's vocabulary


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """A checkpoint's tokenizer.

    Attributes:
        inner: the tokenizer of the `tokenizers` library.
        special: ids of the control tokens.
        n_vocab: number of tokens of the model, with tokens that fine-tuning added.

    Example:
        ```python
        import jaxasr

        tokenizer = jaxasr.load("tiny.en").tokenizer
        ids = tokenizer.encode(" Hello")
        text = tokenizer.decode([*tokenizer.prompt(), *ids])  # " Hello"
        ```
    """

    inner: tokenizers.Tokenizer
    special: Special
    n_vocab: int

    @classmethod
    def from_file(cls, path: str | os.PathLike, n_vocab: int | None = None) -> "Tokenizer":
        """Reads a tokenizer from a file, or from the folder of a checkpoint.

        Args:
            path: `tokenizer.json`, `vocab.json` next to `merges.txt`, or their folder.
            n_vocab: number of tokens of the model. None: the number in the file, which may be
                smaller.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is not a Whisper tokenizer, or has more tokens than the model.
        """
        path = Path(path)
        file = tokenizer_files.find(path) if path.is_dir() else path
        if file is None or not file.exists():
            raise FileNotFoundError(
                "path: expected a tokenizer.json, or vocab.json with merges.txt, found nothing at "
                f"{str(path)!r}."
            )
        inner = tokenizer_files.read(file, n_vocab)
        inner.encode_special_tokens = True  # text that spells a control token stays text
        special = find_special(inner)
        n_required = special.timestamp_begin + N_TIMESTAMPS
        if n_vocab is not None and n_vocab < n_required:
            raise ValueError(
                f"{file}: expected a tokenizer for the {n_vocab} tokens of the model, found one of "
                f"{n_required}. Give the tokenizer that the model was trained with."
            )
        return cls(inner, special, n_vocab or max(n_required, inner.get_vocab_size()))

    @property
    def is_multilingual(self) -> bool:
        """Whether the checkpoint supports languages other than English."""
        return self.special.eot != _ENGLISH_EOT

    def encode(self, text: str) -> list[int]:
        """Encodes plain text, without control tokens.

        The first word of a text needs a space before it, because most tokens begin with a space.
        """
        return self.inner.encode(text, add_special_tokens=False).ids

    def is_time(self, id_: int) -> bool:
        """Returns whether a token is a timestamp, <|0.00|> to <|30.00|>."""
        return 0 <= id_ - self.special.timestamp_begin < N_TIMESTAMPS

    def is_text(self, id_: int) -> bool:
        """Returns whether a token is text, and neither a control token nor a timestamp.

        Text tokens that fine-tuning added after the timestamps count as text. Special tokens are
        not text, and neither are ids that the tokenizer does not know.
        """
        return id_ < self.special.eot or id_ in self._text_after_timestamps

    @functools.cached_property
    def _text_after_timestamps(self) -> frozenset[int]:
        special = {id_ for id_, token in self._added_tokens.items() if token.special}
        end = self.special.timestamp_begin + N_TIMESTAMPS
        return frozenset(id_ for id_ in self.inner.get_vocab().values() if id_ >= end) - special

    @functools.cached_property
    def _added_tokens(self) -> dict[int, tokenizers.AddedToken]:
        """Returns the tokens outside the byte-level vocabulary, by id."""
        return self.inner.get_added_tokens_decoder()

    def decode(self, ids: Iterable[SupportsIndex], special: bool = False) -> str:
        """Decodes token ids to text.

        Args:
            ids: token ids.
            special: write control tokens and timestamps, such as `<|1.20|>`. False: leave them out.

        Raises:
            ValueError: an id is outside the vocabulary.
        """
        # Decodes the text between control tokens as a whole, because a character can span tokens.
        text, text_ids = [], []
        for id_ in self._checked_ids(ids):
            if self.is_text(id_):
                text_ids.append(id_)
            elif special:
                text += [self.inner.decode(text_ids), self._control_text(id_)]
                text_ids = []
        return "".join([*text, self.inner.decode(text_ids)])

    def token_texts(self, ids: Iterable[SupportsIndex]) -> list[str]:
        r"""Decodes each token separately, for display.

        A byte that is only part of a character is written as in `\xe3`.

        Raises:
            ValueError: an id is outside the vocabulary.

        Example:
            >>> tokenizer.token_texts(tokenizer.encode(" Hello world"))
            [' Hello', ' world']
        """
        return [
            self._token_text(id_) if self.is_text(id_) else self._control_text(id_)
            for id_ in self._checked_ids(ids)
        ]

    def _checked_ids(self, ids: Iterable[SupportsIndex]) -> list[int]:
        ids = [int(i) for i in ids]
        unknown = [i for i in ids if not 0 <= i < self.n_vocab]
        if unknown:
            raise ValueError(
                f"ids: expected token ids from 0 to {self.n_vocab - 1}, got {unknown[:5]}."
            )
        return ids

    def _token_text(self, id_: int) -> str:
        token = self.inner.id_to_token(id_)
        assert token is not None, id_
        # Added tokens are spelled as plain text, all others in the byte-level alphabet.
        return token if id_ in self._added_tokens else byte_level.decode_token(token)

    def _control_text(self, id_: int) -> str:
        if self.is_time(id_):
            return f"<|{self.seconds(id_):.2f}|>"
        return self.inner.id_to_token(id_) or f"<|{id_}|>"

    def seconds(self, timestamp: SupportsIndex) -> float:
        """Returns the time of a timestamp token, in seconds from the start of the window.

        Example:
            >>> tokenizer.seconds(tokenizer.special.timestamp_begin + 50)
            1.0
        """
        return (int(timestamp) - self.special.timestamp_begin) * SECONDS_PER_TIMESTAMP

    def prompt(
        self,
        language: str | None = None,
        task: str = "transcribe",
        timestamps: bool = False,
        previous: str | Iterable[SupportsIndex] | None = None,
    ) -> list[int]:
        """Returns the ids of the tokens that precede the text.

        The tokens are `[<|startofprev|> previous] <|startoftranscript|> [language task]
        [<|notimestamps|>]`. Those in brackets depend on the arguments and on the checkpoint.

        Args:
            language: a code or an English name. None: English.
            task: "transcribe", or "translate" into English (multilingual checkpoints).
            timestamps: let the model generate timestamps.
            previous: earlier text, or its ids; the last 223 tokens are used.

        Raises:
            ValueError: the language or task is unknown, or the checkpoint does not have it.

        Example:
            >>> tokenizer.token_texts(tokenizer.prompt())
            ['<|startoftranscript|>', '<|notimestamps|>']
        """
        return [
            *self._previous(previous),
            *self.sot_sequence(language, task),
            *([] if timestamps else [self.special.no_timestamps]),
        ]

    def _previous(self, previous: str | Iterable[SupportsIndex] | None) -> list[int]:
        ids = self.encode_previous(previous)
        return [self.special.startofprev, *ids[-MAX_PREVIOUS:]] if ids else []

    def encode_previous(self, previous: str | Iterable[SupportsIndex] | None) -> list[int]:
        """Encodes earlier text with a space before it, as in training. Returns ids unchanged."""
        if isinstance(previous, str):
            return self.encode(" " + previous.strip()) if previous.strip() else []
        return [] if previous is None else self._checked_ids(previous)

    def sot_sequence(self, language: str | None = None, task: str = "transcribe") -> list[int]:
        """Returns `<|startoftranscript|>` and, in multilingual checkpoints, language and task.

        Raises:
            ValueError: the language or task is unknown, or the checkpoint does not have it.
        """
        language_id = self.language_id(language or "en")
        if task not in TASKS:
            raise ValueError(f"task: expected one of {TASKS}, got {task!r}.")
        if self.is_multilingual:
            return [self.special.sot, language_id, getattr(self.special, task)]
        if task != "transcribe":
            raise ValueError(
                "task: this checkpoint is English-only and cannot translate. "
                "Use a multilingual one (a name without .en)."
            )
        return [self.special.sot]

    def language_id(self, language: str) -> int:
        """Returns the id of a language's token.

        Raises:
            ValueError: the language is unknown, or the checkpoint does not have it.
        """
        code = language_code(language)
        if not self.is_multilingual and code != "en":
            raise ValueError(
                f"language: this checkpoint is English-only, got {language!r}. "
                "Use a multilingual one (a name without .en)."
            )
        if code not in self.special.languages:
            raise ValueError(
                f"language: this checkpoint does not have {LANGUAGES[code]} ({code}). "
                "Use large-v3 or a later one."
            )
        return self.special.languages[code]

    @functools.cached_property
    def non_speech(self) -> tuple[int, ...]:
        """Ids of tokens that are not spoken, which `rules_for` suppresses by default.

        The tokens are brackets and other symbols, musical notes, and dashes and quotes that start a
        word.
        Source: openai/whisper `Tokenizer.non_speech_tokens`.
        """
        spellings = [
            (symbol, self.encode(space + symbol))
            for symbol in [*SYMBOLS, *NOTES]
            for space in ("", " ")
        ]
        # Suppressing the tokens of a symbol with several tokens would also suppress other text.
        ids = {tokens[0] for symbol, tokens in spellings if len(tokens) == 1 or symbol in NOTES}
        return tuple(sorted(ids | {self.encode(" -")[0], self.encode(" '")[0]}))

    def split_words(self, ids: Iterable[SupportsIndex], language: str | None = None) -> list[Piece]:
        """Splits token ids into words.

        Splits at spaces and punctuation, or at every character in languages without spaces.
        Source: openai/whisper `Tokenizer.split_to_word_tokens`.

        Args:
            ids: token ids.
            language: a code or an English name. None: English.

        Returns:
            Each word with its token ids, in order. The words concatenate to the text.

        Example:
            >>> tokenizer.split_words(tokenizer.encode(" Hello world"))
            [(' Hello', [18435]), (' world', [995])]
        """
        pieces = split_on_characters(
            self._checked_ids(ids), functools.partial(self.decode, special=True)
        )
        if language_code(language or "en") in WITHOUT_SPACES:
            return pieces
        return join_to_words(pieces, self.is_text)
