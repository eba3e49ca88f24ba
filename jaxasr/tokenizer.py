"""Text to token ids and back, the special tokens of a checkpoint, and the prompts that tell it what to do."""

import dataclasses
import functools
import os
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import SupportsIndex

import tokenizers

from jaxasr.languages import LANGUAGES, WITHOUT_SPACES, language_code
from jaxasr.weights import tokenizer_files
from jaxasr.weights.tokenizer_files import N_TIMESTAMPS as N_TIMESTAMPS

TASKS = ("transcribe", "translate")
SECONDS_PER_TIMESTAMP = 0.02
_SYMBOLS = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *[
        "<<",
        ">>",
        "<<<",
        ">>>",
        "--",
        "---",
        "-(",
        "-[",
        "('",
        '("',
        "((",
        "))",
        "(((",
        ")))",
        "[[",
        "]]",
        "{{",
        "}}",
        "♪♪",
        "♪♪♪",
    ],
)
_NOTES = "♩♪♫♬♭♮♯"  # several tokens each, of which the first begins no letter
MAX_PREVIOUS = 223  # half of the 448 positions, less <|startofprev|> (openai/whisper `decoding.py`)


@dataclasses.dataclass(frozen=True)
class Special:
    """Ids of a checkpoint's control tokens; `timestamp_begin` is <|0.00|>, `languages` maps a code to its id."""

    eot: int
    sot: int
    translate: int
    transcribe: int
    startoflm: int
    startofprev: int
    no_speech: int
    no_timestamps: int
    timestamp_begin: int
    languages: Mapping[str, int]


_NAMES = {
    "eot": ("<|endoftext|>",),
    "sot": ("<|startoftranscript|>",),
    "translate": ("<|translate|>",),
    "transcribe": ("<|transcribe|>",),
    "startoflm": ("<|startoflm|>",),
    "startofprev": ("<|startofprev|>",),
    "no_speech": ("<|nospeech|>", "<|nocaptions|>"),  # renamed between checkpoints
    "no_timestamps": ("<|notimestamps|>",),
}


def _special(tokenizer: tokenizers.Tokenizer) -> Special:
    found = {
        field: next((i for name in names if (i := tokenizer.token_to_id(name)) is not None), None)
        for field, names in _NAMES.items()
    }
    missing = [_NAMES[field][0] for field, id_ in found.items() if id_ is None]
    if missing:
        names = ", ".join(missing)
        raise ValueError(
            f"tokenizer: expected Whisper's control tokens, {names} missing. Use the checkpoint's own tokenizer.json."
        )
    languages = {
        code: id_ for code in LANGUAGES if (id_ := tokenizer.token_to_id(f"<|{code}|>")) is not None
    }
    return Special(**found, timestamp_begin=found["no_timestamps"] + 1, languages=languages)


