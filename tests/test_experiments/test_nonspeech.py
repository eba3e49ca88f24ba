"""Recordings without speech have no human voice, and their sources are known."""

from pathlib import Path

import pytest

from experiments.data.corpora import Corpus, Utterance, open_corpus
from experiments.studies.nonspeech import nonspeech, nonspeech_or_noise, source_of, synthetic_noises


def sound(name: str, noise_class: str = "rain", **labels: object) -> Utterance:
    known = {"noise_class": noise_class, "speech_kind": "non-speech", "set": "a"}
    return Utterance(name, Path(name), labels=known | labels)


def selected_ids(*clips: Utterance, n: int = 99) -> list[str]:
    return [clip.id for clip in nonspeech(Corpus("x", "manifest", clips), n)]


@pytest.mark.parametrize(
    "refused",
    [
        sound("bad", "baby cry"),
        sound("bad", "crying_baby"),
        sound("bad", "person sneeze"),
        sound("bad", "cafe babble"),
        sound("bad", "dude miaowing"),
        sound("bad", "unlabelled"),
        sound("bad", "street music"),
        sound("bad", "children playing"),
        sound("bad", "rain", voice=True),
        sound("bad", "room impulse response", speech_kind=None),
        sound("bad", "rain", speech_kind="rir"),
        sound("bad", "music", speech_kind="singing"),
        sound("bad", "rain", lang="en"),
        sound("bad", "", speech_kind="trigger:loop:nonspeech"),
    ],
    ids=lambda clip: f"{clip.label('noise_class')}-{clip.label('speech_kind')}",
)
def test_recordings_that_may_have_a_voice_are_refused(refused):
    assert selected_ids(sound("good"), refused) == ["good"]


def test_the_label_voice_decides_if_it_is_known():
    assert selected_ids(sound("a", "children playing", voice=False)) == ["a"]


def test_different_sources_and_classes_come_first():
    clips = [
        sound("a1", freesound_id="1"),
        sound("a2", freesound_id="1"),
        sound("b", freesound_id="2"),
        sound("c", "siren", freesound_id="3"),
    ]
    assert selected_ids(*clips) == ["a1", "c", "b", "a2"]
    assert selected_ids(*clips, n=3) == ["a1", "c", "b"]


def test_without_such_recordings_synthetic_noises_are_used():
    corpus = Corpus("x", "manifest", (Utterance("a", Path("a.wav"), labels={"lang": "en"}),))
    assert [clip.id for clip in nonspeech_or_noise(corpus, 2)] == ["white-0.1-0", "pink-0.1-1"]


def test_synthetic_noise_has_its_level_and_never_changes():
    quiet = synthetic_noises(6, seconds=0.5)[3]
    samples = quiet.samples()
    assert len(samples) == 8_000
    assert (samples**2).mean() ** 0.5 == pytest.approx(0.01)
    assert (samples == quiet.samples()).all()


def test_the_sounds_of_the_data_folder_have_no_voice(data_dir):
    clips = nonspeech(open_corpus(data_dir), 999)
    assert len(clips) > 60
    assert not {"dev/noise_long/cafe_short.flac", "dev/rirs/sb_rir1.flac"} & {c.id for c in clips}
    assert not any("baby" in clip.id or "sneeze" in clip.id or "vocal" in clip.id for clip in clips)
    assert not any("karissa_hobbs" in clip.id for clip in clips)  # a song


def test_a_recording_that_a_recipe_made_has_the_source_of_its_recording(data_dir):
    made = [clip for clip in open_corpus(data_dir).utterances if clip.label("set") == "triggers"]
    by_name = {clip.label("source"): source_of(clip) for clip in made}
    assert by_name["recipe d0674_speech_noise"] == "rav10"
    assert by_name["recipe d0045_nonspeech"].startswith("freesound ")
    assert not {clip.id for clip in made} & set(by_name.values())
