"""Makes inputs that may make a model repeat itself from a corpus, without random choices.

An input has one of three origins. An unmodified input is a recording of the corpus with the usual
prompt. A plausible channel is a change that happens in use: a telephone, overlapping speakers,
noise, a wrong language token, or previous text in the prompt. Synthetic damage is a change that
destroys the speech: reversed samples, exchanged bytes, or overdrive.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from numpy import concatenate, ndarray, zeros

from experiments.data.corpora import Corpus, Utterance
from experiments.data.real_speech import select_evenly
from experiments.studies.loops import changes
from experiments.studies.loops.known import known_loops
from experiments.studies.loops.sources import (
    CHANNEL,
    DAMAGE,
    UNMODIFIED,
    by_source,
    mixed_speech,
    sounds,
    speech,
)
from experiments.studies.nonspeech import source_of, synthetic_noises
from experiments.studies.selection import WINDOW_S, first_window, language
from interventions.corruptions import add
from jaxasr.config import N_SAMPLES, SAMPLE_RATE

# Language tokens that do not fit most recordings: frequent and rare languages of the training data.
WRONG_LANGUAGES = ("ja", "de", "ko", "es", "ar", "cy", "ru", "th", "yo", "en")
# Previous texts that repeat, as the previous text of a window does if the earlier window looped.
LOOPED_LINES = (" No,", " Oh,", " you", " Yeah,")
DETECT = "detect"  # value of `Candidate.language`: the model detects the language
_GAP_S = 0.3  # silence between joined recordings


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An input that may make a model repeat itself.

    Attributes:
        clip: the recording, with the labels `origin`, `source`, `recipe` and `kind`.
        language: code of the language token; "" for the language of the recording, or English.
            `DETECT`: the model detects the language.
        previous: the recording before `clip`, whose generated text precedes the prompt.
        line: text of an earlier loop, which precedes the prompt.
    """

    clip: Utterance
    language: str = ""
    previous: Utterance | None = None
    line: str = ""


def candidates(corpus: Corpus, multilingual: bool) -> list[Candidate]:
    """Lists inputs. The three origins alternate, and the most productive kinds come first.

    Args:
        corpus: the recordings. Recordings with the label `audio_periodic` are left out.
        multilingual: whether the model has language tokens.
    """
    clips = [clip for clip in corpus.utterances if not clip.label("audio_periodic")]
    usable = dataclasses.replace(corpus, utterances=tuple(clips))
    by_origin: list[list[Candidate]] = []
    for origin, (productive, rare) in _KINDS.items():
        known = [clip for clip in known_loops(corpus) if clip.label("origin") == origin]
        groups = [
            [item for kind in kinds for item in kind(usable, multilingual)]
            for kinds in (productive, rare)
        ]
        alternating = (select_evenly(group, len(group), _kind_of) for group in groups)
        by_origin.append([*map(Candidate, known), *itertools.chain(*alternating)])
    # The origins alternate while each has inputs left.
    rounds = itertools.zip_longest(*by_origin)
    return [item for row in rounds for item in row if item is not None]


def _kind_of(item: Candidate) -> str:
    return str(item.clip.label("kind"))


def changed(
    clip: Utterance,
    kind: str,
    origin: str,
    change: Callable[[ndarray], ndarray] | None = None,
    detail: str = "",
    *,
    keeps_words: bool = True,
) -> Utterance:
    """Labels a recording with its origin, and changes its first 30 s.

    Args:
        clip: the recording.
        kind: name of the change, such as "telephone".
        origin: one of `sources.ORIGINS`.
        change: function of samples; None leaves the recording as it is.
        detail: what else identifies the change, such as "factor 1.3".
        keeps_words: whether the transcript is still correct.
    """
    recipe = f"{kind}, {detail}" if detail else kind
    labels = {"origin": origin, "source": source_of(clip), "recipe": recipe, "kind": kind}
    clip_id = clip.id if origin == UNMODIFIED and not detail else f"{clip.id}|{recipe}"
    read = clip.samples if change is None else (lambda: change(first_window(clip)))
    return dataclasses.replace(
        clip,
        id=clip_id,
        transcript=clip.transcript if keeps_words else "",
        start_s=None,
        end_s=None,
        labels={**clip.labels, **labels},
        read=read,
    )


