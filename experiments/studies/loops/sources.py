"""Selects the recordings that inputs are made from, and names their origins."""

from experiments.data.corpora import Corpus, Utterance
from experiments.data.real_speech import select_evenly
from experiments.studies.nonspeech import nonspeech, source_of
from experiments.studies.selection import language, select_speech, set_of

ORIGINS = ("unmodified", "plausible channel", "synthetic damage")
UNMODIFIED, CHANNEL, DAMAGE = ORIGINS
# Parts of the label `speech_kind` of speech whose words may repeat.
_MAY_REPEAT = ("digit", "spelled", "phonation", "keyword")


def speech(corpus: Corpus, *, foreign: bool) -> list[Utterance]:
    """Selects recordings of sentences in other languages than English, or in English.

    Sets alternate. Recordings of known loops come first.
    """
    clips = [
        clip
        for clip in select_speech(corpus, len(corpus))
        if (language(clip) != "en") is foreign
        and not any(word in str(clip.label("speech_kind")) for word in _MAY_REPEAT)
        and not _is_trigger(clip)
    ]
    return sorted(select_evenly(clips, len(clips), set_of), key=_is_not_known_to_loop)


def mixed_speech(corpus: Corpus) -> list[Utterance]:
    """Selects recordings of speech, one of each speaker first; foreign ones and English alternate.

    English recordings shorter than 2 s are left out.
    """
    by_name = by_source(corpus)
    longest = max(map(len, by_name.values()), default=0)
    english = [clips[i] for i in range(longest) for clips in by_name.values() if i < len(clips)]
    both = [*speech(corpus, foreign=True), *english]
    return select_evenly(both, len(both), lambda clip: language(clip) == "en")


def by_source(corpus: Corpus) -> dict[str, list[Utterance]]:
    """Groups English recordings of at least 2 s by their independent source."""
    groups: dict[str, list[Utterance]] = {}
    for clip in speech(corpus, foreign=False):
        if float(clip.label("duration_s") or 2) >= 2:
            groups.setdefault(source_of(clip), []).append(clip)
    return groups


def sounds(corpus: Corpus) -> list[Utterance]:
    """Selects recordings without speech and without human voices, whose correct text is empty."""
    ids = {clip.id for clip in nonspeech(corpus, len(corpus))}
    clips = [clip for clip in corpus.utterances if clip.id in ids and not _is_trigger(clip)]
    return sorted(select_evenly(clips, len(clips), set_of), key=_is_not_known_to_loop)


def _is_trigger(clip: Utterance) -> bool:
    return str(clip.label("speech_kind")).startswith("trigger:")


def _is_not_known_to_loop(clip: Utterance) -> bool:
    # The labels name the loops that others found in tiny.en and base.
    return not (clip.label("loops_tiny_en") or clip.label("loops_base"))
