"""Defines the label probes, with notes on the data and the numbers of a paper.

The paper is arXiv 2508.15882, whose experiment E1 the probes follow.
"""

import dataclasses

# λ of all probes, fixed beforehand. It is large because there are more features than recordings.
PENALTY = 100.0


@dataclasses.dataclass(frozen=True)
class LabelProbe:
    """A probe of one label on one data set.

    Attributes:
        name: base name of the probe's files.
        title: heading of the section on the page.
        manifest: name of the manifest (`experiments.label_probes.manifests`).
        label: the label to predict.
        group: label whose equal values are in one fold; None for folds by row.
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
# Notes on the data.
_LIBRI = (
    "There is one recording per speaker, so the test speakers are never in the training rows. The "
    "paper has 2,500 recordings; there are 176 here."
)
_TIMIT = (
    "There are 11 speakers. All of them read the same two sentences and eight others each. The "
    "test speakers are never in the training rows."
)
_RAVDESS = (
    "16 actors speak the same two sentences in three emotions, so the words do not predict gender. "
    "The test speakers are never in the training rows."
)
_REGION = (
    "There are 11 speakers, one to three per region, so a region is nearly a speaker. Folds share "
    "speakers, but no sentences."
)
_ALNUM = (
    "Each of the four native languages has 8 to 20 recordings, two per speaker. The test speakers "
    "are never in the training rows."
)
_FSDD = (
    "There are four male speakers with four accents, so the accent is the speaker. The test digits "
    "are never in the training rows."
)
_SEVEN_SPEAKERS = (
    "There are seven speakers with seven recordings each. All recordings of a speaker are from one "
    "chapter, so the recording session may predict the speaker."
)
_NOISE = (
    "Each recording occurs without noise, and with ESC-10 noise at the given ratio. The test "
    "speakers are never in the training rows. The paper's two classes are LibriSpeech's subsets "
    "clean and other, which have different speakers and sessions. No data set here has both "
    "subsets."
)
_PHONE = (
    "Each row is a frame of 20 ms, and 3,000 frames are sampled. The 61 phones of TIMIT are mapped "
    "to 39 classes, of which rare ones are excluded. The test speakers are never in the training "
    "rows."
)
# Number of random assignments of groups to folds. The default of `jaxasr probe` is 1.
_SEEDS = ("--seeds", "3")
# The control task gives each speaker a random class.
_TYPES = ("--types", "speaker")

PROBES = (
    LabelProbe(
        name="gender-libri",
        title="Gender, LibriSpeech",
        manifest="libri_train100",
        label="gender",
        group="speaker",
        paper=_GENDER,
        note=_LIBRI,
    ),
    LabelProbe(
        name="gender-timit",
        title="Gender, TIMIT",
        manifest="timit",
        label="gender",
        group="speaker",
        options=(*_SEEDS, "--folds", "4", *_TYPES),
        paper=_GENDER,
        note=_TIMIT,
    ),
    LabelProbe(
        name="gender-ravdess",
        title="Gender, fixed sentences",
        manifest="ravdess",
        label="gender",
        group="speaker",
        options=(*_SEEDS, *_TYPES),
        paper=_GENDER,
        note=_RAVDESS,
    ),
    LabelProbe(
        name="dialect-timit",
        title="Dialect region, TIMIT",
        manifest="timit",
        label="accent",
        group="sentence",
        paper=_ACCENT,
        note=_REGION,
    ),
    LabelProbe(
        name="accent-alnum",
        title="Native language, addresses and digits read in English",
        manifest="alnum_l1",
        label="native_language",
        group="speaker",
        options=(*_SEEDS, "--folds", "4", "--min-count", "8"),
        paper=_ACCENT,
        note=_ALNUM,
    ),
    LabelProbe(
        name="speaker-fsdd",
        title="Speaker (and accent), spoken digits",
        manifest="fsdd",
        label="speaker",
        group="digit",
        note=_FSDD,
    ),
    LabelProbe(
        name="speaker-libri",
        title="Speaker, LibriSpeech",
        manifest="libri_test_other",
        label="speaker",
        options=(*_SEEDS, "--where", "noise=clean"),
        noise=True,
        note=_SEVEN_SPEAKERS,
    ),
    LabelProbe(
        name="noise-libri",
        title="Clean or in noise at 10 dB",
        manifest="libri_test_other",
        label="noise",
        group="speaker",
        options=(*_SEEDS, "--where", "noise=clean,snr:10:noise_esc10"),
        noise=True,
        paper=_CLEAN,
        note=_NOISE,
    ),
    LabelProbe(
        name="noise3-libri",
        title="Clean, at 10 dB or at 0 dB",
        manifest="libri_test_other",
        label="noise",
        group="speaker",
        options=_SEEDS,
        noise=True,
        paper=_CLEAN,
        note=_NOISE,
    ),
    LabelProbe(
        name="phone-timit",
        title="Phone of a frame, TIMIT",
        manifest="timit",
        label="phone",
        group="speaker",
        options=("--min-count", "40", "--max-rows", "3000"),
        note=_PHONE,
    ),
)
