"""Clean speech consists of sentences with only one correct transcript."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import jaxasr
from experiments.data.corpora import Corpus, Utterance, open_corpus
from experiments.studies import recordings
from experiments.studies.selection import set_of
from interventions.generation.transcripts import errors

# A stand-in for a model whose tokens are words.
TOKENIZER = SimpleNamespace(is_multilingual=False, encode=str.split)
ASR = cast(Any, SimpleNamespace(tokenizer=TOKENIZER, config=jaxasr.SIZES["tiny.en"]))
SENTENCE = "the ship sailed on at noon"


def clip(name: str, transcript: str = SENTENCE, **labels: object) -> Utterance:
    kind = {"set": "a", "lang": "en", "duration_s": 3.0, "speech_kind": "read"}
    return Utterance(name, Path(name), transcript=transcript, labels=kind | labels)


def selected_ids(*clips: Utterance, n: int = 99, **options: int) -> list[str]:
    selected = recordings.clean_speech(Corpus("x", "manifest", clips), ASR, n, **options)
    return [utterance.id for utterance in selected]


@pytest.mark.parametrize(
    ("transcript", "labels"),
    [
        ("one two three four five", {"speech_kind": "TTS"}),
        ("forty eight ridge road four zero seven", {"speech_kind": "spelled addresses"}),
        ("seven", {"speech_kind": "isolated digit"}),
        ("", {}),
        (SENTENCE, {"speech_kind": "acted"}),
        (SENTENCE, {"target": "ship"}),
        (SENTENCE, {"set": "a_noisy"}),
        (SENTENCE.replace("noon", "seven"), {}),
        (SENTENCE, {"audio_periodic": True}),
        (SENTENCE, {"lang": "de"}),
        (SENTENCE, {"duration_s": 1.0}),
        (SENTENCE, {"duration_s": 31.0}),
        (" ".join([SENTENCE] * 7), {}),
    ],
)
def test_recordings_that_are_not_clean_are_excluded(transcript, labels):
    clips = (clip("good"), clip("bad", transcript, **labels))
    assert selected_ids(*clips, max_new_tokens=48) == ["good"]


def test_a_text_may_take_a_quarter_more_tokens_and_the_end_of_text():
    # The transcript has 42 tokens, and a quarter more and the end of text are 53.5 tokens.
    long = clip("long", " ".join([SENTENCE] * 7))
    assert selected_ids(long, max_new_tokens=53) == []
    assert selected_ids(long, max_new_tokens=54) == ["long"]


def test_sets_alternate():
    clips = [clip(f"{name}{n}", set=name) for name in "ab" for n in range(4)]
    assert [name[0] for name in selected_ids(*clips, n=4)] == list("abab")


def test_clean_speech_of_the_data_folder_is_transcribed_correctly(asr, data_dir):
    """Word error rates of these sets are 2.5 to 12.8 %."""
    clips = recordings.clean_speech(open_corpus(data_dir), asr, n=12, max_new_tokens=56)
    unsuitable = {"fsdd", "alnum_l1", "pico_intent", "vctk_noisy"}
    assert unsuitable.isdisjoint(map(set_of, clips))
    texts = [asr.transcribe(utterance.samples()).text for utterance in clips]
    rates = [errors(text, clip.transcript)["wer"] for text, clip in zip(texts, clips)]
    assert sum(rates) / len(rates) < 0.13
