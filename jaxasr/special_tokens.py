"""Finds the control tokens of a tokenizer, and lists symbols that are not spoken."""

import dataclasses
from collections.abc import Mapping

import tokenizers

from jaxasr.languages import LANGUAGES

# Spellings of each control token. The first one that the tokenizer has is used.
_SPELLINGS = {
    "eot": ("<|endoftext|>",),
    "sot": ("<|startoftranscript|>",),
    "translate": ("<|translate|>",),
    "transcribe": ("<|transcribe|>",),
    "startoflm": ("<|startoflm|>",),
    "startofprev": ("<|startofprev|>",),
    "no_speech": ("<|nospeech|>", "<|nocaptions|>"),  # the name depends on the checkpoint
    "no_timestamps": ("<|notimestamps|>",),
}

# Symbols that openai/whisper suppresses by default (`Tokenizer.non_speech_tokens`).
_LONG_SYMBOLS = "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪"
SYMBOLS = (*'"#()*+/:;<=>@[\\]^_`{|}~「」『』', *_LONG_SYMBOLS.split())
# A note is spelled with several tokens. Suppressing the first token of a note suppresses no letter,
# because the spelling of no letter starts with it.
NOTES = "♩♪♫♬♭♮♯"


@dataclasses.dataclass(frozen=True)
class Special:
    """Token ids of a checkpoint's control tokens.

    Attributes:
        eot: <|endoftext|>.
        sot: <|startoftranscript|>.
        translate: <|translate|>.
        transcribe: <|transcribe|>.
        startoflm: <|startoflm|>.
        startofprev: <|startofprev|>.
        no_speech: <|nospeech|>.
        no_timestamps: <|notimestamps|>.
        timestamp_begin: <|0.00|>.
        languages: id of the token of each language code, such as <|en|>.
    """

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


def find_special(tokenizer: tokenizers.Tokenizer) -> Special:
    """Returns the control tokens of `tokenizer`.

    Raises:
        ValueError: control tokens are missing; the message names them.
    """
    ids: dict[str, int] = {}
    for field, names in _SPELLINGS.items():
        present = [id_ for name in names if (id_ := tokenizer.token_to_id(name)) is not None]
        if present:
            ids[field] = present[0]
    missing = [names[0] for field, names in _SPELLINGS.items() if field not in ids]
    if missing:
        raise ValueError(
            f"tokenizer: expected Whisper's control tokens, {', '.join(missing)} missing. "
            "Use the tokenizer.json of the checkpoint."
        )
    languages = {
        code: id_ for code in LANGUAGES if (id_ := tokenizer.token_to_id(f"<|{code}|>")) is not None
    }
    return Special(**ids, timestamp_begin=ids["no_timestamps"] + 1, languages=languages)