# Kinds of unmodified inputs.


def _foreign(corpus: Corpus, multilingual: bool) -> Iterator[Candidate]:
    for clip in speech(corpus, foreign=True):
        # An English-only model cannot write the words of another language.
        yield Candidate(changed(clip, "foreign", UNMODIFIED, keeps_words=multilingual))


def _nonspeech(corpus: Corpus, multilingual: bool) -> Iterator[Candidate]:
    for clip in sounds(corpus):
        yield Candidate(changed(clip, "non-speech", UNMODIFIED))


def _detected_nonspeech(corpus: Corpus, multilingual: bool) -> Iterator[Candidate]:
    for clip in sounds(corpus) if multilingual else ():
        labelled = changed(clip, "non-speech, language detected", UNMODIFIED)
        yield Candidate(dataclasses.replace(labelled, id=f"{clip.id}|detected"), DETECT)


def _later_windows(corpus: Corpus, multilingual: bool) -> Iterator[Candidate]:
    for clip in speech(corpus, foreign=True) + speech(corpus, foreign=False):
        n_windows = int(float(clip.label("duration_s") or 0) / WINDOW_S - 0.1) + 1
        for start_s in (WINDOW_S * i for i in range(1, n_windows)):
            name = f"from {start_s:g} s"
            late = changed(clip, "later window", UNMODIFIED, None, name, keeps_words=False)
            yield Candidate(dataclasses.replace(late, read=partial(_window, clip, start_s)))


# Kinds of plausible channels.


def _wrong_language(corpus: Corpus, multilingual: bool) -> Iterator[Candidate]:
    foreign = speech(corpus, foreign=True) if multilingual else []
    for shift in range(len(WRONG_LANGUAGES)):
        for position, clip in enumerate(foreign):
            code = WRONG_LANGUAGES[(position + shift) % len(WRONG_LANGUAGES)]
            if code != language(clip):
                detail, kind = f"{code} for {language(clip)}", "wrong language"
                wrong = changed(clip, kind, CHANNEL, None, detail, keeps_words=False)
                yield Candidate(wrong, code)


def _overlapping_speakers(corpus: Corpus, multilingual: bool) -> Iterator[Candidate]:
    by_name = by_source(corpus)
    names = list(by_name)
    for n, seconds in ((3, 6.0), (2, 12.0), (5, 6.0), (8, 6.0)):
        for i in range(0, len(names) - n + 1, n):
            # A clip that smaller groups have not used, if the speaker has several.
            group = [by_name[name][n % len(by_name[name])] for name in names[i : i + n]]
            mix = partial(_overlap, group, seconds)
            detail, kind = f"{n} speakers", "overlapping speakers"
            yield Candidate(changed(group[0], kind, CHANNEL, mix, detail, keeps_words=False))


def _foreign_in_noise(corpus: Corpus, multilingual: bool) -> Iterator[Candidate]:
    noises = sounds(corpus)
    for snr_db in (0, 5, -5):
        for position, clip in enumerate(speech(corpus, foreign=True) if noises else ()):
            sound = noises[position * 7 % len(noises)]
            mix, detail = partial(_mix, sound, snr_db), f"{snr_db} dB"
            yield Candidate(
                changed(clip, "foreign in noise", CHANNEL, mix, detail, keeps_words=multilingual)
            )


def _other_level(corpus: Corpus, multilingual: bool) -> Iterator[Candidate]:
    for decibels in (-20, 20):
        for clip in sounds(corpus):
            change, detail = partial(changes.gained, decibels=decibels), f"{decibels:+} dB"
            yield Candidate(changed(clip, "non-speech at another level", CHANNEL, change, detail))


