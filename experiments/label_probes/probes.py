"""Which probes of real recordings there are, what the paper has for each, and what differs."""

import dataclasses

PENALTY = 100.0  # λ, chosen beforehand for all: there are more features than recordings


@dataclasses.dataclass(frozen=True)
class Line:
    """One probe: recordings `of` a manifest, label, `group` that is never on both sides of a fold, further options of the command."""

    name: str
    title: str
    of: str
    label: str
    group: str | None = None
    options: tuple[str, ...] = ("--seeds", "3")
    noise: bool = False
    paper: str = "—"
    note: str = ""


_GENDER = "94.6 % at layer 25 of 32 (large-v3; LibriSpeech, 2,000 train, 500 test)"
_CLEAN = "90.0 % at layer 27 of 32 (large-v3; LibriSpeech clean against other)"
_ACCENT = "97.0 % at layer 22 of 32 (large-v3; four accents, 2,400 train, 337 test)"
_LIBRI = "One clip a speaker, so test speakers are always new. Smaller models; 176 clips instead of 2,500."
_TIMIT = (
    "11 speakers, test speakers new; every speaker says the same two sentences, and eight others."
)
_RAVDESS = (
    "16 actors, two sentences, three emotions: words cannot give gender away. Test speakers new."
)
_REGION = "Eleven speakers, one to three a region, so a region is nearly a speaker: folds share no sentence, but they do share speakers."
_ALNUM = "Four languages with 8 to 20 clips, two a speaker; test speakers new."
_FSDD = "Four male speakers, one of each accent: here an accent is a speaker. Test digits new."
_SEVEN = "Seven speakers, seven clips each; recordings are new, sessions may not be."
_NOISE = (
    "The same recordings again with ESC-10 noise added at this ratio; test speakers new. The paper's two classes are two LibriSpeech "
    "subsets, other voices in other sessions, of which one is not here."
)
_PHONE = "39 classes folded from 61, frames of 20 ms, 3,000 drawn; test speakers new."
_THREE = ("--seeds", "3")
_TYPES = ("--types", "speaker")

LINES = (
    Line(
        "gender-libri",
        "Gender, LibriSpeech",
        "libri_train100",
        "gender",
        "speaker",
        paper=_GENDER,
        note=_LIBRI,
    ),
    Line(
        "gender-timit",
        "Gender, TIMIT",
        "timit",
        "gender",
        "speaker",
        (*_THREE, "--folds", "4", *_TYPES),
        paper=_GENDER,
        note=_TIMIT,
    ),
    Line(
        "gender-ravdess",
        "Gender, fixed sentences",
        "ravdess",
        "gender",
        "speaker",
        (*_THREE, *_TYPES),
        paper=_GENDER,
        note=_RAVDESS,
    ),
    Line(
        "dialect-timit",
        "Dialect region, TIMIT",
        "timit",
        "accent",
        "sentence",
        paper=_ACCENT,
        note=_REGION,
    ),
    Line(
        "accent-alnum",
        "Native language, addresses and digits read in English",
        "alnum_l1",
        "native_language",
        "speaker",
        (*_THREE, "--folds", "4", "--min-count", "8"),
        paper=_ACCENT,
        note=_ALNUM,
    ),
    Line(
        "speaker-fsdd",
        "Speaker (and accent), spoken digits",
        "fsdd",
        "speaker",
        "digit",
        note=_FSDD,
    ),
    Line(
        "speaker-libri",
        "Speaker, LibriSpeech",
        "libri_test_other",
        "speaker",
        None,
        (*_THREE, "--where", "noise=clean"),
        True,
        note=_SEVEN,
    ),
    Line(
        "noise-libri",
        "Clean or in noise at 10 dB",
        "libri_test_other",
        "noise",
        "speaker",
        (*_THREE, "--where", "noise=clean,snr:10:noise_esc10"),
        True,
        _CLEAN,
        _NOISE,
    ),
    Line(
        "noise3-libri",
        "Clean, at 10 dB or at 0 dB",
        "libri_test_other",
        "noise",
        "speaker",
        _THREE,
        True,
        _CLEAN,
        _NOISE,
    ),
    Line(
        "phone-timit",
        "Phone of a frame, TIMIT",
        "timit",
        "phone",
        "speaker",
        ("--min-count", "40", "--max-rows", "3000"),
        note=_PHONE,
    ),
)
