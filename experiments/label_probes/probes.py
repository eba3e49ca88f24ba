"""Defines the label probes, with notes on the data and the numbers of a paper.

The paper is arXiv 2508.15882, whose experiment E1 the probes follow.
"""

import dataclasses

PENALTY = 100.0  # λ of all probes, fixed beforehand; strong, because features outnumber recordings


@dataclasses.dataclass(frozen=True)
class LabelProbe:
    """A probe of one label on one data set.

    Attributes:
        name: base name of the probe's files.
        title: heading of the section on the page.
        manifest: name of the manifest (`experiments.label_probes.manifests`).
        label: the label to predict.
        group: label whose values are kept within one fold; None for folds by row.
        options: further options of `jaxasr probe`.
        noise: whether noisy copies of the recordings are added.
        paper: the paper's numbers.
        note: text about the data.
    """

    name: str
    title: str
    manifest: str
    label: str
    group: str | None = None
    options: tuple[str, ...] = ("--seeds", "3")
    noise: bool = False
    paper: str = "—"
    note: str = ""


_GENDER = "94.6 % at layer 25 of 32 (large-v3; LibriSpeech, 2,000 train, 500 test)"
_CLEAN = "90.0 % at layer 27 of 32 (large-v3; LibriSpeech clean against other)"
_ACCENT = "97.0 % at layer 22 of 32 (large-v3; four accents, 2,400 train, 337 test)"
_LIBRI = (
    "One clip per speaker, so test speakers are always new. Smaller models; 176 clips instead of "
    "2,500."
)
_TIMIT = (
    "11 speakers, test speakers new; every speaker reads the same two sentences and eight others."
)
_RAVDESS = (
    "16 actors, two sentences, three emotions: the words do not predict gender. Test speakers new."
)
_REGION = (
    "Eleven speakers, one to three per region, so a region is nearly a speaker: folds share no "
    "sentence, but they do share speakers."
)
_ALNUM = "Four languages with 8 to 20 clips, two per speaker; test speakers new."
_FSDD = "Four male speakers, one of each accent: here an accent is a speaker. Test digits are new."
_SEVEN = "Seven speakers, seven clips each; recordings are new, sessions may not be."
_NOISE = (
    "The same recordings with and without ESC-10 noise at this ratio; test speakers new. The "
    "paper's two classes are two LibriSpeech subsets, with different voices and sessions; one of "
    "the two is not available here."
)
_PHONE = "39 classes folded from 61, frames of 20 ms, 3,000 sampled; test speakers new."
_SEEDS = ("--seeds", "3")
# Types of the control task, which gives every type a random label.
_TYPES = ("--types", "speaker")

PROBES = (
    LabelProbe(
        "gender-libri",
        "Gender, LibriSpeech",
        "libri_train100",
        "gender",
        "speaker",
        paper=_GENDER,
        note=_LIBRI,
    ),
    LabelProbe(
        "gender-timit",
        "Gender, TIMIT",
        "timit",
        "gender",
        "speaker",
        (*_SEEDS, "--folds", "4", *_TYPES),
        paper=_GENDER,
        note=_TIMIT,
    ),
    LabelProbe(
        "gender-ravdess",
        "Gender, fixed sentences",
        "ravdess",
        "gender",
        "speaker",
        (*_SEEDS, *_TYPES),
        paper=_GENDER,
        note=_RAVDESS,
    ),
    LabelProbe(
        "dialect-timit",
        "Dialect region, TIMIT",
        "timit",
        "accent",
        "sentence",
        paper=_ACCENT,
        note=_REGION,
    ),
    LabelProbe(
        "accent-alnum",
        "Native language, addresses and digits read in English",
        "alnum_l1",
        "native_language",
        "speaker",
        (*_SEEDS, "--folds", "4", "--min-count", "8"),
        paper=_ACCENT,
        note=_ALNUM,
    ),
    LabelProbe(
        "speaker-fsdd",
        "Speaker (and accent), spoken digits",
        "fsdd",
        "speaker",
        "digit",
        note=_FSDD,
    ),
    LabelProbe(
        "speaker-libri",
        "Speaker, LibriSpeech",
        "libri_test_other",
        "speaker",
        None,
        (*_SEEDS, "--where", "noise=clean"),
        True,
        note=_SEVEN,
    ),
    LabelProbe(
        "noise-libri",
        "Clean or in noise at 10 dB",
        "libri_test_other",
        "noise",
        "speaker",
        (*_SEEDS, "--where", "noise=clean,snr:10:noise_esc10"),
        True,
        _CLEAN,
        _NOISE,
    ),
    LabelProbe(
        "noise3-libri",
        "Clean, at 10 dB or at 0 dB",
        "libri_test_other",
        "noise",
        "speaker",
        _SEEDS,
        True,
        _CLEAN,
        _NOISE,
    ),
    LabelProbe(
        "phone-timit",
        "Phone of a frame, TIMIT",
        "timit",
        "phone",
        "speaker",
        ("--min-count", "40", "--max-rows", "3000"),
        note=_PHONE,
    ),
)