def _faster(corpus: Corpus, multilingual: bool) -> Iterator[Candidate]:
    for position, clip in enumerate(mixed_speech(corpus)):
        factor = (1.3, 1.6)[position // 2 % 2]
        change, detail = partial(changes.faster, factor=factor), f"factor {factor}"
        yield Candidate(changed(clip, "faster", CHANNEL, change, detail))


def _telephone(corpus: Corpus, multilingual: bool) -> Iterator[Candidate]:
    for clip in mixed_speech(corpus):
        yield Candidate(changed(clip, "telephone", CHANNEL, changes.over_telephone))


def _continued(corpus: Corpus, multilingual: bool) -> Iterator[Candidate]:
    for clips in by_source(corpus).values():
        if sum(float(clip.label("duration_s") or 0) + _GAP_S for clip in clips) < WINDOW_S + 5:
            continue
        first, second = (
            dataclasses.replace(
                changed(clips[0], "after previous text", CHANNEL, None, name, keeps_words=False),
                read=partial(_joined_window, clips, index),
            )
            for index, name in enumerate(("first window", "second window"))
        )
        yield Candidate(second, previous=first)


def _after_loop(corpus: Corpus, multilingual: bool) -> Iterator[Candidate]:
    # English speech ends such a loop: 0 of 24 recordings looped in base.
    clips = [*(sounds(corpus) or synthetic_noises(24)), *speech(corpus, foreign=True)]
    alternating = select_evenly(clips, len(clips), lambda clip: bool(language(clip)))
    for position, clip in enumerate(alternating):
        line = LOOPED_LINES[position // 2 % len(LOOPED_LINES)]
        after = changed(clip, "after a loop", CHANNEL, None, line.strip(), keeps_words=multilingual)
        yield Candidate(after, line=line)


# Kinds of synthetic damage.


def _damaged(
    kind: str, change: Callable[[ndarray], ndarray]
) -> Callable[[Corpus, bool], Iterator[Candidate]]:
    def damage(corpus: Corpus, multilingual: bool) -> Iterator[Candidate]:
        for clip in mixed_speech(corpus):
            yield Candidate(changed(clip, kind, DAMAGE, change, keeps_words=False))

    return damage


# The kinds of each origin: productive ones, which alternate, and rare ones, which follow.
_KINDS = {
    UNMODIFIED: ((_foreign, _nonspeech, _detected_nonspeech, _later_windows), ()),
    CHANNEL: (
        (
            _overlapping_speakers,
            _after_loop,
            _foreign_in_noise,
            _other_level,
            _faster,
            _telephone,
            _wrong_language,
        ),
        (_continued,),
    ),
    DAMAGE: (
        (_damaged("reversed", changes.reverse),),
        (_damaged("bytes swapped", changes.swap_bytes), _damaged("overdriven", changes.overdrive)),
    ),
}


# Samples of inputs that are made of several recordings, or of a part of one.


def _window(clip: Utterance, start_s: float) -> ndarray:
    return clip.samples()[round(start_s * SAMPLE_RATE) :][:N_SAMPLES]


def _joined_window(clips: Sequence[Utterance], index: int) -> ndarray:
    gap = zeros(round(_GAP_S * SAMPLE_RATE), "float32")
    parts: list[ndarray] = []
    for clip in clips:
        parts += [clip.samples(), gap]
        if sum(map(len, parts)) > (index + 1) * N_SAMPLES:
            break
    return concatenate(parts)[index * N_SAMPLES : (index + 1) * N_SAMPLES]


def _overlap(group: Sequence[Utterance], seconds: float, audio: ndarray) -> ndarray:
    return changes.overlapping([audio, *(clip.samples() for clip in group[1:])], seconds)


def _mix(sound: Utterance, snr_db: float, audio: ndarray) -> ndarray:
    return add(audio, sound.samples(), snr_db)
