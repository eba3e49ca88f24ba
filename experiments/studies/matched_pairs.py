"""Pairs recordings that a model transcribes badly with recordings that it transcribes correctly."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from experiments.analyses.text_kinds import error_rate
from experiments.data.corpora import Utterance
from experiments.studies.selection import language, set_of
from interventions.generation.transcripts import errors, words

# A recording whose generated text has errors, and a recording whose text has none.
Pair = tuple[Utterance, Utterance]
# Pairs a recording with one of several candidates; returns [] if none is suitable.
Nearest = Callable[[Utterance, Sequence[Utterance]], list[Pair]]
CONDITION = "snr_db"  # label of the signal-to-noise ratio of a noisy copy


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
    clips: Sequence[Utterance],
    rates: Mapping[str, float],
    max_ratio: float,
    n: int,
    worst: float = 1.0,
    condition: str = CONDITION,
) -> list[Pair]:
    """Pairs the worst recordings with error-free ones of about the same number of words.

    First, recordings of the same speaker are paired. Then speakers without a pair are paired with
    other such speakers of the same set. Cross-validation folds therefore split neither pairs nor
    speakers. Both recordings of a pair have the same value of the label `condition`, such as the
    same level of noise, so that the condition does not distinguish them.

    Args:
        clips: recordings with transcripts.
        rates: error rate of the generated text, by recording id.
        max_ratio: largest ratio between the numbers of words in a pair.
        n: largest number of pairs.
        worst: share of all recordings that may count as bad, those with the largest error rates.
        condition: a label.

    Returns:
        Pairs, sorted from the largest error rate. A recording is in at most one pair.
    """
    if not clips:
        return []
    least_rate = float(np.quantile([rates[clip.id] for clip in clips], 1 - worst))
    lengths = {clip.id: n_words(clip) for clip in clips}
    bad_clips = sorted(
        (clip for clip in clips if rates[clip.id] > 0 and rates[clip.id] >= least_rate),
        key=lambda clip: (-rates[clip.id], clip.id),
    )
    error_free_clips = [clip for clip in clips if rates[clip.id] == 0]

    def nearest(bad: Utterance, candidates: Sequence[Utterance]) -> list[Pair]:
        """Pairs a recording with the candidate of the nearest length; [] if none is near."""
        # The distance is the logarithm of the ratio, so that longer and shorter are treated alike.
        distances = {
            clip.id: abs(np.log(lengths[clip.id] / lengths[bad.id]))
            for clip in candidates
            if clip.label(condition) == bad.label(condition)
        }
        near = [clip for clip in candidates if distances.get(clip.id, np.inf) <= np.log(max_ratio)]
        return [(bad, min(near, key=lambda clip: distances[clip.id]))] if near else []

    pairs = _within_speakers(bad_clips, error_free_clips, nearest)
    pairs = _across_speakers(bad_clips, error_free_clips, pairs, nearest)
    return sorted(pairs, key=lambda pair: (-rates[pair[0].id], pair[0].id))[:n]


def _within_speakers(
    bad_clips: Sequence[Utterance], error_free_clips: Sequence[Utterance], nearest: Nearest
) -> list[Pair]:
    pairs: list[Pair] = []
    for bad in bad_clips:
        used = {right.id for _, right in pairs}
        candidates = [
            clip
            for clip in error_free_clips
            if clip.speaker and clip.speaker == bad.speaker and clip.id not in used
        ]
        pairs += nearest(bad, candidates)
    return pairs


def _across_speakers(
    bad_clips: Sequence[Utterance],
    error_free_clips: Sequence[Utterance],
    pairs: list[Pair],
    nearest: Nearest,
) -> list[Pair]:
    # `used` has speakers here, not recordings, so that no speaker is in two groups.
    used = {speaker_or_id(clip) for pair in pairs for clip in pair}
    for bad in bad_clips:
        if speaker_or_id(bad) in used:
            continue
        candidates = [
            clip
            for clip in error_free_clips
            if set_of(clip) == set_of(bad)
            and speaker_or_id(clip) not in used | {speaker_or_id(bad)}
        ]
        new_pairs = nearest(bad, candidates)
        used |= {speaker_or_id(clip) for pair in new_pairs for clip in pair}
        pairs = pairs + new_pairs
    return pairs
