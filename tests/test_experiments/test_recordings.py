"""Clean speech is made of sentences that can be written, and counted, in one way."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.data.corpora import Corpus, Utterance, open_corpus
from experiments.studies import recordings
from interventions.generation.transcripts import errors

ASR = SimpleNamespace(
    tokenizer=SimpleNamespace(is_multilingual=False, encode=str.split)
)  # a word is a token
SENTENCE = "the ship sailed on at seven"


def clip(name: str, transcript: str = SENTENCE, **labels: object) -> Utterance:
    kind = {"set": "a", "lang": "en", "duration_s": 3.0, "speech_kind": "read"}
    return Utterance(name, Path(name), transcript=transcript, labels=kind | labels)


def ids(*clips: Utterance, n: int = 99, **options: int) -> list[str]:
    return [one.id for one in recordings.clean(Corpus("x", "manifest", clips), ASR, n, **options)]


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
        (SENTENCE, {"lang": "de"}),
        (SENTENCE, {"duration_s": 1.0}),
        (SENTENCE, {"duration_s": 31.0}),
        (" ".join([SENTENCE] * 7), {}),
    ],
)
def test_what_is_not_clean(transcript, labels):
    assert ids(clip("good"), clip("bad", transcript, **labels), max_new_tokens=48) == ["good"]


def test_a_text_that_needs_room_needs_it():
    whole = clip(
        "whole", " ".join([SENTENCE] * 7)
    )  # 42 tokens, of which a fourth more and the end make 54
    assert ids(whole, max_new_tokens=53) == []
    assert ids(whole, max_new_tokens=54) == ["whole"]


def test_sets_take_turns():
    clips = [clip(f"{name}{n}", set=name) for name in "ab" for n in range(4)]
    assert [one[0] for one in ids(*clips, n=4)] == list("abab")


def test_clean_speech_of_the_data_folder_is_read_right(asr, data_dir):
    """Word error rates of these sets are 2.5 to 12.8 %."""
    clips = recordings.clean(open_corpus(data_dir), asr, 12, 56)
    assert {"fsdd", "alnum_l1", "pico_intent", "vctk_noisy"}.isdisjoint(
        one.label("set") for one in clips
    )
    rates = [errors(asr.transcribe(clip.samples()).text, clip.transcript)["wer"] for clip in clips]
    assert sum(rates) / len(rates) < 0.13
