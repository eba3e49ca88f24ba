"""Pairs recordings that a model transcribes badly with recordings that it transcribes correctly."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.analyses.text_kinds import error_rate
from experiments.data.corpora import Utterance
from experiments.studies.selection import language, set_of
from interventions.generation.transcripts import errors, words

# A recording whose generated text has errors, and a recording whose text has none.
Pair = tuple[Utterance, Utterance]


def n_words(clip: Utterance) -> int:
    """Counts the words of a recording's transcript.

    Example:
        >>> n_words(Utterance("a", "a.wav", transcript="Thank you, Ann."))
        3
    """
    return len(words(clip.transcript, language(clip)).split())


def error_rates(text: str, clip: Utterance) -> dict[str, float]:
    """Computes the rates of all errors and of inserted words, per word of the transcript.

    Example:
        >>> clip = Utterance("a", "a.wav", transcript="thank you", labels={"lang": "en"})
        >>> error_rates("thank you Ann", clip)
        {'errors': 0.5, 'insertions': 0.5}
    """
    counts = errors(text, clip.transcript, language(clip))
    return {
        "errors": error_rate(text, clip.transcript, language(clip)),
        "insertions": counts["insertions"] / counts["reference_words"],
    }


def speaker_or_id(clip: Utterance) -> str:
    """Returns the speaker's name, or the recording's id if the speaker is unknown.

    Example:
        >>> speaker_or_id(Utterance("a", "a.wav", speaker="Ann"))
        'Ann'
    """
    return clip.speaker or clip.id


def match_pairs(
    clips: Sequence[Utterance], rates: Mapping[str, float], max_ratio: float, n: int
) -> list[Pair]:
    """Pairs the worst recordings with error-free ones of about the same number of words.

    First, recordings of the same speaker are paired. Then speakers without a pair are paired with
    other such speakers of the same set. Cross-validation folds therefore split neither pairs nor
    speakers.

    Args:
        clips: recordings with transcripts.
        rates: error rate of the generated text, by recording id.
        max_ratio: largest ratio between the numbers of words in a pair.
        n: largest number of pairs.

    Returns:
        Pairs, sorted from the largest error rate. A recording is in at most one pair.
    """
    bad_clips = sorted(
        (clip for clip in clips if rates[clip.id] > 0), key=lambda clip: (-rates[clip.id], clip.id)
    )
    error_free_clips = [clip for clip in clips if rates[clip.id] == 0]
    pairs = _within_speakers(bad_clips, error_free_clips, max_ratio)
    pairs = _across_speakers(bad_clips, error_free_clips, pairs, max_ratio)
    return sorted(pairs, key=lambda pair: (-rates[pair[0].id], pair[0].id))[:n]


def _within_speakers(
    bad_clips: Sequence[Utterance], error_free_clips: Sequence[Utterance], max_ratio: float
) -> list[Pair]:
    pairs: list[Pair] = []
    for bad in bad_clips:
        used = {right.id for _, right in pairs}
        candidates = [
            clip
            for clip in error_free_clips
            if clip.speaker and clip.speaker == bad.speaker and clip.id not in used
        ]
        pairs += _pair_by_length(bad, candidates, max_ratio)
    return pairs


def _across_speakers(
    bad_clips: Sequence[Utterance],
    error_free_clips: Sequence[Utterance],
    pairs: list[Pair],
    max_ratio: float,
) -> list[Pair]:
    for bad in bad_clips:
        # `used` has speakers here, not recordings, so that no speaker is in two groups.
        used = {speaker_or_id(clip) for pair in pairs for clip in pair}
        if speaker_or_id(bad) in used:
            continue
        used.add(speaker_or_id(bad))
        candidates = [
            clip
            for clip in error_free_clips
            if set_of(clip) == set_of(bad) and speaker_or_id(clip) not in used
        ]
        pairs = pairs + _pair_by_length(bad, candidates, max_ratio)
    return pairs


def _pair_by_length(
    bad: Utterance, candidates: Sequence[Utterance], max_ratio: float
) -> list[Pair]:
    """Pairs a recording with the candidate of the nearest length in words; [] if none is near."""
    # The distance is the logarithm of the ratio, so that longer and shorter are treated alike.
    distances = {clip.id: abs(np.log(n_words(clip) / n_words(bad))) for clip in candidates}
    near = [clip for clip in candidates if distances[clip.id] <= np.log(max_ratio)]
    return [(bad, min(near, key=lambda clip: distances[clip.id]))] if near else []