@functools.cache
def _byte_of_char() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes, backwards."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + i): byte for i, byte in enumerate(hidden)
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """A checkpoint's tokenizer: a thin frozen layer over `tokenizers.Tokenizer`."""

    inner: tokenizers.Tokenizer
    special: Special
    n_vocab: int  # rows of the embedding: tokens of text, control tokens, 1,501 times, and what a fine-tune added

    @classmethod
    def from_file(cls, path: str | os.PathLike, n_vocab: int | None = None) -> "Tokenizer":
        """Reads a tokenizer from `tokenizer.json`, from `vocab.json` with `merges.txt`, or from their folder.

        Args:
            path: the file or folder.
            n_vocab: tokens of the model it belongs to (default: all it has). A model may have more.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not Whisper's, or has more tokens than the model.
        """
        path = Path(path)
        file = tokenizer_files.find(path) if path.is_dir() else path
        if file is None or not file.exists():
            raise FileNotFoundError(
                f"path: expected a tokenizer.json, or vocab.json with merges.txt, found nothing at {str(path)!r}."
            )
        inner = tokenizer_files.read(file, n_vocab)
        inner.encode_special_tokens = True  # text that spells a control token stays text
        special = _special(inner)
        least = special.timestamp_begin + N_TIMESTAMPS
        if n_vocab is not None and n_vocab < least:
            raise ValueError(
                f"{file}: expected a tokenizer for the {n_vocab} tokens of the model, found one of {least}. "
                "Give the tokenizer that the model was trained with."
            )
        return cls(inner, special, n_vocab or max(least, inner.get_vocab_size()))

    @property
    def is_multilingual(self) -> bool:
        return (
            self.special.eot != 50_256
        )  # the .en checkpoints use GPT-2's vocabulary, whose end is 50,256

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; no control tokens are added. Speech starts with a space: `encode(" Hello")`."""
        return self.inner.encode(text, add_special_tokens=False).ids

    def is_time(self, id_: int) -> bool:
        """Whether a token is a timestamp."""
        return 0 <= id_ - self.special.timestamp_begin < N_TIMESTAMPS

    def is_text(self, id_: int) -> bool:
        """Whether a token is text: neither control token nor timestamp. Fine-tunes add theirs after the timestamps."""
        return id_ < self.special.eot or id_ >= self.special.timestamp_begin + N_TIMESTAMPS

    def decode(self, ids: Iterable[SupportsIndex], special: bool = False) -> str:
        """Text of `ids`; control tokens and timestamps are left out, or spelled (`<|1.20|>`) with `special=True`.

        Raises `ValueError` for an id outside the vocabulary.
        """
        text, run = [], []
        for id_ in self._checked(ids):
            if self.is_text(id_):
                run.append(id_)
            elif special:
                text += [self.inner.decode(run), self._spelled(id_)]
                run = []
        return "".join([*text, self.inner.decode(run)])

    def token_texts(self, ids: Iterable[SupportsIndex]) -> list[str]:
        r"""Each token alone, for display; bytes that are part of a character show as `\xe3`."""
        return [
            self._shown(i) if i < self.special.eot else self._spelled(i) for i in self._checked(ids)
        ]

    def _checked(self, ids: Iterable[SupportsIndex]) -> list[int]:
        ids = [int(i) for i in ids]
        bad = [i for i in ids if not 0 <= i < self.n_vocab]
        if bad:
            raise ValueError(
                f"ids: expected token ids from 0 to {self.n_vocab - 1}, got {bad[:5]}."
            )
        return ids

    def _shown(self, id_: int) -> str:
        return bytes(_byte_of_char()[char] for char in self.inner.id_to_token(id_)).decode(
            "utf-8", "backslashreplace"
        )

    def _spelled(self, id_: int) -> str:
        if self.is_time(id_):
            return f"<|{self.seconds(id_):.2f}|>"
        return self.inner.id_to_token(id_) or f"<|{id_}|>"

    def seconds(self, timestamp: SupportsIndex) -> float:
        """Time in the window that a timestamp token stands for."""
        return (int(timestamp) - self.special.timestamp_begin) * SECONDS_PER_TIMESTAMP

    def prompt(
        self,
        language: str | None = None,
        task: str = "transcribe",
        timestamps: bool = False,
        previous: str | Iterable[SupportsIndex] | None = None,
    ) -> list[int]:
        """The tokens before the text: `[<|startofprev|> previous] <|startoftranscript|> [language task] [<|notimestamps|>]`.

        Args:
            language: a code or a name; None is English. English-only checkpoints take no other.
            task: "transcribe", or "translate" into English (multilingual checkpoints).
            timestamps: whether the model is to write timestamps.
            previous: earlier text, or its ids; the last 223 tokens are kept.

        Raises:
            ValueError: an unknown language or task, or one this checkpoint does not have.
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
        """Ids of earlier text as the model saw it in training, with a space before it; ids stay as they are."""
        if isinstance(previous, str):
            return self.encode(" " + previous.strip()) if previous.strip() else []
        return [] if previous is None else self._checked(previous)

    def sot_sequence(self, language: str | None = None, task: str = "transcribe") -> list[int]:
        """`<|startoftranscript|>`, and in multilingual checkpoints language and task. Raises as `prompt` does."""
        language_id = self.language_id(language or "en")
        if task not in TASKS:
            raise ValueError(f"task: expected one of {TASKS}, got {task!r}.")
        if self.is_multilingual:
            return [self.special.sot, language_id, getattr(self.special, task)]
        if task != "transcribe":
            raise ValueError(
                "task: this checkpoint is English-only and cannot translate. Use a multilingual one (a name without .en)."
            )
        return [self.special.sot]

    def language_id(self, language: str) -> int:
        """Id of a language's token. Raises `ValueError` for one that is unknown, or that this checkpoint does not have."""
        code = language_code(language)
        if not self.is_multilingual and code != "en":
            raise ValueError(
                f"language: this checkpoint is English-only, got {language!r}. Use a multilingual one (a name without .en)."
            )
        if code not in self.special.languages:
            raise ValueError(
                f"language: this checkpoint has no {LANGUAGES[code]} ({code}); large-v3 and later have it."
            )
        return self.special.languages[code]

    @functools.cached_property
    def non_speech(self) -> tuple[int, ...]:
        """Ids that spell no speech: brackets, notes, dashes at the start of a word; kept from being generated by default.

        Source: openai/whisper `Tokenizer.non_speech_tokens`.
        """
        spelled = [
            (symbol, self.encode(lead + symbol))
            for symbol in [*_SYMBOLS, *_NOTES]
            for lead in ("", " ")
        ]
        ids = {tokens[0] for symbol, tokens in spelled if len(tokens) == 1 or symbol in _NOTES}
        return tuple(sorted(ids | {self.encode(" -")[0], self.encode(" '")[0]}))

    def split_words(
        self, ids: Iterable[SupportsIndex], language: str | None = None
    ) -> list[tuple[str, list[int]]]:
        """Words with their token ids, in order; joined, the words are the text.

        Split at spaces and punctuation; at every whole character in languages that write none.
        Source: openai/whisper `Tokenizer.split_to_word_tokens`.
        """
        pieces = self._split_on_unicode(ids)
        return (
            pieces
            if language_code(language or "en") in WITHOUT_SPACES
            else self._join_to_spaces(pieces)
        )

    def _split_on_unicode(self, ids: Iterable[SupportsIndex]) -> list[tuple[str, list[int]]]:
        ids = self._checked(ids)
        full, offset = self.decode(ids, special=True), 0
        pieces: list[tuple[str, list[int]]] = []
        current: list[int] = []
        for id_ in ids:
            current = [*current, id_]
            text = self.decode(current, special=True)
            unfinished = text.find(
                "\ufffd"
            )  # half a character, unless the whole text has the mark there too
            if unfinished < 0 or full[offset + unfinished : offset + unfinished + 1] == "\ufffd":
                pieces.append((text, current))
                current, offset = [], offset + len(text)
        return pieces

    def _join_to_spaces(self, pieces: list[tuple[str, list[int]]]) -> list[tuple[str, list[int]]]:
        words: list[tuple[str, list[int]]] = []
        for text, ids in pieces:
            starts = (
                ids[0] >= self.special.eot
                or text.startswith(" ")
                or text.strip() in string.punctuation
            )
            if starts or not words:
                words.append((text, ids))
            else:
                words[-1] = (words[-1][0] + text, words[-1][1] + ids)
        return words
