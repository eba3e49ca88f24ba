"""Lists the languages of multilingual checkpoints by code and English name."""

from typing import Any

# `tokenizer.LANGUAGES` of openai/whisper, in the order of token ids. large-v3 added the last one.
_NAMES = """
en english, zh chinese, de german, es spanish, ru russian, ko korean, fr french, ja japanese, pt
portuguese, tr turkish, pl polish, ca catalan, nl dutch, ar arabic, sv swedish, it italian, id
indonesian, hi hindi, fi finnish, vi vietnamese, he hebrew, uk ukrainian, el greek, ms malay, cs
czech, ro romanian, da danish, hu hungarian, ta tamil, no norwegian, th thai, ur urdu, hr
croatian, bg bulgarian, lt lithuanian, la latin, mi maori, ml malayalam, cy welsh, sk slovak, te
telugu, fa persian, lv latvian, bn bengali, sr serbian, az azerbaijani, sl slovenian, kn
kannada, et estonian, mk macedonian, br breton, eu basque, is icelandic, hy armenian, ne nepali,
mn mongolian, bs bosnian, kk kazakh, sq albanian, sw swahili, gl galician, mr marathi, pa
punjabi, si sinhala, km khmer, sn shona, yo yoruba, so somali, af afrikaans, oc occitan, ka
georgian, be belarusian, tg tajik, sd sindhi, gu gujarati, am amharic, yi yiddish, lo lao, uz
uzbek, fo faroese, ht haitian creole, ps pashto, tk turkmen, nn nynorsk, mt maltese, sa
sanskrit, lb luxembourgish, my myanmar, bo tibetan, tl tagalog, mg malagasy, as assamese, tt
tatar, haw hawaiian, ln lingala, ha hausa, ba bashkir, jw javanese, su sundanese, yue cantonese
"""
# Other names of these languages.
_ALIASES = """
my burmese, ca valencian, nl flemish, ht haitian, lb letzeburgesch, ps pushto, pa panjabi, ro
moldavian, ro moldovan, si sinhalese, es castilian, zh mandarin
"""


def _parse(text: str) -> list[tuple[str, str]]:
    """Returns the (code, name) pairs of a text such as "en english, zh chinese"."""
    entries = [entry.strip().partition(" ") for entry in text.replace("\n", " ").split(",")]
    return [(code, name) for code, _, name in entries]


# English name of each code.
LANGUAGES: dict[str, str] = dict(_parse(_NAMES))
_CODES: dict[str, str] = {name: code for code, name in _parse(_NAMES) + _parse(_ALIASES)}
# Released models that transcribe only English.
ENGLISH_ONLY = tuple(
    f"{size}.en" for size in ("tiny", "base", "small", "medium", "distil-small", "distil-medium")
)
# Codes of languages that are written without spaces between words.
WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})


def language_code(language: Any) -> str:
    """Returns the code of a language.

    Args:
        language: a code or an English name, in any case.

    Raises:
        ValueError: the language is unknown; the message lists the codes.

    Example:
        >>> language_code("German")
        'de'
    """
    name = str(language).lower()
    code = _CODES.get(name, name)
    if code not in LANGUAGES:
        raise ValueError(
            f"language: expected a code or an English name, got {language!r}. "
            f"Codes: {', '.join(LANGUAGES)}."
        )
    return code
