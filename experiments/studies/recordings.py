"""Selects clean speech for studies, as sentences whose word errors can be counted."""

from experiments.data.corpora import Corpus, Utterance
from experiments.data.real_speech import select_evenly
from experiments.studies.selection import (
    WINDOW_S,
    language,
    select_speech,
    set_of,
    supported_languages,
)
from interventions.generation.transcripts import words
from jaxasr import Recogniser

# Values of the label `speech_kind`; acted speech, spelling and digits are excluded.
_PLAIN_SPEECH = (None, "read", "TTS")


def clean_speech(
    corpus: Corpus, asr: Recogniser, n: int, max_new_tokens: int = 224, at_least_s: float = 2.0
) -> list[Utterance]:
    """Selects recordings of plain English sentences, spread evenly over the sets.

    Args:
        corpus: the recordings.
        asr: the model that will transcribe the recordings.
        n: largest number of recordings.
        max_new_tokens: largest number of tokens per text. Recordings with longer transcripts are
            excluded.
        at_least_s: smallest length in seconds.

    Returns:
        Recordings with transcripts.
    """
    english = supported_languages(asr, ["en"])
    clips = [
        clip
        for clip in select_speech(
            corpus, len(corpus), english, labelled=True, at_least_s=at_least_s
        )
        if _is_clean(clip) and _fits(clip, asr, max_new_tokens)
    ]
    return select_evenly(clips, n, set_of)


def _is_clean(clip: Utterance) -> bool:
    # Noisy copies of clean recordings have no label of their own, only the name of their set.
    noisy = str(set_of(clip)).endswith("noisy")
    incongruent = clip.label("target")  # a sentence of E5 with an unexpected word
    plain = clip.label("speech_kind") in _PLAIN_SPEECH
    return plain and not incongruent and not noisy and has_countable_words(clip, at_least=3)


def has_countable_words(clip: Utterance, at_least: int) -> bool:
    """Checks that errors of words can be counted in the text of a recording.

    Numbers are refused, because they have several spellings ("202" and "2, 0, 2"). Recordings that
    repeat themselves are refused, because their transcripts do not.

    Args:
        clip: a recording with a transcript.
        at_least: smallest number of words.

    Example:
        >>> clips = [Utterance("a", "a.wav", transcript=text) for text in ("gate 4", "no number")]
        >>> [has_countable_words(clip, at_least=2) for clip in clips]
        [False, True]
    """
    text = words(clip.transcript, language(clip) or "en")
    has_numbers = any(map(str.isdigit, text))
    return len(text.split()) >= at_least and not has_numbers and not clip.label("audio_periodic")


def _fits(clip: Utterance, asr: Recogniser, max_new_tokens: int) -> bool:
    """Checks that the recording fits into the window, and that its text fits into the token limit.

    The text may be 25 % longer than the transcript. The end of the text takes one more token.
    """
    n_tokens = 1.25 * len(asr.tokenizer.encode(clip.transcript)) + 1
    return float(clip.label("duration_s") or 0) <= WINDOW_S and n_tokens <= max_new_tokens
